"""Details beside the scores: distances of surfaces, volumes, and which tumors were found.

Arrays are (z, y, x) volumes of file values, spacings are (z, y, x) in mm. Whole volumes are
measured, in every mode of the scores.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.axes import CONNECTIVITY
from flare23_lib.evaluation.metrics import Comparison
from flare23_lib.evaluation.surfaces import find_surfels, surfel_areas
from flare23_lib.io.tables import write_csv
from flare23_lib.labels import Label, LabelMap

log = logging.getLogger(__name__)

DETAIL_TABLES = {
    "distances.csv": ("Name", "class", "reference_ml", "prediction_ml", "difference_ml", "HD95_mm"),
    "tumors.csv": ("Name", "class", "side", "component", "ml", "diameter_mm", "overlap", "outcome"),
    "detection.csv": ("class", "diameter", "tumors", "found", "missed", "sensitivity", "predicted", "false"),
}
"""Tables of details and their columns; the last two are written where there are tumor labels."""

SIZES = {
    "under 10 mm": (0.0, 10.0),
    "10 to 20 mm": (10.0, 20.0),
    "20 mm and more": (20.0, math.inf),
    "all": (0.0, math.inf),
}
"""Diameters of the rows of detection.csv. RECIST 1.1 calls a lesion measurable from 10 mm on."""

PERCENT = 95.0
"""Share of a surface's area within the robust Hausdorff distance."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Details:
    """One case: rows of distances.csv, one per class, and of tumors.csv, one per tumor component."""

    distances: list[Row]
    tumors: list[Row]


def measure_details(
    case: str, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float], labels: LabelMap
) -> Details:
    """Measure one case; the volumes are of the same shape and hold only values of the label map."""
    volumes = reference.astype(np.uint8, copy=False), prediction.astype(np.uint8, copy=False)
    whole = Comparison(*volumes, spacing, labels, "plain")
    shared = [label for label in labels.labels if all(whole.holders(label))]
    robust = hausdorff(*volumes, spacing, shared)
    details = Details([], [])
    for label in labels.labels:
        ml = [voxels * math.prod(spacing) / 1000 for voxels in whole.voxels(label)[:2]]
        numbers = (*ml, ml[1] - ml[0], robust.get(label.name))
        rounded = [None if number is None else round(number, 4) for number in numbers]
        names = DETAIL_TABLES["distances.csv"]
        details.distances.append(dict(zip(names, [case, label.name, *rounded], strict=True)))
        if label.kind == "tumor":
            found = tumor_components(volumes[0] == label.value, volumes[1] == label.value, spacing)
            details.tumors.extend({"Name": case, "class": label.name, **component} for component in found)
    return details


def hausdorff(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float], shared: Sequence[Label]
) -> dict[str, float]:
    """Return the robust Hausdorff distance in mm of the labels that both volumes hold.

    It is the smallest distance from the other surface within which 95 % of a surface's area is; the
    larger one of the two directions.
    """
    from scipy.spatial import cKDTree

    regions = {label.name: (0, len(reference)) for label in shared}
    areas = surfel_areas(spacing)
    surfaces = [find_surfels(volume, shared, regions) for volume in (reference, prediction)]
    distances = {}
    for label in shared:
        sides = [(points * np.array(spacing), areas[codes]) for points, codes in (s[label.name] for s in surfaces)]
        distances[label.name] = max(
            float(np.quantile(cKDTree(others).query(points)[0], PERCENT / 100, weights=sizes, method="inverted_cdf"))
            for (points, sizes), (others, _) in (sides, sides[::-1])
        )
    return distances


def tumor_components(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> list[Row]:
    """Return the tumors of both sides, component by component; voxels that touch at a corner are connected.

    A component of the reference is `found` if it contains a predicted voxel, otherwise `missed`; one
    of the prediction is `hit` if it contains a voxel of the reference, otherwise `false`. `overlap`
    is the share of its voxels that the other side holds, so that a stricter rule can be applied to
    the table. `diameter_mm` is that of the sphere of the same volume. Both masks are bool.
    """
    from scipy import ndimage

    rows = []
    for side, own, other, outcomes in (
        ("reference", reference, prediction, ("missed", "found")),
        ("prediction", prediction, reference, ("false", "hit")),
    ):
        box = next(iter(ndimage.find_objects(own.view(np.uint8))), None)
        if box is None:
            continue
        own, other = own[box], other[box]
        components, number = ndimage.label(own, structure=CONNECTIVITY)
        sizes, shared = (np.bincount(components[mask], minlength=number + 1) for mask in (own, own & other))
        for component in range(1, number + 1):
            size, both = float(sizes[component]), float(shared[component])
            cubic_mm = size * math.prod(spacing)
            rows.append(
                {
                    "side": side,
                    "component": component,
                    "ml": round(cubic_mm / 1000, 4),
                    "diameter_mm": round((6 * cubic_mm / math.pi) ** (1 / 3), 2),
                    "overlap": round(both / size, 4),
                    "outcome": outcomes[both > 0],
                }
            )
    return rows


def detection(tumors: Sequence[Mapping[str, Any]], labels: LabelMap) -> list[Row]:
    """Count the rows of tumors.csv by class and size; `sensitivity` is None where the reference has no tumor."""
    table = []
    for label, (size, (low, high)) in itertools.product(labels.tumors, SIZES.items()):
        own = [row for row in tumors if row["class"] == label.name and low <= row["diameter_mm"] < high]
        count = Counter(row["outcome"] for row in own)
        number = count["found"] + count["missed"]
        table.append(
            {
                "class": label.name,
                "diameter": size,
                "tumors": number,
                "found": count["found"],
                "missed": count["missed"],
                "sensitivity": round(count["found"] / number, 4) if number else None,
                "predicted": count["hit"] + count["false"],
                "false": count["false"],
            }
        )
    return table


def detail_tables(labels: LabelMap) -> list[str]:
    """Return the names of the tables that `write_details` writes."""
    return list(DETAIL_TABLES) if labels.tumors else ["distances.csv"]


def write_details(folder: Path, details: Sequence[Details] | None, labels: LabelMap, seen: LabelMap) -> None:
    """Write the tables of `detail_tables`; None for no details.

    Which tables there are follows from all labels, seen by the model or not, as the workflow expects them before a
    model is trained. Tables of an earlier evaluation that are not written now are removed; other files are kept.
    """
    tumors = [row for case in details or () for row in case.tumors]
    rows = {
        "distances.csv": [row for case in details or () for row in case.distances],
        "tumors.csv": tumors,
        "detection.csv": detection(tumors, seen),
    }
    written = [] if details is None else detail_tables(labels)
    for name, columns in DETAIL_TABLES.items():
        path = folder / name
        if name in written:
            write_csv(path, columns, rows[name])
        elif path.is_file():
            with path.open("rb") as handle:
                is_ours = handle.readline().strip() == ",".join(columns).encode()
            if is_ours:
                path.unlink()
            else:
                log.warning("%s: is kept; it is no table of an evaluation", path)
