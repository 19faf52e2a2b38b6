"""A model in Python: `Predictor("model")("ct.nii.gz")`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union, cast

import nibabel as nib
import numpy as np

from flare23_lib.axes import as_triple
from flare23_lib.choices import Precision, Windows
from flare23_lib.errors import ImageError
from flare23_lib.inference.bundle import load_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.inference.image_files import default_memory, find_series_at, image_warnings
from flare23_lib.inference.memory import Limits
from flare23_lib.inference.model import chosen_labels
from flare23_lib.inference.outputs import keep_labels
from flare23_lib.inference.training_images import unlike_training
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.images import IMAGE_SUFFIXES, Image, read_image
from flare23_lib.io.label_tables import Structure, header_extension
from flare23_lib.io.nifti import SUFFIXES, Volume, header_for, millimeters, nifti_bytes, write_volume
from flare23_lib.runtime.devices import choose

if TYPE_CHECKING:
    import SimpleITK
    import torch

    from flare23_lib.inference.label_statistics import LabelStatistics
    from flare23_lib.io.dicom import Irregular, Series

SINGLE_FILES = (".nrrd", ".mha")
"""Formats of SimpleITK for labels; others keep voxels in a second file, which the first one names."""

ImageLike = Union[str, Path, nib.spatialimages.SpatialImage, "SimpleITK.Image", np.ndarray, Volume]
"""What a `Predictor` segments."""


@dataclass(frozen=True)
class Prediction:
    """Labels of one image.

    Attributes:
        labels: uint8 label values in the image's own voxels, (z, y, x) as SimpleITK orders them; `labels.T` is
            nibabel's order.
        names: label value -> name.
        affine: 4x4, voxel (x, y, z) to RAS+ mm, as nibabel's.
        warnings: what makes the image no sound CT, a line each.
        seconds: by phase.
    """

    labels: np.ndarray
    names: dict[int, str]
    affine: np.ndarray
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    image: Volume = field(repr=False)
    _table: tuple[Structure, ...] = field(repr=False)
    _series: Series | None = field(repr=False, default=None)
    _model: str = field(repr=False, default="")

    def mask(self, name: str) -> np.ndarray:
        """Return the voxels of a structure by its name, bool (z, y, x); KeyError if the model has no such label."""
        values = {known: value for value, known in self.names.items()}
        if name not in values:
            raise KeyError(f"{name!r} is none of {', '.join(values)}")
        return self.labels == values[name]

    def statistics(self) -> list[LabelStatistics]:
        """Measure each structure: its voxels, volume in ml, HU; the fields are those of `LabelStatistics`."""
        from flare23_lib.inference.label_statistics import measure_labels

        return measure_labels(self.labels, self.image, self._table)

    def to_nibabel(self) -> nib.Nifti1Image:
        """Return the labels as a nibabel image (x, y, z) with the header that `save` writes, label names included."""
        kind = nib.Nifti2Image if isinstance(self.image.header, nib.Nifti2Header) else nib.Nifti1Image
        return kind.from_bytes(nifti_bytes(self.labels, self.image.header, header_extension(self._table)))

    def to_simpleitk(self) -> SimpleITK.Image:
        """Return the labels as a SimpleITK image; ImageError for a tilted stack, which it cannot express."""
        from flare23_lib.io.itk import itk_of_volume

        return itk_of_volume(self.labels, self.affine)

    def save(self, path: str | Path) -> Path:
        """Write the labels: NIfTI with the label names, a format of SimpleITK, or (from DICOM) a DICOM segmentation.

        The suffix chooses the format: .nii.gz, .nii, .nrrd, .mha or .dcm. Returns the path.

        Raises:
            ImageError: the suffix is another, or DICOM is wanted of an image that was none, of a series of which
                there can be none (interpolated, or of files without UIDs), or of labels without a structure.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.name.endswith(SUFFIXES):
            write_volume(path, self.labels, self.image.header, header_extension(self._table))
        elif path.name.endswith(SINGLE_FILES):
            from flare23_lib.io.itk import write_itk

            write_itk(path, self.to_simpleitk())
        elif path.name.endswith(".dcm") and self._series is not None:
            from flare23_lib.io.dicom_seg import write_seg

            write_seg(path, self._series, self.labels, self._table, self._model)
        else:
            formats = ", ".join((*SUFFIXES, *SINGLE_FILES))
            raise ImageError(f"{path}: labels are saved as {formats} or, of DICOM series, .dcm")
        return path


