"""Numbers about each structure of a segmented image: volume, intensities, components, whether it is cut off."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from flare23_lib.axes import CONNECTIVITY
from flare23_lib.errors import ImageError
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.io.atomic import about_path, write_json
from flare23_lib.io.images import read_image
from flare23_lib.io.label_tables import Structure, label_table, read_label_table
from flare23_lib.io.nifti import Volume, is_finite, read_labels
from flare23_lib.io.tables import refuse_others, write_csv

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelStatistics:
    """Numbers about one structure.

    Attributes:
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
    if not is_finite(image.array):
        raise ImageError("the image has values that are no numbers (NaN or infinite)")
    voxel_ml = abs(float(np.linalg.det(image.geometry.affine[:3, :3]))) / 1000
    labels = labels.astype(np.uint8, copy=False)
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    rows = []
    for structure in table:
        box = boxes.get(structure.value)
        inside = np.zeros((0, 0, 0), bool) if box is None else labels[box] == structure.value
        values = np.empty(0) if box is None else image.array[box][inside].astype(np.float64)
        voxels = len(values)
        rows.append(
            LabelStatistics(
                label=structure.name,
                value=structure.value,
                voxels=voxels,
                volume_ml=round(voxels * voxel_ml, 4),
                hu_mean=round(float(values.mean()), 2) if voxels else None,
                hu_sd=round(float(values.std(ddof=1)), 2) if voxels > 1 else None,
                hu_median=round(float(np.median(values)), 2) if voxels else None,
                components=ndimage.label(inside, CONNECTIVITY)[1] if structure.is_tumor else None,
                touches_border=any(
                    part.start == 0 or part.stop == size for part, size in zip(box or (), labels.shape, strict=False)
                ),
            )
        )
    return rows


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


def check_statistics_table(path: Path) -> None:
    """Raise StoreError if a file is there that `write_statistics_table` would replace, and is of others."""
    refuse_others(path, ",".join(COLUMNS))


def read_case_statistics(path: Path) -> list[dict[str, Any]] | None:
    """Return the rows of a case's JSON file, a column each of `COLUMNS`; None if it holds no statistics of ours.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with about_path(path):
            content = json.loads(path.read_bytes())
        return [{"case": content["case"], **asdict(LabelStatistics(**row))} for row in content["labels"]]
    except (IsADirectoryError, ValueError, KeyError, TypeError):
        return None


def write_statistics_table(path: Path, files: Iterable[Path]) -> None:
    """Write a CSV with a row for each structure of each case, from the cases' JSON files; others are passed over."""
    rows: list[dict[str, Any]] = []
    for file in sorted(files):
        found = read_case_statistics(file)
        if found is None:
            log.warning("%s: is passed over; it holds no statistics of ours", file)
        rows += found or []
    write_csv(path, COLUMNS, rows)
