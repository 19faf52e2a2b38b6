"""An image of any format that is read: NIfTI, NRRD and MetaImage files, and series of DICOM files.

SimpleITK and pydicom are imported only for their formats.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Union

from flare23_lib.errors import ImageError
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import SUFFIXES, Volume, open_volume, read_volume, scaling_of

if TYPE_CHECKING:
    from flare23_lib.io.dicom import Series

Image = Union[Path, "Series"]
"""A file, or a series of DICOM files."""

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""GIPL is none of them: it has no directions of axes, and a file that was cut short reads as if it were whole."""

IMAGE_SUFFIXES = (*SUFFIXES, *ITK_SUFFIXES)


def files_of(path: Path) -> list[Path]:
    """Return an image's file, with those that the header of a MetaImage or NRRD names where voxels are apart from it.

    Raises:
        ImageError: the header cannot be read.
    """
    if not path.name.endswith((".mhd", ".nhdr")):
        return [path]
    try:
        names = re.split(r"[:=\r\n]", path.read_text(encoding="utf-8", errors="replace"))
        names = [name.strip() for name in names if 0 < len(name.strip().encode()) <= 255]  # NAME_MAX
        return [path, *(file for name in names if (file := path.parent / name).is_file())]
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})", "cannot_be_read") from error


def is_dicom(start: bytes) -> bool:
    """Tell by its first 132 bytes whether a file is DICOM; one without a preamble begins with group 2 or 8."""
    return start[128:] == b"DICM" or (start[:2] in (b"\x02\0", b"\x08\0") and start[4:6].isalpha())


def read_image(image: Image) -> Volume:
    """Read an image in HU; ImageError if it is missing, broken, or no 3-D volume."""
    if not isinstance(image, Path):
        return image.read()
    if image.name.endswith(SUFFIXES):
        return read_volume(image)
    from flare23_lib.io.itk import read_itk

    return read_itk(image)


def own_warnings(image: Image) -> tuple[str, ...]:
    """Return warnings about an image that can be read that its volume does not show, a line each."""
    if not isinstance(image, Path):
        return image.warnings()
    if not image.name.endswith(ITK_SUFFIXES):
        return ()
    from flare23_lib.io.itk import has_directions

    return () if has_directions(image) else ("its header has no directions of the axes: left and right are a guess",)


def read_header(image: Image) -> tuple[Geometry, int]:
    """Return an image's geometry and the bytes it takes while it is read; errors as `read_image`.

    A scaled NIfTI file is held as stored and as float64.
    """
    if not isinstance(image, Path):
        return image.geometry(), image.held_bytes
    if image.name.endswith(SUFFIXES):
        with open_volume(image) as stream:
            of_voxel = stream.dtype.itemsize + (0 if scaling_of(stream.header) == (1, 0) else 8)
            return stream.geometry(), of_voxel * math.prod(stream.shape)
    from flare23_lib.io.itk import read_itk_geometry

    return read_itk_geometry(image)