class Predictor:
    """Segments CTs with one model, which is loaded once.

    Example:
        >>> from flare23_lib import Predictor
        >>> prediction = Predictor("results/models/student")("ct.nii.gz")
        >>> prediction.save("labels.nii.gz")

    Args:
        model: folder of the bundle.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps"; or PyTorch's device.
        step: distance of windows in patch sizes; None for the model's.
        tta: average over mirrored passes; None for the model's.
        precision: "auto", "float32", "bfloat16" or "float16"; None for the model's.
        windows: "all", "body" or "center_first"; None for the model's.
        limits: of memory, for what this model computes; None for those of `flare23 predict` (4,000 MB of the GPU,
            8,000 MB of the host, or what is there if that is less).

    Raises:
        BundleError: the model cannot be loaded.
        ConfigError: there is no such device, or an option is out of range.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device = "auto",
        *,
        step: float | None = None,
        tta: bool | None = None,
        precision: Precision | None = None,
        windows: Windows | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits(gpu=4000, host=default_memory())
        bundle = load_bundle(model).with_inference(step, tta, windows, precision)
        self.engine = Engine(bundle, choose(str(device)), limits)

    @property
    def names(self) -> dict[int, str]:
        """Label value -> name of the model's labels."""
        return {structure.value: structure.name for structure in self.engine.model.label_table}

    def __call__(
        self,
        image: ImageLike,
        affine: np.ndarray | None = None,
        *,
        labels_only: Sequence[str] = (),
        series: str | None = None,
        irregular: Irregular = "refuse",
    ) -> Prediction:
        """Segment an image in HU.

        Args:
            image: a path (NIfTI, NRRD, MetaImage; a DICOM file, folder or zip), a nibabel or SimpleITK image, or an
                array (z, y, x) with its affine.
            affine: 4x4, voxel (x, y, z) to RAS+ mm; for an array only.
            labels_only: names of the labels that are kept; all if there are none.
            series: number (Series Number, or place in the list where that is not unique) or UID of the DICOM series,
                if there are several.
            irregular: "refuse", or "resample" for DICOM slices that are not equally spaced.

        Raises:
            ImageError: the image cannot be read or is no CT, or several DICOM series were found.
            ConfigError: there is no such label.
            TypeError: an array without an affine, an affine with another image, or something that is no image.
        """
        if affine is not None and not isinstance(image, np.ndarray):
            raise TypeError("an affine is given with an array only; other images have their own")
        model = self.engine.model
        table = chosen_labels(model.label_table, [labels_only] if isinstance(labels_only, str) else labels_only)
        source = _find(image, series, irregular) if isinstance(image, str | Path) else None
        volume = read_image(source) if source is not None else _volume_of(image, affine)
        segmentation = self.engine.segment(volume)
        return Prediction(
            labels=keep_labels(segmentation.labels, table),
            names={structure.value: structure.name for structure in table},
            affine=volume.geometry.affine,
            warnings=(
                *image_warnings(source if source is not None else Path("image"), volume),
                *unlike_training(model.training_images, model.orientation, volume),
            ),
            seconds=segmentation.timings,
            image=volume,
            _table=table,
            _series=None if source is None or isinstance(source, Path) else source,
            _model=model.name,
        )


def _find(path: str | Path, wanted: str | None, irregular: Irregular) -> Image:
    """Return the image file or the one DICOM series at a path; ImageError if there are several."""
    path = Path(path)
    if path.is_file() and path.name.endswith(IMAGE_SUFFIXES):
        return path
    found = find_series_at(path, wanted, irregular)
    if len(found) > 1:
        raise ImageError(f"{path}: a Predictor segments one series at a time; give its number or UID")
    return found[0][1]


def _volume_of(image: ImageLike, affine: np.ndarray | None) -> Volume:
    """Return an image in memory as a volume."""
    if isinstance(image, Volume):
        return image
    if isinstance(image, np.ndarray):
        if affine is None:
            raise TypeError("an array needs its affine: predictor(array, affine), the array (z, y, x)")
        return _with_header(image, np.asarray(affine, float))
    if isinstance(image, nib.spatialimages.SpatialImage):
        if image.affine is None:
            raise ImageError("a nibabel image without an affine is no CT: its voxels have no place")
        array = np.asanyarray(image.dataobj).T
        if not isinstance(image.header, nib.Nifti1Header):
            return _with_header(array, image.affine)
        unit = millimeters(image.header)  # its bits are kept, as those of a file
        volume = _with_header(array, np.diag([unit, unit, unit, 1]) @ image.affine)
        zooms = as_triple(unit * float(zoom) for zoom in image.header.get_zooms()[::-1])
        return replace(volume, geometry=replace(volume.geometry, spacing=zooms), header=image.header)
    if type(image).__module__.split(".")[0] == "SimpleITK":
        from flare23_lib.io.itk import volume_of_itk

        return volume_of_itk(cast("SimpleITK.Image", image))
    raise TypeError(f"{type(image).__name__} is no image: give a path, a nibabel or SimpleITK image, or an array")


def _with_header(array: np.ndarray, affine: np.ndarray) -> Volume:
    if array.ndim != 3 or affine.shape != (4, 4):
        raise ImageError(f"an array of shape {array.shape} with an affine of shape {affine.shape} is no 3-D image")
    if array.dtype.kind not in "iuf":
        raise ImageError(f"an array of {array.dtype} is no CT: it has HU, whole numbers or floating-point")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):  # NIfTI has no others
        array = array.astype(np.float32)
    if abs(np.linalg.det(affine)) < 1e-12 or not np.isfinite(affine).all():
        raise ImageError(f"the affine {affine.tolist()} gives the voxels no place")
    return Volume(array, Geometry.of(array.shape, affine), header_for(array.shape, affine, array.dtype))
