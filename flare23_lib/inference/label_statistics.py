"""Numbers about each structure of a segmented image: volume, intensities, components, whether it is cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from flare23_lib.errors import ImageError
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.images import read_image
from flare23_lib.io.label_tables import Structure, label_table, read_label_table
from flare23_lib.io.nifti import Volume, read_labels
from flare23_lib.io.tables import write_csv


@dataclass(frozen=True)
class LabelStatistics:
    """Numbers about one structure.

    Attributes:
        label: its name.
        value: in label files.
        voxels: how many.
        volume_ml: of these.
        hu_mean, hu_sd, hu_median: of the image in them; None if there are none (the deviation also for one voxel).
        components: connected parts (faces, edges and corners) of a tumor; None for organs.
        touches_border: whether a voxel lies at the edge of the image, so that the structure may be cut off.
    """

    label: str
    value: int
    voxels: int
    volume_ml: float
    hu_mean: float | None
    hu_sd: float | None
    hu_median: float | None
    components: int | None
    touches_border: bool


COLUMNS = ["case", *(field.name for field in fields(LabelStatistics))]


def measure_labels(labels: np.ndarray, image: Volume, table: Sequence[Structure]) -> list[LabelStatistics]:
    """Measure each structure of a table in labels (z, y, x) on an image in HU; one that does not occur has 0 mL.

    Raises:
        ImageError: the shapes differ, or the image has values that are no numbers.
    """
    if labels.shape != image.array.shape:
        raise ImageError(f"labels of shape {labels.shape} do not lie on an image of shape {image.array.shape}")
    if not np.isfinite(image.array).all():
        raise ImageError("the image has values that are no numbers (NaN or infinite)")
    voxel_ml = abs(float(np.linalg.det(image.geometry.affine[:3, :3]))) / 1000
    marks = SimpleITK.GetImageFromArray(labels.astype(np.uint8, copy=False))
    measured = SimpleITK.LabelIntensityStatisticsImageFilter()
    measured.Execute(marks, SimpleITK.GetImageFromArray(image.array))
    there = set(measured.GetLabels())
    rows = []
    for structure in table:
        value, found = structure.value, structure.value in there
        voxels = measured.GetNumberOfPixels(value) if found else 0
        rows.append(
            LabelStatistics(
                label=structure.name,
                value=value,
                voxels=voxels,
                volume_ml=round(voxels * voxel_ml, 4),
                hu_mean=round(measured.GetMean(value), 2) if found else None,
                hu_sd=round(measured.GetStandardDeviation(value), 2) if voxels > 1 else None,
                hu_median=_median(labels, image.array, value, measured.GetBoundingBox(value)) if found else None,
                components=_components(marks, value) if structure.is_tumor else None,
                touches_border=bool(found and measured.GetNumberOfPixelsOnBorder(value)),
            )
        )
    return rows


def _median(labels: np.ndarray, values: np.ndarray, value: int, box: Sequence[int]) -> float:
    """Return the exact median in a label; SimpleITK's is that of a histogram. The box is (x, y, z, sizes)."""
    inside = tuple(slice(box[axis], box[axis] + box[axis + 3]) for axis in (2, 1, 0))
    return round(float(np.median(values[inside][labels[inside] == value])), 2)


def _components(marks: SimpleITK.Image, value: int) -> int:
    """Count the parts of a label that are connected through faces, edges and corners."""
    counted = SimpleITK.ConnectedComponentImageFilter()
    counted.FullyConnectedOn()
    counted.Execute(marks == value)
    return int(counted.GetObjectCount())


def measure_files(case: PredictionCase, folder: Path, table: Sequence[Structure] | None = None) -> Path:
    """Measure a label file that is there, and write the case's JSON file into a folder.

    Without a table labels are named as in the label file or, if it names none, by their values.

    Raises:
        ImageError: a file cannot be read, or the labels do not lie on the image.
    """
    labels, image = read_labels(case.labels), read_image(case.image)
    if difference := labels.geometry.difference(image.geometry):
        raise ImageError(f"{case.labels}: does not lie on {case.image} ({difference})")
    if labels.array.dtype != np.uint8:
        raise ImageError(f"{case.labels}: has label values that are not from 0 to 255")
    if table is None:
        names = read_label_table(case.labels)
        values = sorted({*names, *np.unique(labels.array).tolist()} - {0})
        table = label_table([names.get(value, str(value)) for value in values], values)
    path = folder / f"{case.name}.statistics.json"
    write_case_statistics(path, case.name, str(case.image), measure_labels(labels.array, image, table))
    return path


def write_case_statistics(path: Path, case: str, image: str, rows: Iterable[LabelStatistics]) -> None:
    """Write a case's numbers as JSON."""
    write_json(path, {"case": case, "image": image, "labels": [asdict(row) for row in rows]})


def write_statistics_table(path: Path, files: Iterable[Path]) -> None:
    """Write a CSV with a row for each structure of each case, from the cases' JSON files."""
    rows: list[dict[str, Any]] = []
    for file in sorted(files):
        content = read_json(file)
        rows += [{"case": content["case"], **row} for row in content["labels"]]
    write_csv(path, COLUMNS, rows)
