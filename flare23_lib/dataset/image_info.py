"""What one file of the cohort holds, read in one pass and in little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib

from flare23_lib.errors import ImageError
from flare23_lib.io import nifti
from flare23_lib.io.geometry import Geometry, lengths_at_corners
from flare23_lib.io.identity import identity_of
from flare23_lib.io.label_maps import LabelFiles, ValueTable, read_label_map
from flare23_lib.io.nifti import Stream, with_qfac

MAX_VALUES = 1000
"""A file with more different values than this is no label map."""


@dataclass(frozen=True)
class ImageInfo:
    """What one file holds.

    Attributes:
        identity: of its content (`io.identity.file_identity`).
        issue: kind of the issue that makes it unreadable, or empty; most other fields are then empty too.
        error: what is wrong, one line, or empty.
        shape: (z, y, x).
        spacing: (z, y, x) in mm.
        affine: the 16 numbers of the affine, row by row.
        version: of NIfTI, 1 or 2.
        codes: qform_code and sform_code.
        millimeters: of the header's unit of length; 1 where it gives none.
        forms_apart: largest distance in mm between where qform and sform put a corner; 0 unless both are given.
        scaled: whether the header scales the stored values (scl_slope, scl_inter).
        off_whole: largest distance of a label value from the whole number that is taken for it.
        content: checksum of the voxels as stored; empty if they were not read.
        low: lowest voxel value; None if the voxels were not read.
        high: highest voxel value, likewise.
        finite: whether all voxels that were read are.
        whole: whether all values of a label map are whole numbers (within `nifti.label_tolerance`).
        voxels: voxels per value other than 0, for labels; None if a value is not whole or there are too many.
        mapped: whether these are our values, rather than the source's.
        lost: of masks of a case that lost voxels to later ones, how many, and how many they had, by name.
    """

    identity: str = ""
    issue: str = ""
    error: str = ""
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    affine: tuple[float, ...] = ()
    version: int = 1
    codes: tuple[int, int] = (0, 0)
    millimeters: float = 1.0
    forms_apart: float = 0.0
    scaled: bool = False
    off_whole: float = 0.0
    content: str = ""
    low: float | None = None
    high: float | None = None
    finite: bool = True
    whole: bool = True
    voxels: dict[int, int] | None = None
    mapped: bool = False
    lost: Mapping[str, list[int]] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """The geometry; only for a file without an error."""
        if self.shape is None or self.spacing is None:
            raise ValueError(f"a file that cannot be read has no geometry ({self.error})")
        return Geometry(self.shape, np.array(self.affine).reshape(4, 4), self.spacing)

    def our_voxels(self, table: ValueTable | None) -> dict[int, int]:
        """Return the voxels of a label per value of ours, by the table of its source, if that has one."""
        voxels = self.voxels or {}
        return voxels if self.mapped or table is None else table.counts(voxels)

    def to_json(self) -> dict:
        """Return plain data for `from_json`."""
        return {**vars(self), "voxels": None if self.voxels is None else sorted(self.voxels.items())}

    @classmethod
    def from_json(cls, content: dict) -> ImageInfo:
        """Read what `to_json` returned; ValueError if it counted overlaps of masks and did not name the masks."""
        row: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        if row.pop("overlaps", 0):
            raise ValueError("it does not say which masks overlap")
        return cls(**row | {"voxels": None if content["voxels"] is None else dict(content["voxels"])})


def read_info(path: Path, is_label: bool, header_only: bool = False, mapping: str = "") -> ImageInfo:
    """Read one file, or the masks of a case; what is wrong with it is in the result.

    Args:
        path: of the file; with `{mask}` in it, those of the mapping's masks.
        is_label: whether values are to be counted.
        header_only: leave the voxels unread; the gzip stream is then not checked either.
        mapping: of a label whose values can only be counted as ours, because it has masks or sides (`LabelFiles`).
    """
    try:
        if mapping:
            return _read_mapped(LabelFiles(path, mapping))
        with nifti.open_volume(path) as stream:
            info = header_info(stream)
            seen = {} if header_only else _read_voxels(stream, is_label)
        identity = identity_of(path, stream.inflated_length)
    except ImageError as error:
        return ImageInfo(issue=error.kind, error=str(error).removeprefix(f"{path}: "))
    return replace(info, identity=identity, **seen)


def _read_mapped(label: LabelFiles) -> ImageInfo:
    """Read a label as later stages do, and count the voxels of our values."""
    labels = read_label_map(label)
    with nifti.open_volume(label.first_file) as stream:
        info = header_info(stream)
    return replace(
        info,
        identity=label.files_identity,
        voxels={int(value): count for value, count in value_counts(labels.array).items() if value},
        mapped=True,
        lost=labels.lost,
    )


def header_info(stream: Stream) -> ImageInfo:
    """Return what is in the header of an open file; ImageError if it describes no volume."""
    header, geometry = stream.header, stream.geometry()
    return ImageInfo(
        shape=geometry.shape,
        spacing=geometry.spacing,
        affine=tuple(float(number) for number in geometry.affine.ravel()),
        version=1 if header.sizeof_hdr == 348 else 2,
        codes=(int(header["qform_code"]), int(header["sform_code"])),
        millimeters=nifti.millimeters(header),
        forms_apart=_forms_apart(header, geometry),
        scaled=nifti.scaling_of(header) != (1.0, 0.0),
    )


def _forms_apart(header: nib.Nifti1Header, geometry: Geometry) -> float:
    """Return the largest distance in mm between where qform and sform put a corner of the volume."""
    if header["qform_code"] <= 0 or header["sform_code"] <= 0:
        return 0.0
    try:
        qform = with_qfac(header).get_qform()
    except (nib.spatialimages.HeaderDataError, ValueError):  # a quaternion longer than 1
        return float("inf")
    apart = lengths_at_corners(geometry.shape, qform - header.get_sform())
    return float(apart.max()) * nifti.millimeters(header)


def _read_voxels(stream: Stream, is_label: bool) -> dict:
    """Read to the end of the file, and return what the voxels are."""
    dtype = stream.dtype
    missing = stream.voxel_bytes
    block = bytearray(min(nifti.BLOCK_BYTES, missing))  # stays in the cache, and memory is bounded
    crc, adler = 0, 1
    ends: list[float] = []
    counts: Counter[float] | None = Counter() if is_label else None
    while missing:
        wanted = min(len(block), missing)
        view = memoryview(block)[:wanted]
        if (filled := stream.fill(view)) < wanted:
            break
        missing -= filled
        crc, adler = isal_zlib.crc32(view, crc), isal_zlib.adler32(view, adler)
        values = np.frombuffer(view, dtype)
        ends += [float(values.min()), float(values.max())]
        ends = [min(ends), max(ends)] if np.isfinite(ends).all() else [np.nan, np.nan]
        if counts is not None:
            counts.update(value_counts(values))
            counts = counts if len(counts) <= MAX_VALUES else None
    stream.finish(missing)
    slope, intercept = nifti.scaling_of(stream.header)
    low, high = sorted(end * slope + intercept for end in ends)
    finite = bool(np.isfinite([low, high]).all())
    off_whole, voxels = _label_voxels(counts, slope, intercept) if counts and finite else (0.0, None)
    whole = finite and off_whole <= nifti.label_tolerance(slope)
    return {
        "content": f"{crc:08x}{adler:08x}",
        "low": low if finite else None,
        "high": high if finite else None,
        "finite": finite,
        "whole": whole,
        "off_whole": off_whole,
        "voxels": voxels if whole else None,
    }


def value_counts(array: np.ndarray) -> dict[float, int]:
    """Count the voxels of every value of an array (of any shape).

    Label maps consist of long runs: unique values are looked for among the heads of the runs only.
    """
    flat = array.reshape(-1)
    if not flat.size:
        return {}
    heads = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(heads, flat.size))
    values, index = np.unique(flat[heads], return_inverse=True)
    counts = np.bincount(index, weights=lengths).astype(np.int64)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _label_voxels(counts: Mapping[float, int], slope: float, intercept: float) -> tuple[float, dict[int, int]]:
    """Return how far values are off whole numbers at most, and the voxels per whole number other than 0."""
    voxels: Counter[int] = Counter()
    off_whole = 0.0
    for stored, count in counts.items():
        value = stored * slope + intercept
        off_whole = max(off_whole, abs(value - round(value)))
        voxels[round(value)] += count
    del voxels[0]
    return off_whole, dict(voxels)
