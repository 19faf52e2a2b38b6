"""The label map: which structures there are, how they are stored, trained and scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare23_lib.choices import LabelKind, Scored
from flare23_lib.errors import ConfigError, ImageError

IGNORE_VALUE = 255
"""Value of voxels that the loss ignores, in the label files we write."""

RESERVED = ("background", "ignore", "organs")
"""Names that nnU-Net's dataset.json has for voxels without a label, and our tables for the mean."""


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        name: as it appears in tables and file headers.
        value: the integer that stands for it in label files (1 to 254).
        kind: "organ" or "tumor"; the tables give tumors apart and a merge may treat them apart.
        tolerance_mm: tolerance of the normalized surface Dice.
        scored: "volume", or "reference_slices" for structures that are scored only between the first and
            the last slice in which the reference holds them.
    """

    name: str
    value: int
    kind: LabelKind = "organ"
    tolerance_mm: float = 2.0
    scored: Scored = "volume"


@dataclass(frozen=True)
class LabelMap:
    """The labels in the order of the configuration.

    A *value* is what files hold, an *index* what networks use: 0 is background, the labels follow from 1 in
    the order of the map, and the index after the last stands for voxels to ignore.

    Raises:
        ConfigError: a name or a value occurs twice, or a name is reserved.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        for field in ("name", "value"):
            seen = [getattr(label, field) for label in self.labels]
            for item in seen:
                if seen.count(item) > 1:
                    raise ConfigError(f"labels: the {field} {item!r} is given twice")
        for label in self.labels:
            if label.name in RESERVED:
                raise ConfigError(f"labels: the name {label.name!r} is reserved")

    @property
    def names(self) -> list[str]:
        """The names in order."""
        return [label.name for label in self.labels]

    @property
    def values(self) -> list[int]:
        """The file values in order."""
        return [label.value for label in self.labels]

    @property
    def organs(self) -> list[Label]:
        """The labels that are organs."""
        return [label for label in self.labels if label.kind == "organ"]

    @property
    def tumors(self) -> list[Label]:
        """The labels that are tumors."""
        return [label for label in self.labels if label.kind == "tumor"]

    def value_of(self, name: str) -> int:
        """Return the value of a named label; ConfigError if there is none."""
        for label in self.labels:
            if label.name == name:
                return label.value
        raise ConfigError(f"there is no label {name!r}; the labels are {', '.join(self.names)}")

    def name_of(self, value: int) -> str:
        """Return the name of a value; "background" for 0, the number itself if unknown."""
        names = {
            0: "background",
            IGNORE_VALUE: "ignore",
            **{label.value: label.name for label in self.labels},
        }
        return names.get(value, str(value))

    def restricted(self, values: Iterable[int]) -> LabelMap:
        """Return the map without the labels whose values are not among those given."""
        kept = set(map(int, values))
        return LabelMap(tuple(label for label in self.labels if label.value in kept))


def label_indices(volume: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn a label volume of file values into one of network indices (uint8, same shape).

    Args:
        volume: whole numbers.
        values: the label values in order; the first has index 1, voxels to ignore the index after the last.

    Raises:
        ImageError: a voxel holds another value than these, 0 and 255.
    """
    table, known = np.zeros(256, dtype=np.uint8), np.zeros(256, dtype=bool)
    table[list(values)] = np.arange(1, len(values) + 1)
    table[IGNORE_VALUE] = len(values) + 1
    known[[0, IGNORE_VALUE, *values]] = True
    if volume.size and (volume.min() < 0 or volume.max() > IGNORE_VALUE):
        raise ImageError(f"label values from {volume.min()} to {volume.max()} are outside 0 to 255")
    if not all(known[plane].all() for plane in volume):
        unknown = sorted({int(value) for value in np.unique(volume)} - {0, IGNORE_VALUE, *values})
        raise ImageError(f"label values {unknown} are not in the label map")
    return np.ascontiguousarray(table[volume])


# Soft labels: where a teacher hesitates between two classes, both label values and the share of the first, in 255ths,
# as bytes of one number; 0 where the label alone counts.

SOFT_LABELS = ".soft.nii.gz"
"""End of the name of the file of soft labels, beside the `.nii.gz` of the labels."""


SOFT_CHANNELS = 4
"""Channels of soft labels in training: the label, the first and the second class, and the share of the first in
255ths, which is 0 where the label alone counts."""


def soft_file(labels: Path) -> Path:
    """Return the file of soft labels beside one of labels."""
    return labels.with_name(labels.name.removesuffix(".nii.gz") + SOFT_LABELS)


def pack_soft(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return soft labels, int32, of two label values and the share of the first (0 to 255) in each voxel."""
    return share.astype(np.int32) << 16 | second.astype(np.int32) << 8 | first


def unpack_soft(soft: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two label values and the share of the first in each voxel of soft labels, uint8 each."""
    first, second, share = ((soft >> bits & 255).astype(np.uint8) for bits in (0, 8, 16))
    return first, second, share
