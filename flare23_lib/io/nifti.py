"""The one reader and the one writer of NIfTI files.

Arrays are (z, y, x): the transpose of what nibabel gives, without a copy. Spacings are (z, y, x) in mm.
Affines stay nibabel's: 4x4, from voxel (x, y, z) to world in RAS+ millimeters. gzip streams are checked by
their CRC while they are read (SimpleITK passes over broken ones in silence).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from flare23_lib.axes import as_triple
from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.geometry import Geometry

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")

SINGLE_MAGIC = {348: b"n+1", 540: b"n+2"}
"""By the header's size, how it says that voxels follow in the same file."""

BROKEN_GZIP: tuple[type[Exception], ...] = (
    EOFError,
    igzip.BadGzipFile,
    zlib.error,
    cast("type[Exception]", isal_zlib.IsalError),  # annotated as an instance
)

MAX_OFFSET = 1 << 24
"""Bytes before the voxels, all of which are held, beyond which a header's offset counts as broken."""

MAX_VOXELS = 1 << 33
"""Voxels of the largest volume that is read (2048 x 2048 x 2048); FLARE23's largest CT has 0.8 % of them."""

MAX_DEFLATE_RATIO = 1032
"""Bytes that one byte of a gzip stream can become."""

BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time where only their number or checksum matters."""

LABEL_TOLERANCE = 1e-3
"""Label values this far from a whole number count as that number."""

MAX_LABEL_SLOPE = 0.1
"""Largest scl_slope whose rounding of label values is undone (`label_tolerance`)."""


@dataclass(frozen=True)
class Volume:
    """An image or label map with its geometry and the header it was read with."""

    array: np.ndarray
    geometry: Geometry
    header: nib.Nifti1Header


def stem(path: Path, suffixes: Sequence[str] = SUFFIXES) -> str | None:
    """Return a file's name without the suffix of its format, by default NIfTI's; None if it has none of them."""
    suffix = next((suffix for suffix in suffixes if path.name.endswith(suffix)), None)
    return None if suffix is None else path.name.removesuffix(suffix)


@dataclass(frozen=True)
class Stream:
    """An open file whose header is read, as it is stored, and whose voxels come next.

    `handle` has the inflated bytes; at the end of a gzip stream its CRC and length are checked. `extensions` are the
    bytes between header and voxels, unparsed.
    """

    path: Path
    header: nib.Nifti1Header
    handle: io.BufferedIOBase
    extensions: bytes = b""

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(int(size) for size in self.header.get_data_shape()[::-1])

    @property
    def dtype(self) -> np.dtype:
        """The stored data type, byte order included."""
        return self.header.get_data_dtype()

    @property
    def is_gzip(self) -> bool:
        """Whether the file is compressed."""
        return isinstance(self.handle, igzip.IGzipFile)

    @property
    def offset(self) -> int:
        """Bytes before the first voxel."""
        return max(self.header.sizeof_hdr, int(self.header["vox_offset"]))

    @property
    def voxel_bytes(self) -> int:
        """Bytes that the voxels take by the header."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def inflated_length(self) -> int | None:
        """Bytes that the gzip stream holds by the header; None if the file is not compressed."""
        return self.offset + self.voxel_bytes if self.is_gzip else None

    def geometry(self) -> Geometry:
        """Check and return the geometry; ImageError if the volume is not 3-D or has no place in the world."""
        if len(self.shape) != 3:
            raise ImageError(f"{self.path}: is {len(self.shape)}-D {self.shape[::-1]}, not a 3-D volume", "not_3d")
        if math.prod(self.shape) > MAX_VOXELS:
            raise ImageError(f"{self.path}: has {math.prod(self.shape):.2g} voxels {self.shape[::-1]}", "too_large")
        unit = millimeters(self.header)
        spacing = as_triple(float(zoom) * unit for zoom in self.header["pixdim"][3:0:-1])
        if not all(np.isfinite(spacing)) or min(spacing) <= 0:
            raise ImageError(f"{self.path}: the spacing {spacing} is not positive", "bad_spacing")
        try:
            affine = with_qfac(self.header).get_best_affine() * [[unit], [unit], [unit], [1]]
            turned = nib.io_orientation(affine) if np.isfinite(affine).all() else np.array([np.nan])
        except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
            turned = np.array([np.nan])
        if np.isnan(turned).any():
            raise ImageError(f"{self.path}: the affine is singular, an axis has no direction", "singular_axes")
        return Geometry(as_triple(self.shape), affine, spacing)

    def fill(self, buffer: memoryview) -> int:
        """Read bytes into a buffer until it is full or the file ends, and return how many; ImageError if broken."""
        filled = 0
        with _reading(self.path):
            while filled < len(buffer):
                count = self.handle.readinto(buffer[filled:])
                if not count:
                    break
                filled += count
        return filled

    def finish(self, missing: int = 0) -> None:
        """Check that the file ends here; ImageError if bytes are missing, left over, or not what was written."""
        if missing:
            raise self._wrong_length("fewer voxels")
        with _reading(self.path):
            if self.handle.read(1):
                raise self._wrong_length("more data")

    def check_size(self) -> None:
        """Check, without reading on, that the file is large enough for its voxels; ImageError if it cannot be."""
        stored = os.fstat(self.handle.fileno()).st_size
        if self.offset + self.voxel_bytes > stored * (MAX_DEFLATE_RATIO if self.is_gzip else 1):
            raise self._wrong_length("fewer voxels")

    def _wrong_length(self, what: str) -> ImageError:
        start = float(self.header["vox_offset"])
        hint = f"; it states that they begin at byte {start:g}" if start < self.header.sizeof_hdr else ""
        return ImageError(f"{self.path}: holds {what} than its header states{hint}", "wrong_length")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert the errors of reading into an ImageError with its kind."""
    try:
        yield
    except BROKEN_GZIP as error:
        if _other_data_follow(path):
            raise ImageError(f"{path}: other data follow the gzip stream", "trailing_data") from error
        if isinstance(error, EOFError):
            raise ImageError(f"{path}: the gzip stream is cut short", "truncated_gzip") from error
        raise ImageError(f"{path}: the gzip stream is broken ({error})", "corrupt_gzip") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})", "cannot_be_read") from error


def _other_data_follow(path: Path) -> bool:
    """Return whether a broken gzip stream is complete, and other data follow it."""
    stream = zlib.decompressobj(wbits=31)
    with path.open("rb") as handle:
        try:
            while not stream.eof and (block := stream.unconsumed_tail or handle.read(BLOCK_BYTES)):
                stream.decompress(block, BLOCK_BYTES)
        except (zlib.error, OSError):
            return False
        rest = stream.unused_data + handle.read(2)
    return stream.eof and not rest.startswith(b"\x1f\x8b")


@contextlib.contextmanager
def open_volume(path: str | Path) -> Iterator[Stream]:
    """Open a NIfTI file (.nii or .nii.gz, version 1 or 2) and read its header; ImageError if it is missing, empty,
    broken, or not NIfTI."""
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with _reading(path):
            handle: io.BufferedIOBase = stack.enter_context(path.open("rb"))
            start = handle.read(2)
            handle.seek(0)
        if not start:
            raise ImageError(f"{path}: is empty", "empty_file")
        if start == b"\x1f\x8b":
            handle = stack.enter_context(igzip.open(handle, "rb"))
        elif path.name.endswith(".gz"):
            raise ImageError(f"{path}: is not gzip, though its name ends in .gz", "not_nifti")
        stream = Stream(path, _read_header(path, handle), handle)
        stream.check_size()
        with _reading(path):
            extensions = handle.read(stream.offset - stream.header.sizeof_hdr)
        yield replace(stream, extensions=extensions)


def _read_header(path: Path, handle: io.BufferedIOBase) -> nib.Nifti1Header:
    """Read the header."""
    with _reading(path):
        size = handle.read(4)
        kind = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
        for order in "<>":
            if len(size) == 4 and (length := struct.unpack(order + "i", size)[0]) in kind:
                break
        else:
            what = "it is gzip within gzip" if size[:2] == b"\x1f\x8b" else "its first bytes are no NIfTI header's"
            raise ImageError(f"{path}: is not NIfTI ({what})", "not_nifti")
        head = size + handle.read(length - 4)
        if len(head) < length:
            raise ImageError(f"{path}: is not NIfTI (it ends within the header)", "not_nifti")
        header = kind[length](head, endianness=order, check=False)
        magic = header["magic"].item()
        if magic[:3] != SINGLE_MAGIC[length]:
            raise ImageError(f"{path}: is not a single-file NIfTI (its magic is {magic!r})", "not_nifti")
        try:
            dtype = header.get_data_dtype()
            shape = header.get_data_shape()
            header.get_slope_inter()
        except (nib.spatialimages.HeaderDataError, KeyError) as error:
            raise ImageError(f"{path}: is not NIfTI ({error})", "not_nifti") from error
        if dtype.fields or dtype.kind not in "iuf":
            what = "a color image (RGB)" if dtype.fields else f"of type {dtype}"
            raise ImageError(f"{path}: is {what}, not CT or labels", "unsupported_type")
        if not shape or min(shape) < 1:
            raise ImageError(f"{path}: is not NIfTI (its shape is {shape})", "not_nifti")
        if set(shape[3:]) == {1}:  # 4-D of a single volume
            header.set_data_shape(shape[:3])
        offset = float(header["vox_offset"])
        if not 0 <= offset <= MAX_OFFSET:
            raise ImageError(f"{path}: is not NIfTI (its voxels begin at byte {offset:g})", "not_nifti")
    return header


def scaling_of(header: nib.Nifti1Header) -> tuple[float, float]:
    """Return a header's slope and intercept; (1, 0) where it gives none."""
    slope, intercept = header.get_slope_inter()
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))


