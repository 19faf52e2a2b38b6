"""How scores are spread over cases, as a figure: a box per class, in its color, for one model and both metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flare23_lib.colors import label_colors
from flare23_lib.evaluation.tables import METRICS
from flare23_lib.report.style import INK, PALE_INK, STYLE, dress, save_figure, words


def draw_boxes(path: Path, model: str, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
    """Write the figure as SVG and PNG; the same rows give the same bytes.

    Args:
        path: the SVG.
        model: its name.
        rows: of metrics.csv, a row per case.
        names: names of all labels in order; those without a number are named and left empty.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.4 + 0.27 * len(names)), facecolor="white", layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2, sharey=True), METRICS, strict=True):
            _draw_metric(axes, rows, names, metric)
            dress(axes, f"{words(model)}: {metric}")
        save_figure(path, figure)


def _draw_metric(axes: Axes, rows: Sequence[Mapping[str, str]], names: Sequence[str], metric: str) -> None:
    colors = label_colors(names)
    for height, name in enumerate(names):
        values = [float(cell) for row in rows if (cell := row.get(f"{name}_{metric}"))]
        if values:
            axes.boxplot(
                values, positions=[height], orientation="horizontal", widths=0.6, patch_artist=True,
                boxprops={"facecolor": colors[name], "edgecolor": INK, "linewidth": 0.7},
                medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": INK, "linewidth": 0.7},
                capprops={"color": INK, "linewidth": 0.7},
                flierprops={"marker": "o", "markersize": 3, "markerfacecolor": colors[name], "markeredgewidth": 0.3},
            )  # fmt: skip
        else:
            axes.text(0.01, height, "no value", va="center_baseline", fontsize=8, fontstyle="italic", color=PALE_INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [words(name) for name in names], color=INK)
