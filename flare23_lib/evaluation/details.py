"""What the scores do not say: distances of surfaces, volumes, and which tumors were found.

Arrays are (z, y, x) volumes of file values, spacings (z, y, x) in mm. Whole volumes are looked at, whatever the mode
of the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.evaluation.surfaces import Grid, find_surfels, surfel_areas
from flare23_lib.io import tables
from flare23_lib.labels import Label, LabelMap

DISTANCE_COLUMNS = ("Name", "class", "reference_ml", "prediction_ml", "difference_ml", "HD95_mm")
TUMOR_COLUMNS = ("Name", "class", "side", "component", "ml", "diameter_mm", "overlap", "outcome")
DETECTION_COLUMNS = ("class", "diameter", "tumors", "found", "missed", "sensitivity", "predicted", "false")

DETAIL_TABLES = ("distances.csv", "tumors.csv", "detection.csv")
"""What `write_details` writes; the last two where there are tumors."""

DIAMETERS_MM = (0.0, 10.0, 20.0, math.inf)
"""Ends of the size classes. 10 mm is the least diameter of a measurable lesion in RECIST 1.1."""

PERCENT = 95.0
"""Share of a surface's area that lies within the robust Hausdorff distance."""


@dataclass(frozen=True)
class Details:
    """One case: a row per class (`DISTANCE_COLUMNS`), and one per tumor component (`TUMOR_COLUMNS`)."""

    distances: list[dict[str, Any]]
    tumors: list[dict[str, Any]]


def measure_details(
    case: str, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float], labels: LabelMap
) -> Details:
    """Measure one case.

    Args:
        case: its name.
        reference: integer file values of the label map, (z, y, x).
        prediction: integer file values of the label map, same shape.
        spacing: (z, y, x) in mm.
        labels: the structures.
    """
    reference, prediction = reference.astype(np.uint8, copy=False), prediction.astype(np.uint8, copy=False)
    voxel_ml = math.prod(spacing) / 1000
    counts = [_counts(volume) for volume in (reference, prediction)]
    shared = [label for label in labels.labels if all(count[label.value] for count in counts)]
    robust = hausdorff(reference, prediction, spacing, shared)
    distances, tumors = [], []
    for label in labels.labels:
        volumes = [float(count[label.value]) * voxel_ml for count in counts]
        row = {"Name": case, "class": label.name, "reference_ml": volumes[0], "prediction_ml": volumes[1]}
        row |= {"difference_ml": volumes[1] - volumes[0], "HD95_mm": robust.get(label.name)}
        distances.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        if label.kind == "tumor":
            found = tumor_components(reference == label.value, prediction == label.value, spacing)
            tumors += [{"Name": case, "class": label.name, **component} for component in found]
    return Details(distances, tumors)


def _counts(volume: np.ndarray) -> np.ndarray:
    """Return the number of voxels of each value, slice by slice: counting widens what it counts to 8 bytes."""
    return sum((np.bincount(page.ravel(), minlength=256) for page in volume), np.zeros(256, dtype=np.int64))


def hausdorff(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float], shared: Sequence[Label]
) -> dict[str, float]:
    """Return the robust Hausdorff distance in mm of the labels that both volumes hold.

    It is the least distance within which 95 % of the area of each surface lies from the other; the larger of the
    two directions.
    """
    from scipy.spatial import cKDTree

    grid = Grid(reference.shape, (0, 0, 0))
    regions = {label.name: (0, len(reference)) for label in shared}
    areas = surfel_areas(spacing)
    surfaces = [find_surfels(volume, shared, regions, grid) for volume in (reference, prediction)]
    distances = {}
    for label in shared:
        points = [grid.place(surface[label.name][0]) * np.array(spacing) for surface in surfaces]
        trees = [cKDTree(side) for side in points]
        distances[label.name] = max(
            _area_percentile(trees[1 - side].query(points[side])[0], areas[surfaces[side][label.name][1]])
            for side in (0, 1)
        )
    return distances


def _area_percentile(distances: np.ndarray, areas: np.ndarray) -> float:
    """Return the distance within which `PERCENT` of the area lies."""
    order = np.argsort(distances, kind="stable")
    reached = np.cumsum(areas[order]) / areas.sum()
    place = np.searchsorted(reached, PERCENT / 100)
    return float(distances[order][min(int(place), len(order) - 1)])


