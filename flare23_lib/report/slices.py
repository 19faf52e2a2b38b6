"""A case at the slice that shows most: image, reference, prediction, errors.

Arrays are (z, y, x) volumes; labels are indices (0 background, 1 the first label of the map).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flare23_lib.colors import label_colors
from flare23_lib.report.style import INK, STYLE, save_figure, words

WINDOW_HU = (-160.0, 240.0)
"""Abdominal window: center 40, width 400."""

ERROR_COLOR = "#ff00c8"

_OPACITY = 0.55


@dataclass(frozen=True)
class Shown:
    """A case to be drawn.

    Attributes:
        name: of the case.
        score: what stands beside the name.
        image: HU, (z, y, x), turned to LPS so that a slice is seen from the feet, front up.
        reference: indices, same shape.
        prediction: indices, same shape.
        spacing: (z, y, x) in mm.
    """

    name: str
    score: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]


def telling_slice(reference: np.ndarray, prediction: np.ndarray) -> int:
    """Return the slice with the most wrong voxels among those that show nearly all (two fewer) classes at once."""
    both = zip(reference, prediction, strict=True)
    classes = np.array([len(np.union1d(np.unique(one), np.unique(other))) for one, other in both])
    errors = (reference != prediction).sum(axis=(1, 2))
    return int(np.argmax(np.where(classes >= classes.max() - 2, errors, -1)))


def windowed(image: np.ndarray) -> np.ndarray:
    """Return HU as gray values from 0 to 1 in the abdominal window."""
    low, high = WINDOW_HU
    return np.clip((image - low) / (high - low), 0, 1)


def overlaid(gray: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return an RGB slice (y, x, 3) with labels in their colors over gray values (y, x)."""
    colors = label_colors(names)
    table = np.array([(0, 0, 0), *(to_rgb(colors[name]) for name in names)])
    picture = np.repeat(gray[..., None], 3, axis=-1)
    marked = labels > 0
    picture[marked] = (1 - _OPACITY) * picture[marked] + _OPACITY * table[labels[marked]]
    return picture


def draw_case(path: Path, shown: Shown, names: Sequence[str]) -> None:
    """Write image, reference, prediction and errors side by side, as SVG and PNG.

    Args:
        path: the SVG.
        shown: the case.
        names: of the labels in order.
    """
    place = telling_slice(shown.reference, shown.prediction)
    gray = windowed(shown.image[place].astype(np.float64))
    reference, prediction = shown.reference[place], shown.prediction[place]
    errors = np.repeat(gray[..., None], 3, axis=-1)
    errors[reference != prediction] = to_rgb(ERROR_COLOR)
    panels = {
        "image": np.repeat(gray[..., None], 3, axis=-1),
        "reference": overlaid(gray, reference, names),
        "prediction": overlaid(gray, prediction, names),
        "errors": errors,
    }
    present = [name for index, name in enumerate(names, start=1) if index in reference or index in prediction]
    _, height, width = shown.spacing
    tall = 2.6 * gray.shape[0] * height / (gray.shape[1] * width)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.8, min(tall, 5.0) + 1.0), facecolor="white", layout="constrained")
        for axes, (title, panel) in zip(figure.subplots(1, 4), panels.items(), strict=True):
            axes.imshow(panel, aspect=height / width, interpolation="nearest")
            axes.set_title(title, fontsize=10, color=INK)
            axes.set_axis_off()
        title = f"{shown.name}: {shown.score}, slice {place + 1} of {len(shown.image)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
        colors = label_colors(names)
        handles = [Patch(facecolor=colors[name], edgecolor=INK, label=words(name)) for name in present]
        handles.append(Patch(facecolor=ERROR_COLOR, edgecolor=INK, label="error"))
        figure.legend(handles=handles, loc="outside lower left", ncols=7, fontsize=8, frameon=False, labelcolor=INK)
        save_figure(path, figure)
