"""A guard against swapped numbers: what each label looks like in each source, and which ones do not agree.

Volumes are of all cases, from the scan. Intensity and place are of a few cases of each source, read once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np

from flare23_lib.dataset.cases import Case
from flare23_lib.dataset.read_files import in_processes
from flare23_lib.errors import ImageError, StoreError
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.checksum import with_checksum
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.nifti import read_volume
from flare23_lib.labels import Label, LabelMap

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

COLUMNS = ["source", "label", "cases", "ml", "hu", "right_mm", "front_mm"]


@dataclass(frozen=True)
class LabelFigures:
    """Medians of a label over the cases of a source that hold it; None where no case was read for it.

    Attributes:
        cases: number of cases.
        ml: volume.
        hu: intensity.
        right_mm: place to the patient's right of the image's center.
        front_mm: place to its front.
    """

    cases: int
    ml: float
    hu: float | None = None
    right_mm: float | None = None
    front_mm: float | None = None


Figures = Mapping[tuple[str, int], LabelFigures]
"""Source and label value -> figures."""


def figures_of(cases: Sequence[Case], memory: Path, processes: int = 1) -> Figures:
    """Return the figures of each source and label.

    Args:
        cases: of the cohort; quarantined ones do not count.
        memory: file that remembers what was read of which image and label; made if missing.
        processes: how many cases are read at once.
    """
    labeled = [case for case in cases if case.usable and case.label and case.voxels]
    volumes: dict[tuple[str, int], list[float]] = defaultdict(list)
    for case in labeled:
        voxel_ml = float(np.prod(case.spacing or ())) / 1000
        for value, voxels in case.voxels.items():
            volumes[case.source, value].append(voxels * voxel_ml)
    seen: dict[tuple[str, int], list[Sequence[float]]] = defaultdict(list)
    for case, read in _read(list(_chosen(labeled)), memory, processes):
        for name, row in read.items():
            seen[case.source, int(name)].append(row)
    return {
        key: LabelFigures(
            len(found), median(found), *(map(median, zip(*seen[key], strict=True)) if seen[key] else ())
        )
        for key, found in volumes.items()
    }


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
    for case, row in zip(fresh, in_processes(look_at, fresh, [1] * len(fresh), processes), strict=True):
        known[_key(case)] = row
    if fresh:
        write_json(memory, with_checksum({_key(case): known[_key(case)] for case in cases}))
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


def differences(figures: Figures, labels: LabelMap) -> Iterator[tuple[str, str]]:
    """Yield source and message for each label that differs from the other sources by more than the limits."""
    for label in labels.labels:
        of_label = {
            source: found
            for (source, value), found in figures.items()
            if value == label.value and found.cases >= MIN_CASES
        }
        for source, found in of_label.items():
            others = {other: one for other, one in of_label.items() if other != source}
            if len(others) == 1 and source > next(iter(others)):
                continue  # each differs from the other; once is enough
            for message in _differences(label, source, found, others):
                yield source, f"{label.name}: {message}"


def _differences(label: Label, source: str, own: LabelFigures, others: Mapping[str, LabelFigures]) -> Iterator[str]:
    factor = TUMOR_FACTOR if label.kind == "tumor" else VOLUME_FACTOR
    limits = {"ml": partial(_is_multiple, factor), "hu": partial(_is_apart, HU_DIFFERENCE)}
    if label.kind == "organ":  # tumors are where they are
        limits |= dict.fromkeys(("right_mm", "front_mm"), partial(_is_apart, MM_DIFFERENCE))
    for name, differs in limits.items():
        value = getattr(own, name)
        found = {other: getattr(one, name) for other, one in others.items() if getattr(one, name) is not None}
        if value is not None and found and differs(value, median(found.values())):
            yield ", ".join(_shown(name, number, of) for of, number in {source: value, **found}.items())


def _is_multiple(factor: float, one: float, other: float) -> bool:
    return max(one, other) > factor * min(one, other)


def _is_apart(limit: float, one: float, other: float) -> bool:
    return abs(one - other) > limit


def _shown(name: str, value: float, source: str) -> str:
    places = {"right_mm": ("to the right", "to the left"), "front_mm": ("to the front", "to the back")}
    if name in places:
        return f"{abs(value):.0f} mm {places[name][value < 0]} of the center in {source}"
    return f"{value:.3g} ml in {source}" if name == "ml" else f"{value:.0f} HU in {source}"


def rows(figures: Figures, labels: LabelMap) -> list[dict]:
    """Return a row per source and label, for `COLUMNS`."""
    found = [
        {"source": source, "label": labels.name_of(value)}
        | {name: None if number is None else round(number, 1) for name, number in asdict(one).items()}
        for (source, value), one in figures.items()
    ]
    order = labels.names
    return sorted(found, key=lambda row: (order.index(row["label"]), row["source"]))
