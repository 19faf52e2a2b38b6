"""The scored validation cases of a model: ranks, volumes, and a picture of each at the slice that shows most.

Arrays are (z, y, x) volumes; labels are indices (0 background, 1 the first label of the map).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from flare23_lib.cache.results import Results
from flare23_lib.colors import label_colors
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.nifti import read_labels, read_volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import IGNORE_VALUE, LabelMap, label_indices
from flare23_lib.report.style import INK, add_legend, display_name, new_figure

WINDOW_HU = (-160.0, 240.0)
"""Abdominal window: center 40, width 400."""

ERROR_COLOR = "#ff00c8"


@dataclass(frozen=True)
class RankedCase:
    """A validation case, its mean DSC, the names of the classes that it is of, and the file of its prediction.

    Attributes:
        scored: all classes that were scored, those of the mean among them.
        averaged: how many classes the mean is of.
    """

    case: Case
    score: float
    prediction: Path
    scored: tuple[str, ...]
    averaged: int

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

    The score is the mean DSC over the organs that were scored, or over all labels if no organ was.

    Args:
        results: the results folder.
        metrics: metrics.csv of the model.
        predictions: predictions.csv of the model.
        labels: the label map.
    """
    table = metrics[metrics["status"] == "ok"].set_index("Name")[[f"{name}_DSC" for name in labels.names]]
    table = table.apply(pd.to_numeric).set_axis(labels.names, axis=1)
    organs = {label.name for label in labels.organs}
    files = dict(zip(predictions["case"], predictions["file"], strict=True))
    cases = {case.case: case for case in read_cases(results.cases)}
    ranked = []
    for name, row in table.iterrows():
        scores = row.dropna()
        averaged = scores[[label for label in scores.index if label in organs] or list(scores.index)]
        if len(scores) and name in files:
            file = results.file(files[name])
            ranked.append(RankedCase(cases[name], averaged.mean(), file, tuple(scores.index), len(averaged)))
    return sorted(ranked, key=lambda case: (-case.score, case.name))


def spread(ranked: Sequence[RankedCase], number: int) -> list[RankedCase]:
    """Return so many cases or fewer, evenly over the ranks; of two and more the best and the worst are among them."""
    if number <= 0 or not ranked:
        return []
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked)))
    return [ranked[round(place)] for place in places]


def read_case(ranked: RankedCase, labels: LabelMap) -> CaseVolumes:
    """Read a case's image, reference and prediction; in both what is not scored is background: voxels that the
    reference ignores, and classes that were not looked for in the case."""
    image = read_volume(ranked.case.image)
    true = read_label_map(ranked.case.label_files or "").array
    known = true != IGNORE_VALUE
    values = [value if name in ranked.scored else 0 for name, value in zip(labels.names, labels.values, strict=True)]
    reference, prediction = (
        np.where(known & np.isin(array, values), label_indices(array, labels.values), 0).astype(np.uint8)
        for array in (true, read_labels(ranked.prediction).array)
    )
    return CaseVolumes(image.array, reference, prediction, image.geometry)


def choose_slice(reference: np.ndarray, prediction: np.ndarray) -> int:
    """Return the slice with the most wrong voxels among those that show nearly all (two fewer) classes at once."""
    both = zip(reference, prediction, strict=True)
    classes = np.array([len(np.union1d(np.unique(one), np.unique(other))) for one, other in both])
    errors = (reference != prediction).sum(axis=(1, 2))
    return int(np.argmax(np.where(classes >= classes.max() - 2, errors, -1)))


def windowed(image: np.ndarray) -> np.ndarray:
    """Return HU as gray values from 0 to 1 in the abdominal window."""
    low, high = WINDOW_HU
    return np.clip((image - low) / (high - low), 0, 1)


def overlaid(gray: np.ndarray, labels: np.ndarray, colors: Sequence[str], opacity: float = 0.55) -> np.ndarray:
    """Return an RGB slice (y, x, 3) with labels, from 1, in their colors over gray values (y, x)."""
    table = np.array([(0, 0, 0), *map(to_rgb, colors)])
    picture = np.repeat(gray[..., None], 3, axis=-1)
    marked = labels > 0
    picture[marked] = (1 - opacity) * picture[marked] + opacity * table[labels[marked]]
    return picture


def draw_case(path: Path, title: str, volumes: CaseVolumes, names: Sequence[str]) -> None:
    """Write image, reference, prediction and errors side by side, as SVG and PNG.

    The slice is seen from the feet, front up; its number is added to the title. Names are those of the labels in
    order.
    """
    orientation = Orientation.of(volumes.geometry.affine, "canonical")
    image, *both = map(orientation.forward, (volumes.image, volumes.reference, volumes.prediction))
    colors = list(label_colors(names).values())
    place = choose_slice(*both)
    reference, prediction = both[0][place], both[1][place]
    plain = windowed(image[place].astype(np.float64))
    wrong = (reference != prediction).astype(int)
    panels = {
        "image": overlaid(plain, np.zeros_like(wrong), []),
        "reference": overlaid(plain, reference, colors),
        "prediction": overlaid(plain, prediction, colors),
        "errors": overlaid(plain, wrong, [ERROR_COLOR], opacity=1),
    }
    _, height, width = orientation.spacing(volumes.geometry.spacing)
    tall = 2.6 * plain.shape[0] * height / (plain.shape[1] * width)
    with new_figure(path, 10.8, min(tall, 5.0) + 1.0) as figure:
        for axes, (name, panel) in zip(figure.subplots(1, 4), panels.items(), strict=True):
            axes.imshow(panel, aspect=height / width, interpolation="nearest")
            axes.set_title(name, fontsize=10, color=INK)
            axes.set_axis_off()
        heading = f"{title}, slice {place + 1} of {len(image)}"
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, color=INK)
        present = np.union1d(np.unique(reference), np.unique(prediction))
        shown = [(display_name(names[index - 1]), colors[index - 1]) for index in present[present > 0]]
        add_legend(figure, [*shown, ("error", ERROR_COLOR)], size=8)