def millimeters(header: nib.Nifti1Header) -> float:
    """Return the millimeters of a header's unit of length; one that is not given counts as mm, as everywhere."""
    return {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)


def with_qfac(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Return a header whose qfac is 1 where it says 0, as in the standard; nibabel raises for 0."""
    if header["pixdim"][0] in (-1, 1):
        return header
    header = header.copy()
    header["pixdim"][0] = 1
    return header


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI file (.nii or .nii.gz, version 1 or 2) with its stored data type, scaling applied.

    Raises:
        ImageError: missing, broken, not NIfTI, not 3-D, of the wrong length, or without a place in the world.
    """
    with open_volume(path) as stream:
        geometry = stream.geometry()
        array = np.empty(stream.shape, stream.dtype)
        buffer = array.reshape(-1).view(np.uint8).data
        stream.finish(missing=len(buffer) - stream.fill(buffer))
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return Volume(array=_scaled(array, *scaling_of(stream.header)), geometry=geometry, header=stream.header)


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Apply a header's scaling slice by slice: no third volume is held."""
    if (slope, intercept) == (1, 0):
        return array
    scale = nib.volumeutils.apply_read_scaling
    made = np.empty(array.shape, scale(array[:1], slope, intercept).dtype)
    for stored, place in zip(array, made, strict=True):
        place[...] = scale(stored, slope, intercept)
    return made


def read_labels(path: str | Path) -> Volume:
    """Read a label map as uint8 if the values allow it, otherwise int64.

    Values stored as floats are accepted when they are whole numbers, or when scaling has moved them off whole numbers
    by less than `label_tolerance`, with a warning. ImageError as `read_volume`, and for other values.
    """
    volume = read_volume(path)
    array = volume.array
    if array.dtype.kind == "f":
        if not is_finite(array):
            raise ImageError(f"{path}: has NaN or infinite label values", "fractional_label_values")
        whole = np.rint(array)
        off = float(np.abs(array - whole).max()) if array.size else 0.0
        if off > label_tolerance(scaling_of(volume.header)[0]):
            raise ImageError(f"{path}: label values are not whole numbers", "fractional_label_values")
        if off:
            log.warning("%s: label values are up to %.2g off whole numbers, which are taken", path, off)
        array = whole
    if array.dtype != np.uint8:
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        array = array.astype(np.uint8 if low >= 0 and high <= 255 else np.int64)
    return Volume(array=array, geometry=volume.geometry, header=volume.header)


def is_finite(array: np.ndarray) -> bool:
    """Tell whether an array (z, y, x) has no NaN or infinite values; by plane, as a mask of all would take memory."""
    return array.dtype.kind != "f" or all(np.isfinite(plane).all() for plane in array)


def label_tolerance(slope: float) -> float:
    """Return how far from a whole number a label value may be that was stored under a header's scl_slope.

    A program that saves labels from floats under an integer header chooses a slope that spreads them over the whole
    range of the type, such as 14 / 255 for uint8: each value comes back within half a slope. With slopes up to
    `MAX_LABEL_SLOPE` the whole number that is meant is beyond doubt, as values between whole numbers lie further off.
    """
    return max(LABEL_TOLERANCE, 0.501 * abs(slope) if abs(slope) <= MAX_LABEL_SLOPE else 0.0)


def write_volume(path: str | Path, array: np.ndarray, header: nib.Nifti1Header, extension: bytes = b"") -> None:
    """Write an array as a file .nii or .nii.gz, atomically; the same input gives the same bytes.

    Arguments as `nifti_bytes`; ImageError if the array's shape is not the header's.
    """
    path = Path(path)
    try:
        raw = nifti_bytes(array, header, extension)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(igzip.compress(raw, compresslevel=1, mtime=0) if path.name.endswith(".gz") else raw)


def nifti_bytes(array: np.ndarray, header: nib.Nifti1Header, extension: bytes = b"") -> bytes:
    """Return the bytes of an uncompressed NIfTI file of an array (z, y, x) under the geometry of a header.

    The header's shape, data type, scaling and display range are set for the array; the rest, both affines
    among it, stays as it was read, to the bit. `extension` are bytes between header and voxels, such as those of
    `label_tables.header_extension`. ImageError if the array's shape is not the header's.
    """
    header = header.copy()
    if header.endianness != "<":
        header = header.as_byteswapped("<")
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    offset = header.sizeof_hdr + max(4, len(extension))
    header["vox_offset"] = offset
    header["magic"] = SINGLE_MAGIC[int(header.sizeof_hdr)]
    expected = tuple(header.get_data_shape()[::-1])
    if array.shape != expected:
        raise ImageError(f"an array of shape {array.shape} does not fit the header's {expected}")
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return (header.binaryblock + extension).ljust(offset, b"\0") + stored.tobytes()


def header_for(shape: tuple[int, int, int], affine: np.ndarray, dtype: np.dtype) -> nib.Nifti1Header:
    """Make a plain header for an array of shape (z, y, x): qform and sform both the affine, unit mm."""
    image = nib.Nifti1Image(np.zeros(shape[::-1], dtype=np.uint8), affine)
    image.set_data_dtype(dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image.header
