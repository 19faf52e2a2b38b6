"""SNOMED CT codes of structures, for tables that 3D Slicer reads and for DICOM segmentations.

Codes are those of DICOM's context groups (PS3.16), as pydicom's dictionaries have them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "SCT"
"""Coding scheme of SNOMED CT in DICOM."""

OWN_SCHEME = "99FLARE23"
"""Private coding scheme of structures that the table here does not name."""


@dataclass(frozen=True)
class Code:
    """A coded concept: value, meaning and coding scheme."""

    value: str
    meaning: str
    scheme: str = SCHEME


@dataclass(frozen=True)
class Anatomy:
    """A structure by its category (such as "Anatomical Structure"), its type, and its side, None where it has
    none."""

    category: Code
    type: Code
    modifier: Code | None = None


STRUCTURE = Code("123037004", "Anatomical Structure")
ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
SIDES = {"right": Code("24028007", "Right"), "left": Code("7771000", "Left")}

_ORGANS = {
    "adrenal gland": ("23451007", "Adrenal gland"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"),
    "colon": ("71854001", "Colon"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "gallbladder": ("28231008", "Gallbladder"),
    "heart": ("80891009", "Heart"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"),
    "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"),
    "rectum": ("34402009", "Rectum"),
    "small intestine": ("30315005", "Small intestine"),
    "spinal cord": ("2748008", "Spinal cord"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
    "trachea": ("44567001", "Trachea"),
    "uterus": ("35039007", "Uterus"),
}
_LESIONS = {
    "cyst": ("367643001", "Cyst"),
    "lesion": ("52988006", "Lesion"),
    "tumor": ("108369006", "Neoplasm"),
}
SYNONYMS = {
    "adrenal": "adrenal gland",
    "adrenal glands": "adrenal gland",
    "arota": "aorta",
    "cancer": "tumor",
    "gall bladder": "gallbladder",
    "ivc": "inferior vena cava",
    "kidneys": "kidney",
    "neoplasm": "tumor",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "tumour": "tumor",
    "urinary bladder": "bladder",
}
"""Names in public label tables -> those of the tables here."""

_TUMORS = re.compile(
    "tumor|tumour|cancer|lesion|metasta|neoplasm|nodule|cyst|carcinoma|sarcoma|lymphoma|(^|_)(hcc|pdac|mass|gtv)(_|$)"
)
"""What names of tumors contain, such as `liver_tumor`."""


def anatomy_of(name: str) -> Anatomy | None:
    """Return the codes of a structure by its name, such as `right_kidney` or `kidney_left`; None if unknown."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    sides = [word for word in words if word in SIDES]
    key = " ".join(word for word in words if word not in SIDES)
    key = SYNONYMS.get(key, key)
    if len(sides) > 1 or key not in _ORGANS | _LESIONS:
        return None
    category = STRUCTURE if key in _ORGANS else ABNORMAL
    return Anatomy(category, Code(*(_ORGANS | _LESIONS)[key]), SIDES[sides[0]] if sides else None)


def codes_of(name: str, is_tumor: bool = False) -> Anatomy:
    """Return the codes of a structure; a private code with the name as its meaning where `anatomy_of` knows none."""
    return anatomy_of(name) or Anatomy(ABNORMAL if is_tumor else STRUCTURE, Code(name[:16], name[:64], OWN_SCHEME))


def is_tumor(name: str, kind: str | None = None) -> bool:
    """Tell whether a structure is a tumor: by its kind or, if that is not known, by its name."""
    return kind == "tumor" if kind is not None else _TUMORS.search(re.sub(r"\W", "_", name.lower())) is not None
