"""The scored validation cases of a model: their ranks, which of them are shown, and their volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.cache.results import Results
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.io.nifti import Geometry, read_labels, read_volume
from flare23_lib.labels import LabelMap


@dataclass(frozen=True)
class RankedCase:
    """A validation case, its mean DSC over organs, and the file of its prediction."""

    case: Case
    score: float
    prediction: Path

    @property
    def name(self) -> str:
        """The case's id."""
        return self.case.case

    @property
    def percent(self) -> str:
        """The score in percent."""
        return f"{100 * self.score:.2f} %"


@dataclass(frozen=True)
class CaseVolumes:
    """A case as it is stored: image in HU, reference and prediction as label indices, (z, y, x) of one geometry."""

    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    geometry: Geometry


def rank_cases(
    results: Results, metrics: pd.DataFrame, predictions: pd.DataFrame, labels: LabelMap
) -> list[RankedCase]:
    """Return a model's cases that were scored without error, the best first.

    The score is the mean DSC over the organs, or over all labels where none is an organ.

    Args:
        results: the results folder.
        metrics: metrics.csv of the model.
        predictions: predictions.csv of the model.
        labels: the label map.
    """
    columns = [f"{label.name}_DSC" for label in labels.organs or labels.labels]
    scores = metrics.set_index("Name")[columns].apply(pd.to_numeric).mean(axis=1)
    scores = scores[(metrics["status"] == "ok").to_numpy()].dropna()
    files = dict(zip(predictions["case"], predictions["file"], strict=True))
    cases = {case.case: case for case in read_cases(results.cases)}
    ranked = [
        RankedCase(cases[name], score, results.file(files[name])) for name, score in scores.items() if name in files
    ]
    return sorted(ranked, key=lambda case: (-case.score, case.name))


def spread(ranked: Sequence[RankedCase], number: int) -> list[RankedCase]:
    """Return so many cases or fewer, evenly over the ranks; of two and more the best and the worst are among them."""
    if number <= 0 or not ranked:
        return []
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked)))
    return [ranked[round(place)] for place in places]


def read_case(ranked: RankedCase, labels: LabelMap) -> CaseVolumes:
    """Read a case's image, reference and prediction."""
    image = read_volume(ranked.case.image)
    reference = labels.to_indices(read_labels(str(ranked.case.label)).array)
    prediction = labels.to_indices(read_labels(ranked.prediction).array)
    return CaseVolumes(image.array, reference, prediction, image.geometry)
