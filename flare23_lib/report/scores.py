"""The scores of models as a figure: by class, the mean and the spread over cases, all models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flare23_lib.evaluation.metrics import METRICS
from flare23_lib.evaluation.tables import ORGANS
from flare23_lib.report.style import INK, MODEL_COLORS, PALE_INK, display_name, dress, new_figure

NO_VALUE = "no value"
"""In place of the score of a class for which no case has a number."""

ROW, MODEL, LETTER = 0.11, 0.2, 0.083
"""Inches: height of a class, of a model in it, width of a letter."""

TEXT: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
NOTE = TEXT | {"fontsize": 8.5, "fontstyle": "italic"}


def draw_scores(path: Path, summaries: Mapping[str, pd.DataFrame], metrics: Mapping[str, pd.DataFrame]) -> None:
    """Write the scores of each class as SVG and PNG, a panel per metric: means, and boxes of quartiles with outliers.

    Args:
        path: of the SVG.
        summaries: for each model, in the order of the figure, its summary.csv.
        metrics: for each model its metrics.csv.
    """
    kinds = classes_by_kind(summaries)
    shown = ["organs, mean" if kind == ORGANS else display_name(name) for name, kind in kinds.items()]
    looks = dict(zip(summaries, zip(cycle(MODEL_COLORS), cycle("osD^vPX"), strict=False), strict=False))
    width = 4.5 * len(METRICS) + LETTER * max(map(len, shown), default=0)
    columns = max(1, int((width - 1) / (0.55 + LETTER * max(map(len, summaries), default=0))))
    head = 1 + 0.23 * math.ceil(len(summaries) / columns)
    with new_figure(path, width, head + len(kinds) * (ROW + MODEL * len(summaries))) as figure:
        panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
        for axes, (metric, about) in zip(panels, METRICS.items(), strict=True):
            for index, kind in enumerate(kinds.values()):
                shade = "#e9eef4" if kind == ORGANS else "#f6f7f9" if index % 2 == 0 else "#ffffff"
                axes.axhspan(index - 0.5, index + 0.5, color=shade, linewidth=0, zorder=0)
            for number, (model, summary) in enumerate(summaries.items()):
                rows = summary.set_index("class")
                means = pd.to_numeric(rows[f"{metric}_mean"], errors="coerce")
                for index, name in enumerate(kinds):
                    if name in rows.index:
                        height = index + 0.8 * ((number + 0.5) / len(summaries) - 0.5)
                        cases = pd.to_numeric(metrics[model].get(f"{name}_{metric}", pd.Series())).dropna()
                        size = 0.6 / len(summaries)
                        _draw_box(axes, height, size, cases, looks[model][0])
                        _draw_mean(axes, height, means[name], rows.loc[name, "note"], looks[model])
            axes.set(xlim=(0, None if about.unit else 1), ylim=(len(kinds) - 0.5, -0.5))
            axes.set_yticks(range(len(kinds)), shown, color=INK)
            dress(axes, about.title)
        handles = [
            Line2D([], [], linestyle="", marker=mark, color=color, label=display_name(model))
            for model, (color, mark) in looks.items()
        ]
        if handles:
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK)


def classes_by_kind(summaries: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Return the kind of each class in all summaries: organs, their mean, then the other kinds."""
    kinds: dict[str, str] = {}
    for summary in summaries.values():
        kinds |= dict(zip(summary["class"], summary["kind"], strict=True))
    order = {"organ": 0, ORGANS: 1}
    return dict(sorted(kinds.items(), key=lambda item: order.get(item[1], 2)))


def _draw_box(axes: Axes, height: float, size: float, cases: pd.Series, color: str) -> None:
    """Draw quartiles, median, whiskers and outliers of the scores of single cases; nothing without any."""
    if cases.empty:
        return
    line = {"color": color, "linewidth": 0.7}
    outlier = {"marker": ".", "markersize": 3, "markeredgecolor": color}
    axes.boxplot(
        cases, positions=[height], widths=size, orientation="horizontal", manage_ticks=False, patch_artist=True,
        boxprops={"facecolor": "#ffffff", "edgecolor": color, "linewidth": 0.7}, whiskerprops=line, capprops=line,
        medianprops={"color": color, "linewidth": 1.6}, flierprops=outlier,
    )  # fmt: skip


def _draw_mean(axes: Axes, height: float, mean: float, note: str, look: tuple[str, str]) -> None:
    """Draw a mean as a mark, with its value at the right and its note beside it; or why there is none."""
    color, mark = look
    if math.isnan(mean):
        axes.annotate(note or NO_VALUE, (0, height), xytext=(4, 0), ha="left", color=color, **NOTE)
        return
    axes.plot(mean, height, marker=mark, markersize=5, color=color, clip_on=False, zorder=3)
    at_right: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "xytext": (10, 0)}
    axes.annotate(f"{mean:.3f}", (1, height), fontsize=9, color=INK, **TEXT, **at_right)
    end, offset, side = (0, 4, "left") if mean > 0.5 else (1, -4, "right")
    axes.annotate(note, (end, height), xytext=(offset, 0), ha=side, color=PALE_INK, **NOTE)
