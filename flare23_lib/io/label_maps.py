"""Label maps of any source, read into our values: the one place where a source's numbers become ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flare23_lib.axes import CONNECTIVITY
from flare23_lib.errors import ImageError, listed
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import Volume, read_labels
from flare23_lib.io.patterns import MASK
from flare23_lib.labels import IGNORE_VALUE

Target = int | tuple[int, int]
"""One of our values, or the two of a structure's right and left side."""

MIN_CROSSING_SHARE = 0.1
"""Of a component's voxels on its smaller side, above which it lies across the middle."""

MIN_COMPONENT_SHARE = 0.1
"""Of a structure's voxels, below which a component is not considered for sides."""

SAME_SIDE_MM = 60.0
"""Components of one side are no further apart than this, left to right; a kidney is about 60 mm wide."""


@dataclass(frozen=True)
class ValueTable:
    """What a source's values or masks stand for: ours, by the source's value as text or by the name of a mask."""

    targets: Mapping[str, Target]

    @classmethod
    def parse(cls, text: str) -> ValueTable | None:
        """Read what `text` holds; None for an empty text, which stands for a source with our own values."""
        if not text:
            return None
        rows = json.loads(text)
        return cls({name: tuple(target) if isinstance(target, list) else target for name, target in rows})

    @property
    def text(self) -> str:
        """The table as a short text, in its order."""
        return json.dumps(list(self.targets.items()), separators=(",", ":"))

    @property
    def digest(self) -> str:
        """What tells this table from another."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def has_sides(self) -> bool:
        """Whether a structure is divided into right and left."""
        return any(isinstance(target, tuple) for target in self.targets.values())

    def unknown(self, values: Mapping[int, int] | list[int]) -> list[int]:
        """Return the values that the table does not have, sorted; 0 is unlabeled, and 255 to be passed over."""
        return sorted(value for value in values if value not in (0, IGNORE_VALUE) and str(value) not in self.targets)

    def target(self, value: int) -> Target:
        """Return what a value stands for: 0 where the table does not have it, but for 255."""
        return self.targets.get(str(value), IGNORE_VALUE if value == IGNORE_VALUE else 0)

    def counts(self, voxels: Mapping[int, int]) -> dict[int, int]:
        """Return voxels by our value from those by the source's, for a table without sides; 0 is left out."""
        found: dict[int, int] = {}
        for value, count in voxels.items():
            target = self.target(value)
            if isinstance(target, int) and target:
                found[target] = found.get(target, 0) + count
        return found


@dataclass(frozen=True)
class LabelFiles:
    """A case's label as its source keeps it: a path, with `{mask}` in it where there is a file per class, and the
    text of the source's `ValueTable`, empty for our own values."""

    path: Path
    mapping: str = ""

    @property
    def table(self) -> ValueTable | None:
        """The source's table; None for our own values."""
        return ValueTable.parse(self.mapping)

    @property
    def has_masks(self) -> bool:
        """Whether there is a file per class."""
        return MASK in str(self.path)

    def mask_files(self) -> dict[str, Path]:
        """Return the files of the masks that the table has and that are there, in the table's order; a dead link is
        there and cannot be read."""
        table = self.table
        paths = {name: Path(str(self.path).replace(MASK, name)) for name in (table.targets if table else ())}
        return {name: path for name, path in paths.items() if path.exists() or path.is_symlink()}

    @property
    def first_file(self) -> Path:
        """The file or, of masks, the first that is there."""
        return next(iter(self.mask_files().values()), self.path) if self.has_masks else self.path

    @property
    def files_identity(self) -> str:
        """What tells one version of the file or of the masks from another; ImageError if one cannot be read."""
        if not (self.has_masks and (masks := self.mask_files())):
            return file_identity(self.path)
        identities = [f"{name} {file_identity(path)}" for name, path in masks.items()]
        return hashlib.sha256("\n".join(identities).encode()).hexdigest()[:24]


def label_id(identity: str, table: ValueTable | None) -> str:
    """Return what tells a label in our values from another, by its file's identity and its source's table."""
    return f"{identity}-{table.digest}" if table and identity else identity


@dataclass(frozen=True)
class LabelVolume(Volume):
    """Labels in our values, and of masks that lost voxels to later rows of the table, which stand for something else,
    how many, and how many they had."""

    lost: Mapping[str, list[int]] = field(default_factory=dict)


