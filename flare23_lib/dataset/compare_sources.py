"""A guard against swapped numbers: what each label looks like in each source, and which ones do not agree.

Volumes are of all cases, from the scan. Intensity and place are of a few cases of each source, read once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.dataset.cases import Case
from flare23_lib.errors import ImageError, StoreError
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.checksum import with_checksum
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.nifti import read_volume
from flare23_lib.labels import Label, LabelMap
from flare23_lib.runtime.processes import in_processes

MIN_CASES = 3
"""Cases in a source that hold a label, below which its medians tell nothing."""

CASES_READ = 8
"""Cases of a source that are read for intensity and place."""

VOLUME_FACTOR, TUMOR_FACTOR = 3.0, 20.0
"""Median volumes of an organ, or of tumors, that differ by a larger factor are reported."""

HU_DIFFERENCE = 150.0
"""Median intensities that differ by more are reported; contrast agent changes those of vessels by about as much."""

MM_DIFFERENCE = 60.0
"""Median places, from the image's center to the right or to the front, that are further apart are reported. Places
from head to foot are not compared: images begin and end anywhere."""

KEY, SEEN = ["source", "value"], ["hu", "right_mm", "front_mm"]
COLUMNS = ["source", "label", "cases", "ml", *SEEN]


def figures_of(cases: Sequence[Case], memory: Path, processes: int = 1) -> pd.DataFrame:
    """Return the figures of each source and label of a cohort; quarantined cases do not count.

    What is read of an image and its label is remembered in the file `memory`, which is made if missing.

    Returns:
        A row for each source and label value: cases that hold it, and the medians over them of its volume (ml), its
        intensity (hu), and its place to the right and to the front of the image's center (mm); NaN where no case was
        read for it.
    """
    labeled = [case for case in cases if case.usable and case.label and case.voxels]
    volumes = [
        (case.source, value, voxels * (float(np.prod(case.spacing or ())) / 1000))
        for case in labeled
        for value, voxels in case.voxels.items()
    ]
    seen = [
        (case.source, int(value), *row)
        for case, read in _read(list(_chosen(labeled)), memory, processes)
        for value, row in read.items()
    ]
    figures = pd.DataFrame(volumes, columns=[*KEY, "ml"]).groupby(KEY, sort=False)["ml"]
    medians = pd.DataFrame(seen, columns=[*KEY, *SEEN]).astype(dict.fromkeys(SEEN, float)).groupby(KEY).median()
    return figures.agg(cases="size", ml="median").join(medians).reset_index()


def _chosen(cases: Iterable[Case]) -> Iterator[Case]:
    """Yield the same few cases of each source at every scan."""
    by_source: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_source[case.source].append(case)
    for found in by_source.values():
        yield from sorted(found, key=lambda case: sha256(case.case.encode()).hexdigest())[:CASES_READ]


def _read(cases: Sequence[Case], memory: Path, processes: int) -> Iterator[tuple[Case, dict[str, list[float]]]]:
    try:
        known = read_json(memory)
    except StoreError:
        known = {}
    fresh = [case for case in cases if _key(case) not in known]
    for case, row in zip(fresh, in_processes(look_at, fresh, processes, attrgetter("case")), strict=True):
        known[_key(case)] = row
    if fresh:
        # One without figures could not be read, perhaps just now.
        write_json(memory, with_checksum({_key(case): row for case in cases if (row := known[_key(case)])}))
    for case in cases:
        yield case, known[_key(case)]


def _key(case: Case) -> str:
    return f"{case.image_id} {case.label_id}"


def look_at(case: Case) -> dict[str, list[float]]:
    """Return by label value (as text) median HU, and mm to the right and to the front of the image's center.

    A case that cannot be read has none: the stage that needs it reports that.
    """
    try:
        image, labels = read_volume(case.image), read_label_map(case.label_files or "")
    except ImageError:
        return {}
    affine = labels.geometry.affine[:2, :3]
    center = (np.array(labels.array.shape[::-1]) - 1) / 2
    found = {}
    for value in case.labels_present:
        places = np.nonzero(labels.array == value)
        if not len(places[0]):
            continue
        right, front = affine @ (np.array([place.mean() for place in places])[::-1] - center)
        found[str(value)] = [float(np.median(image.array[places])), float(right), float(front)]
    return found


def differences(figures: pd.DataFrame, labels: LabelMap) -> Iterator[tuple[str, str]]:
    """Yield source and message for each label that differs from the other sources by more than the limits."""
    known = figures[figures["cases"] >= MIN_CASES]
    for label in labels.labels:
        of_label = known[known["value"] == label.value].set_index("source")
        places = ["right_mm", "front_mm"] if label.kind == "organ" else []  # tumors are where they are
        for source in of_label.index:
            others = of_label.drop(source)
            if len(others) == 1 and source > others.index[0]:
                continue  # each differs from the other; once is enough
            for name in ("ml", "hu", *places):
                own, found = of_label.at[source, name], others[name].dropna()
                if len(found) and _differ(label, name, own, found.median()):
                    shown = [_shown(name, own, source), *(_shown(name, value, of) for of, value in found.items())]
                    yield source, f"{label.name}: {', '.join(shown)}"


def _differ(label: Label, name: str, one: float, other: float) -> bool:
    """Return whether two medians of a label differ by more than the limit; NaN does not."""
    if name == "ml":
        return max(one, other) > (TUMOR_FACTOR if label.kind == "tumor" else VOLUME_FACTOR) * min(one, other)
    return abs(one - other) > (HU_DIFFERENCE if name == "hu" else MM_DIFFERENCE)


def _shown(name: str, value: float, source: str) -> str:
    places = {"right_mm": ("to the right", "to the left"), "front_mm": ("to the front", "to the back")}
    if name in places:
        return f"{abs(value):.0f} mm {places[name][int(value < 0)]} of the center in {source}"
    return f"{value:.3g} ml in {source}" if name == "ml" else f"{value:.0f} HU in {source}"


def rows(figures: pd.DataFrame, labels: LabelMap) -> list[dict]:
    """Return a row per source and label, for `COLUMNS`."""
    order = labels.values
    found = sorted(figures.to_dict("records"), key=lambda row: (order.index(row["value"]), row["source"]))
    return [
        {"source": row["source"], "label": labels.name_of(row["value"]), "cases": row["cases"]}
        | {name: None if math.isnan(row[name]) else round(row[name], 1) for name in ("ml", *SEEN)}
        for row in found
    ]
