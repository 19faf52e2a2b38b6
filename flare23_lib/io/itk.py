"""Images that SimpleITK reads beside NIfTI: NRRD, MetaImage. Arrays are (z, y, x), affines nibabel's (RAS+)."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK

from flare23_lib.axes import as_triple
from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import BLOCK_BYTES, Volume, header_for

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

TRUE = ("T", "t", "1")
"""How a value of a MetaImage's header begins that is true."""

METAIMAGE_DIRECTIONS = (b"TransformMatrix", b"Rotation", b"Orientation")
"""Names of the field that has them, each of which MetaIO takes."""

NRRD_DIRECTIONS = (b"space", b"space directions")
"""Fields that have them together, in any case."""


def read_itk_geometry(path: Path) -> tuple[Geometry, int]:
    """Return an image's geometry and the bytes that reading it takes, its voxels twice; errors as `read_itk`."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with _one_line(path):
        reader.ReadImageInformation()
    geometry = _geometry(reader, reader.GetNumberOfComponents(), path)
    bytes_per_voxel = SimpleITK.GetArrayFromImage(SimpleITK.Image(1, 1, reader.GetPixelID())).itemsize
    return geometry, 2 * bytes_per_voxel * math.prod(geometry.shape)


def has_directions(path: Path) -> bool:
    """Tell whether a header says where the axes run; SimpleITK takes those of LPS where it does not."""
    with path.open("rb") as file:
        lines = file.read(BLOCK_BYTES).splitlines()
    names = {re.split(rb"[:=]", line, maxsplit=1)[0].strip() for line in lines}
    return not names.isdisjoint(METAIMAGE_DIRECTIONS) or {name.lower() for name in names}.issuperset(NRRD_DIRECTIONS)


def read_itk(path: Path) -> Volume:
    """Read a 3-D image of one channel; ImageError if it is missing, broken, of another format, or not 3-D."""
    size = read_itk_geometry(path)[1] // 2
    if path.name.endswith((".mha", ".mhd")):
        _check_metaimage(path, size)
    with _one_line(path):
        image = SimpleITK.ReadImage(str(path))
    return volume_of_itk(image, path)


def _check_metaimage(path: Path, size: int) -> None:
    """Raise ImageError if a MetaImage does not hold all bytes of its voxels, or they differ from their checksum.

    ITK does not compare the checksum that compressed voxels have.
    """
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as header:
            while "ElementDataFile" not in fields and (line := header.readline(BLOCK_BYTES)):
                name, _, value = line.decode("latin-1").partition("=")
                fields[name.strip()] = value.strip()
            start, place = header.tell(), fields.get("ElementDataFile", "")
        compressed, binary = (fields.get(key, "")[:1] in TRUE for key in ("CompressedData", "BinaryData"))
        is_local = place.lower() == "local"
        voxels = path if is_local else path.parent / place
        if not compressed and (not binary or place.startswith("LIST") or "%" in place):  # in text or several files
            return
        with voxels.open("rb") as data:
            data.seek(start if is_local else 0)
            whole = _inflates_to(data, size) if compressed else voxels.stat().st_size - data.tell() >= size
    except (OSError, zlib.error) as error:
        raise ImageError(f"{path}: its voxels cannot be read ({error})") from error
    if not whole:
        raise ImageError(f"{path}: is cut short, or does not hold as many voxels as its header states")


def _inflates_to(data: BinaryIO, size: int) -> bool:
    """Tell whether a compressed stream ends after so many bytes; zlib.error if broken, or its checksum differs."""
    stream, found = zlib.decompressobj(wbits=47), 0  # of zlib or gzip
    while not stream.eof and found <= size and (block := stream.unconsumed_tail or data.read(BLOCK_BYTES)):
        found += len(stream.decompress(block, BLOCK_BYTES))
    return stream.eof and found == size


def write_itk(path: Path, image: SimpleITK.Image) -> None:
    """Write an image as one file (NRRD, MetaImage), compressed and atomically; ImageError if SimpleITK cannot."""
    with atomic_path(path) as temporary, _one_line(path, "written"):
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)


def volume_of_itk(image: SimpleITK.Image, name: object = "the image") -> Volume:
    """Return a SimpleITK image as a volume; ImageError with its name if it is not 3-D or has several channels."""
    geometry = _geometry(image, image.GetNumberOfComponentsPerPixel(), name)
    array = SimpleITK.GetArrayFromImage(image)
    return Volume(array, geometry, header_for(array.shape, geometry.affine, array.dtype))


def itk_of_volume(array: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """Return an array (z, y, x) under an affine (RAS+) as a SimpleITK image; ImageError if it is sheared."""
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    direction = lps[:3, :3] / spacing
    try:
        image.SetDirection(direction.ravel().tolist())
        right_angled = np.abs(direction.T @ direction - np.eye(3)).max() <= 1e-3
    except RuntimeError:
        right_angled = False
    if not right_angled:
        raise ImageError("the axes are not at right angles, which this format cannot express")
    return image


def _geometry(image: SimpleITK.Image | SimpleITK.ImageFileReader, channels: int, name: object) -> Geometry:
    if image.GetDimension() != 3 or channels != 1:
        raise ImageError(f"{name}: is {image.GetDimension()}-D with {channels} channels, not a 3-D volume of one")
    spacing = as_triple(map(float, image.GetSpacing()))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * spacing
    affine[:3, 3] = image.GetOrigin()
    return Geometry(as_triple(map(int, image.GetSize()[::-1])), _LPS_TO_RAS @ affine, as_triple(spacing[::-1]))


@contextmanager
def _one_line(path: Path, done: str = "read") -> Iterator[None]:
    """Convert an error of SimpleITK into an ImageError with its last line."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ImageError(f"{path}: cannot be {done} ({lines[-1] if lines else type(error).__name__})") from error