def read_label_map(label: LabelFiles | Path | str) -> LabelVolume:
    """Read a case's labels in our values, from a file of them or as its source keeps them (`Case.label_files`).

    Returns:
        An integer array (z, y, x) with the geometry and header of the file, or of the first mask.

    Raises:
        ImageError: as `nifti.read_labels`; a value that the source's table does not have, masks of different
            geometry, or a structure whose sides are unclear.
    """
    if not isinstance(label, LabelFiles):
        label = LabelFiles(Path(label))
    table = label.table
    if label.has_masks:
        return _read_masks(label, table)
    volume = read_labels(label.path)
    if table is None:
        return LabelVolume(volume.array, volume.geometry, volume.header)
    values = [int(value) for value in np.unique(volume.array)]
    if unknown := table.unknown(values):
        voxels = {value: int(np.count_nonzero(volume.array == value)) for value in unknown}
        raise ImageError(f"{label.path}: {unknown_values(unknown, voxels)}", "unknown_label_values")
    mapped = np.zeros(volume.array.shape, np.uint8)
    for value in filter(None, values):
        _put(mapped, volume.array == value, table.target(value), f"{label.path}: value {value}", volume)
    return LabelVolume(mapped, volume.geometry, volume.header)


def unknown_values(
    values: Iterable[int], voxels: Mapping[int, int], place: str = "the `values` of its source"
) -> str:
    """Return what is wrong with values that a table does not have; `voxels` are those per value."""
    counted = [f"{value} ({voxels[value]} voxel{'s' * (voxels[value] != 1)})" for value in values]
    return f"has the values {listed(counted)}, which are not in {place}"


def _read_masks(label: LabelFiles, table: ValueTable | None) -> LabelVolume:
    files = label.mask_files()
    if table is None or not files:
        raise ImageError(f"{label.path}: none of the masks is there", "cannot_be_read")
    first = read_labels(next(iter(files.values())))
    mapped, owners = np.zeros(first.array.shape, np.uint8), np.zeros(first.array.shape, np.uint16)
    names, lost = list(files), {name: [0, 0] for name in files}
    for index, (name, path) in enumerate(files.items(), start=1):
        volume = read_labels(path)
        if difference := first.geometry.difference(volume.geometry):
            kind = "shape_mismatch" if volume.array.shape != mapped.shape else "affine_mismatch"
            raise ImageError(f"{path}: does not lie on the other masks: {difference}", kind)
        mask = volume.array != 0
        before = owners[mask]
        owners[mask] = index
        lost[name][1] = before.size
        for owner, count in zip(names, np.bincount(before[before > 0])[1:].tolist(), strict=False):
            if table.targets[owner] not in (0, table.targets[name]):
                lost[owner][0] += count
        _put(mapped, mask, table.targets[name], f"{path}: the mask", volume)
    lost = {name: row for name, row in lost.items() if row[0]}
    return LabelVolume(mapped, first.geometry, first.header, lost)


def _put(mapped: np.ndarray, mask: np.ndarray, target: Target, what: str, volume: Volume) -> None:
    """Write a structure's value, or those of its sides, where the mask is true."""
    if not isinstance(target, tuple):
        mapped[mask] = target
        return
    if mask.any():
        right = right_side(mask, volume.geometry.affine, what)
        mapped[mask] = target[1]
        mapped[right] = target[0]


def right_side(mask: np.ndarray, affine: np.ndarray, what: str = "the structure") -> np.ndarray:
    """Return the components of a structure on the patient's right: with most of their voxels on that side of the
    center.

    Args:
        mask: bool (z, y, x), not empty.
        affine: 4x4, voxel (x, y, z) to world (right, anterior, superior) in mm.
        what: begins the message of an error.

    Raises:
        ImageError: a large component lies across the center, or two on one side are too far apart for that; the kind
            is `unclear_sides`.
    """
    from scipy import ndimage  # half a second, which most sources do not need

    box = ndimage.find_objects(mask.view(np.uint8))[0]
    components, number = ndimage.label(mask[box], structure=CONNECTIVITY)
    places = np.nonzero(components)
    voxels = np.stack([place + part.start for place, part in zip(places, box, strict=True)])[::-1]
    towards_right = affine[0, :3] @ (voxels - (np.array(mask.shape[::-1]) - 1)[:, None] / 2)
    of = components[places]
    size = np.bincount(of, minlength=number + 1)[1:]
    right = np.bincount(of, weights=towards_right > 0, minlength=number + 1)[1:]
    center = np.bincount(of, weights=towards_right, minlength=number + 1)[1:] / size
    is_right = right * 2 > size
    large = size >= MIN_COMPONENT_SHARE * size.sum()
    if (np.minimum(right, size - right)[large] > MIN_CROSSING_SHARE * size[large]).any():
        raise ImageError(f"{what} has a component that lies across the middle of the image", "unclear_sides")
    for side in filter(np.any, (large & is_right, large & ~is_right)):
        if (apart := float(np.ptp(center[side]))) > SAME_SIDE_MM:
            message = f"{what} has components {apart:.0f} mm apart on one side of the middle of the image"
            raise ImageError(message, "unclear_sides")
    found = np.zeros(mask.shape, bool)
    found[box] = np.concatenate(([False], is_right))[components]
    return found
