"""The one reader and the one writer of NIfTI files.

Arrays are (z, y, x): the transpose of what nibabel gives, without a copy. Spacings are (z, y, x) in mm.
Affines stay nibabel's: 4x4, from voxel (x, y, z) to world in RAS+ millimeters. gzip streams are checked by
their CRC while they are read (SimpleITK passes over broken ones in silence).
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from flare23_lib.errors import ImageError
from flare23_lib.store import atomic_path

CANONICAL_AXES = ("L", "P", "S")
"""The canonical direction of the x, y and z axes: ITK's identity (left, posterior, superior)."""


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in the world.

    Attributes:
        shape: (z, y, x).
        affine: 4x4 float64, voxel (x, y, z) to RAS+ mm.
        spacing: (z, y, x) in mm, the header's float32 zooms as Python floats.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing: tuple[float, float, float]

    def difference(self, other: Geometry, tolerance: float = 1e-3) -> str | None:
        """Say in words how two geometries differ, or None if voxels lie on voxels (within mm)."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        if not np.allclose(self.affine, other.affine, atol=tolerance, rtol=0):
            if not np.allclose(self.affine[:3, :3], other.affine[:3, :3], atol=tolerance, rtol=0):
                return f"axes {describe_axes(self)} against {describe_axes(other)}"
            return f"origin {self.affine[:3, 3].tolist()} against {other.affine[:3, 3].tolist()}"
        return None


@dataclass(frozen=True)
class Volume:
    """An image or label map with its geometry and the header it was read with."""

    array: np.ndarray
    geometry: Geometry
    header: nib.Nifti1Header


def describe_axes(geometry: Geometry) -> str:
    """Name axis directions and spacing for a message, like `LPS 0.8x0.8x2.5 mm` (x, y, z)."""
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    codes = "".join(code or "?" for code in nib.aff2axcodes(geometry.affine))
    return codes + " " + "x".join(f"{value:.4g}" for value in spacing) + " mm"


def _inflate(path: Path) -> bytes:
    """Return the bytes of a file, inflated if it is gzip; ImageError if the stream is not whole."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    if not raw:
        raise ImageError(f"{path}: is empty")
    if raw[:2] != b"\x1f\x8b":
        if path.name.endswith(".gz"):
            raise ImageError(f"{path}: is not gzip, though its name says so")
        return raw
    try:
        return igzip.decompress(raw)
    except (EOFError, zlib.error, isal_zlib.IsalError, igzip.BadGzipFile, OSError) as error:
        raise ImageError(f"{path}: the gzip stream is broken or cut short ({error})") from error


def _parse(path: Path, raw: bytes) -> nib.Nifti1Image:
    kind = nib.Nifti2Image if raw[:4] in (struct.pack("<i", 540), struct.pack(">i", 540)) else nib.Nifti1Image
    try:
        return kind.from_bytes(raw)
    except Exception as error:  # nibabel raises many kinds for a broken header
        raise ImageError(f"{path}: is not NIfTI ({error})") from error


