"""Names of label values in public tables, and names as the configuration takes them."""

from __future__ import annotations

import csv
import json
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from flare23_lib.config.cohort_models import BACKGROUND, IGNORE
from flare23_lib.errors import FlareError
from flare23_lib.io.anatomy import SYNONYMS
from flare23_lib.labels import RESERVED

log = logging.getLogger(__name__)

TABLE = re.compile(r"(label|class|lut|color).*\.(json|csv|tsv|txt)$")
"""Names of files that may name label values; other tables, such as lists of patients, hold numbers too."""


UNNAMED = re.compile(r"(^|_)label_\d+$")
"""Names of values that no table names."""

SIDE = re.compile(r"(^|_)(left|right|lt?|rt?|links|rechts|linke|rechte|dx|sx|destra|sinistra|gauche|droite?)(_|$)")
"""Words in names that tell right from left, in some languages."""


def _without_accents(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


def identifier(text: str) -> str:
    """Return a name as the configuration takes it."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _without_accents(text))  # KidneyLeft
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    name = re.sub(r"^(.+)_(left|right|lt?|rt?)$", r"\2_\1", name)
    name = re.sub(r"^(l|r)(?:t|eft|ight)?_", lambda match: f"{'left' if match[1] == 'l' else 'right'}_", name)
    side = next((side for side in ("left_", "right_") if name.startswith(side)), "")
    words = name.removeprefix(side).replace("_", " ")
    name = side + SYNONYMS.get(words, words).replace(" ", "_")
    return name if name and name[0].isalpha() and name not in RESERVED else f"label_{name}".rstrip("_")


def name_of(value: int, text: str) -> str:
    """Return a value's name as the configuration takes it; `label_VALUE` if the name has letters of other scripts.

    nnU-Net's `ignore` and `background` are what they are in the configuration.
    """
    if text.strip().lower() in (IGNORE, BACKGROUND):
        return text.strip().lower()
    return identifier(text) if _without_accents(text).isascii() else f"label_{value}"


def has_sides(names: Collection[str]) -> bool:
    """Return whether one of some names tells right from left, or may do so, as it only has a number."""
    alike = any(name.startswith("l") and f"r{name[1:]}" in names for name in names)  # lkidney and rkidney
    return alike or any(SIDE.search(name) or UNNAMED.search(name) for name in names)


def names_of_values(folder: Path, present: Collection[int] | None = None) -> dict[int, str]:
    """Return names of values from dataset.json, a table of two columns or ITK-SNAP's label file; empty without.

    With the values that are present in labels, if any, a table that names none of them is passed over. nnU-Net's
    regions, of several values each, name none.
    """
    tables = [path for path in sorted(folder.iterdir()) if TABLE.search(path.name.lower())]
    for path in [path for path in (folder / "dataset.json", *tables) if path.is_file()]:
        try:
            text = path.read_text(encoding="utf-8-sig")
            found = _from_json(json.loads(text), path) if path.suffix == ".json" else _from_table(text)
        except (OSError, ValueError, csv.Error, FlareError) as error:
            log.warning("%s: names no values, as it cannot be read (%s)", path, error)
            continue
        if found and (not present or any(value in found for value in present)):
            return {value: name_of(value, name) for value, name in found.items() if value > 0}
    return {}


def _from_json(content: object, path: Path) -> dict[int, str]:
    labels = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        return {}
    rows: Iterable[tuple[object, object]] = labels.items()
    regions = [f"{name} {value}" for name, value in rows if isinstance(value, list)]
    if regions and path.name == "dataset.json":  # in other tables a list may be a color
        log.warning("%s: regions of several values are not taken (%s)", path, "; ".join(regions))
    return _values((value, name) if str(value).isdigit() else (name, value) for value, name in rows)


def _from_table(text: str) -> dict[int, str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and lines[0].split()[0].isdigit() and lines[0].count('"') == 2:  # ITK-SNAP: IDX R G B A VIS MSH "NAME"
        return _values((line.split()[0], line.split('"')[1]) for line in lines if line.count('"') == 2)
    found: dict[int, str] = {}
    for row in csv.reader(lines, delimiter=";" if ";" in text else "," if "," in text else "\t"):
        number = next((cell for cell in row if cell.strip().isdigit()), None)
        name = next((cell for cell in row if re.search("[A-Za-z]", cell)), None)
        if number is not None and name is not None:
            found[int(number)] = name
    return found


def _values(rows: Iterable[tuple[object, object]]) -> dict[int, str]:
    """Return the rows whose value is a whole number."""
    return {int(str(value)): str(name) for value, name in rows if str(value).isdigit()}
