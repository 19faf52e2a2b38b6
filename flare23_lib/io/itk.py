"""Images that SimpleITK reads beside NIfTI: NRRD, MetaImage, GIPL. Arrays are (z, y, x), affines nibabel's (RAS+)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

from flare23_lib.axes import as_triple
from flare23_lib.errors import ImageError
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import Volume, header_for

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_itk_geometry(path: Path) -> tuple[Geometry, int]:
    """Return an image's geometry and the bytes that its voxels take, without reading them; errors as `read_itk`."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(f"{path}: cannot be read ({_reason(error)})") from error
    _check(path, reader.GetDimension(), reader.GetNumberOfComponents())
    direction = np.reshape(reader.GetDirection(), (3, 3))
    geometry = _geometry(reader.GetSize(), direction, reader.GetSpacing(), reader.GetOrigin())
    bytes_per_voxel = SimpleITK.GetArrayFromImage(SimpleITK.Image(1, 1, reader.GetPixelID())).itemsize
    return geometry, bytes_per_voxel * int(np.prod(geometry.shape))


def read_itk(path: Path) -> Volume:
    """Read a 3-D image of one channel; ImageError if it is missing, broken, of another format, or not 3-D."""
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ImageError(f"{path}: cannot be read ({_reason(error)})") from error
    return volume_of_itk(image, str(path))


def volume_of_itk(image: SimpleITK.Image, name: str = "the image") -> Volume:
    """Return a SimpleITK image as a volume; ImageError with its name if it is not 3-D or has several channels."""
    _check(name, image.GetDimension(), image.GetNumberOfComponentsPerPixel())
    direction = np.reshape(image.GetDirection(), (3, 3))
    geometry = _geometry(image.GetSize(), direction, image.GetSpacing(), image.GetOrigin())
    array = SimpleITK.GetArrayFromImage(image)
    return Volume(array, geometry, header_for(array.shape, geometry.affine, array.dtype))


def itk_of_volume(array: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """Return an array (z, y, x) under an affine (RAS+) as a SimpleITK image; ImageError if it is sheared."""
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    try:
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    except RuntimeError as error:
        raise ImageError("the axes are not at right angles, which this format cannot express") from error
    direction = lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise ImageError("the axes are not at right angles, which this format cannot express")
    return image


def _geometry(size: tuple, direction: np.ndarray, spacing: tuple, origin: tuple) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(spacing)
    affine[:3, 3] = origin
    return Geometry(as_triple(map(int, size[::-1])), _LPS_TO_RAS @ affine, as_triple(map(float, spacing[::-1])))


def _check(name: object, dimensions: int, channels: int) -> None:
    if dimensions != 3 or channels != 1:
        raise ImageError(f"{name}: is {dimensions}-D with {channels} channels, not a 3-D volume of one")


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