def _geometry(path: Path, image: nib.Nifti1Image) -> Geometry:
    if len(image.shape) != 3:
        raise ImageError(f"{path}: is {len(image.shape)}-D {image.shape}, not a 3-D volume")
    spacing = tuple(float(zoom) for zoom in image.header.get_zooms()[::-1])
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ImageError(f"{path}: the spacing {spacing} is not positive")
    return Geometry(shape=tuple(image.shape[::-1]), affine=image.affine, spacing=spacing)


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI file (.nii or .nii.gz, version 1 or 2) with its stored data type, scaling applied.

    Raises:
        ImageError: missing, broken, not NIfTI, not 3-D, or without a positive spacing.
    """
    path = Path(path)
    image = _parse(path, _inflate(path))
    geometry = _geometry(path, image)
    try:
        array = np.asanyarray(image.dataobj).T
    except (ValueError, OSError, nib.filebasedimages.ImageFileError) as error:
        raise ImageError(f"{path}: holds fewer voxels than its header says") from error
    if array.dtype.fields:
        raise ImageError(f"{path}: is a color image (RGB), not CT")
    return Volume(array=array, geometry=geometry, header=image.header)


def read_labels(path: str | Path) -> Volume:
    """Read a label map; values stored as floats are accepted when they are whole numbers.

    Returns:
        A volume with an integer array (uint8 if the values allow it, otherwise int64).

    Raises:
        ImageError: as `read_volume`, and for values that are not whole or not finite.
    """
    volume = read_volume(path)
    array = volume.array
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise ImageError(f"{path}: label values are not whole numbers")
        array = whole
    if array.dtype != np.uint8:
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        array = array.astype(np.uint8 if low >= 0 and high <= 255 else np.int64)
    return Volume(array=array, geometry=volume.geometry, header=volume.header)


def read_geometry(path: str | Path) -> Geometry:
    """Read only what the header says; ImageError as `read_volume` (the pixels are not looked at)."""
    path = Path(path)
    try:
        with contextlib.ExitStack() as stack:
            handle = stack.enter_context(path.open("rb"))
            if handle.read(2) == b"\x1f\x8b":
                handle.seek(0)
                handle = stack.enter_context(igzip.open(handle, "rb"))
            else:
                handle.seek(0)
            head = handle.read(544)
    except (EOFError, zlib.error, isal_zlib.IsalError, OSError) as error:
        raise ImageError(f"{path}: cannot be read ({error})") from error
    nifti2 = head[:4] in (struct.pack("<i", 540), struct.pack(">i", 540))
    kind, size = (nib.Nifti2Header, 540) if nifti2 else (nib.Nifti1Header, 348)
    try:
        header = kind(head[:size])
        affine = header.get_best_affine()
    except Exception as error:  # nibabel raises many kinds for a broken header
        raise ImageError(f"{path}: is not NIfTI ({error})") from error
    image = nib.Nifti1Image(
        np.lib.stride_tricks.as_strided(
            np.zeros(1, np.uint8), header.get_data_shape(), (0,) * len(header.get_data_shape())
        ),
        affine,
    )
    image.header.set_zooms(header.get_zooms())
    return _geometry(path, image)


def write_volume(path: str | Path, array: np.ndarray, header: nib.Nifti1Header) -> None:
    """Write an array (z, y, x) under the geometry of a header, atomically; the same input gives the same bytes.

    The header's shape, data type, scaling and display range are set for the array; the rest, both affines
    among it, stays as it was read, to the bit.
    """
    path = Path(path)
    header = header.copy()
    if header.endianness != "<":
        header = header.as_byteswapped("<")
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["vox_offset"] = header.sizeof_hdr + 4 if header.sizeof_hdr == 540 else 352
    header["magic"] = header["magic"] if header.sizeof_hdr == 540 else b"n+1"
    expected = tuple(header.get_data_shape()[::-1])
    if array.shape != expected:
        raise ImageError(f"{path}: an array of shape {array.shape} does not fit the header's {expected}")
    offset = int(header["vox_offset"])
    raw = header.binaryblock.ljust(offset, b"\0") + np.ascontiguousarray(array).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(igzip.compress(raw, compresslevel=1, mtime=0) if path.name.endswith(".gz") else raw)


def header_for(shape: tuple[int, int, int], affine: np.ndarray, dtype: np.dtype) -> nib.Nifti1Header:
    """Make a plain header for an array of shape (z, y, x): qform and sform both the affine, unit mm."""
    image = nib.Nifti1Image(np.zeros(shape[::-1], dtype=dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image.header


def file_identity(path: str | Path) -> str:
    """Return what tells one version of a user's file from another: its size and gzip trailer (CRC, length).

    A file that is not gzip is identified by its size and the CRC of its bytes. Never by its path or time.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            if handle.read(2) == b"\x1f\x8b" and size >= 18:
                handle.seek(-8, os.SEEK_END)
                return f"{size}-{handle.read(8).hex()}"
            handle.seek(0)
            crc = 0
            while block := handle.read(1 << 22):
                crc = isal_zlib.crc32(block, crc)
            return f"{size}-{crc:08x}"
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Orientation:
    """How stored axes become the axes a network sees, and back. Both ways are exact (flips and permutations).

    Attributes:
        forward_transform: nibabel orientation array, stored (x, y, z) to seen (x, y, z).
        backward_transform: the inverse.
    """

    forward_transform: np.ndarray
    backward_transform: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, mode: str) -> Orientation:
        """Return the orientation for an affine: mode "stored" changes nothing, "canonical" brings it to LPS."""
        stored = nib.io_orientation(affine)
        seen = nib.orientations.axcodes2ornt(CANONICAL_AXES) if mode == "canonical" else stored
        if mode not in ("canonical", "stored"):
            raise ValueError(f"orientation must be stored or canonical, not {mode!r}")
        if np.isnan(stored).any():
            raise ImageError("the affine is singular: an axis has no direction")
        return cls(nib.orientations.ornt_transform(stored, seen), nib.orientations.ornt_transform(seen, stored))

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Turn a stored (z, y, x) array into the seen one (a view)."""
        return nib.orientations.apply_orientation(array.T, self.forward_transform).T

    def backward(self, array: np.ndarray) -> np.ndarray:
        """Turn a seen (z, y, x) array back into the stored one (a view)."""
        return nib.orientations.apply_orientation(array.T, self.backward_transform).T

    def spacing(self, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
        """Reorder a stored spacing (z, y, x) for the seen axes."""
        seen = [0.0, 0.0, 0.0]
        for axis, (target, _) in enumerate(self.forward_transform):
            seen[int(target)] = spacing[::-1][axis]
        return tuple(seen[::-1])