def tumor_components(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]
) -> list[dict[str, Any]]:
    """Return what was found and what was not, component by component (voxels that touch by a corner hang together).

    A component of the reference is `found` if a predicted voxel lies in it, otherwise `missed`; one of the prediction
    is `hit` if a voxel of the reference lies in it, otherwise `false`. `overlap` is the share of its voxels that the
    other side holds, so that a stricter rule can be applied to the table. `diameter_mm` is that of the sphere of the
    same volume.

    Args:
        reference: bool, (z, y, x).
        prediction: bool, same shape.
        spacing: (z, y, x) in mm.
    """
    from scipy import ndimage

    rows = []
    sides = (
        ("reference", reference, prediction, "found", "missed"),
        ("prediction", prediction, reference, "hit", "false"),
    )
    for side, own, other, touched, alone in sides:
        boxes = ndimage.find_objects(own.view(np.uint8))
        if not boxes:
            continue
        own, other = own[boxes[0]], other[boxes[0]]
        components, number = ndimage.label(own, structure=np.ones((3, 3, 3)))
        inside = components[own]
        sizes = np.bincount(inside, minlength=number + 1)[1:]
        shared = np.bincount(inside[other[own]], minlength=number + 1)[1:]
        for index, (size, both) in enumerate(zip(sizes, shared, strict=True), start=1):
            cubic_mm = float(size) * math.prod(spacing)
            rows.append(
                {
                    "side": side,
                    "component": index,
                    "ml": round(cubic_mm / 1000, 4),
                    "diameter_mm": round((6 * cubic_mm / math.pi) ** (1 / 3), 2),
                    "overlap": round(float(both) / float(size), 4),
                    "outcome": touched if both else alone,
                }
            )
    return rows


def detection(tumors: Sequence[Mapping[str, Any]], labels: LabelMap) -> list[dict[str, Any]]:
    """Count tumors by class and diameter: found and missed of the reference, false ones of the prediction.

    Returns:
        A row per class and size (`DETECTION_COLUMNS`), the last of a class over all sizes; `sensitivity` is None
        where the reference has none.
    """
    table = []
    sizes = [*itertools.pairwise(DIAMETERS_MM), (DIAMETERS_MM[0], DIAMETERS_MM[-1])]
    for label in labels.tumors:
        own = [row for row in tumors if row["class"] == label.name]
        for low, high in sizes:
            chosen = [row for row in own if low <= row["diameter_mm"] < high]
            outcomes = [row["outcome"] for row in chosen]
            found, missed = outcomes.count("found"), outcomes.count("missed")
            table.append(
                {
                    "class": label.name,
                    "diameter": _size_name(low, high),
                    "tumors": found + missed,
                    "found": found,
                    "missed": missed,
                    "sensitivity": round(found / (found + missed), 4) if found + missed else None,
                    "predicted": outcomes.count("hit") + outcomes.count("false"),
                    "false": outcomes.count("false"),
                }
            )
    return table


def _size_name(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:g} mm and more" if low else "all"
    return f"under {high:g} mm" if not low else f"{low:g} to {high:g} mm"


def detail_tables(labels: LabelMap) -> list[str]:
    """Return the names of the tables that `write_details` writes."""
    return list(DETAIL_TABLES) if labels.tumors else list(DETAIL_TABLES[:1])


def write_details(folder: Path, details: Sequence[Details] | None, labels: LabelMap) -> None:
    """Write distances.csv (a row per case and class) and, if there are tumor labels, tumors.csv and detection.csv.

    Tables of an earlier evaluation that are not written now are removed; for details of None that is all of them.
    """
    written = [] if details is None else detail_tables(labels)
    for name in DETAIL_TABLES:
        if name not in written:
            (folder / name).unlink(missing_ok=True)
    if details is None:
        return
    tables.write_csv(folder / "distances.csv", DISTANCE_COLUMNS, [row for case in details for row in case.distances])
    if labels.tumors:
        tumors = [row for case in details for row in case.tumors]
        tables.write_csv(folder / "tumors.csv", TUMOR_COLUMNS, tumors)
        tables.write_csv(folder / "detection.csv", DETECTION_COLUMNS, detection(tumors, labels))
