"""The course of a training as a figure: losses, and the pseudo Dice of each class, by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare23_lib.colors import label_colors
from flare23_lib.report.style import INK, PALE_INK, STYLE, apart, dress, save_figure, words

_CLASS = "pseudo_dice_"
HEIGHT, LINE = 3.6, 0.165
"""Of the figure, at least, and of a class's name, in inches."""


def draw_training(path: Path, model: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the figure as SVG and PNG; the same rows give the same bytes.

    Args:
        path: the file to write.
        model: its name.
        rows: of training.csv, a row per epoch.
    """
    names = [name.removeprefix(_CLASS) for name in (rows[0] if rows else {}) if name.startswith(_CLASS)]
    height = max(HEIGHT, 0.9 + LINE * len(names))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, height), facecolor="white", layout="constrained")
        losses, dice = figure.subplots(1, 2, width_ratios=(1, 1.35))
        _draw_losses(losses, model, rows)
        _draw_dice(dice, rows, names, min(0.06, LINE / (height - 0.9)))
        for axes in (losses, dice):
            axes.set_xlabel("epoch", color=PALE_INK)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        save_figure(path, figure)


def _column(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Return epochs and values where there is a value."""
    known = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _draw_losses(axes: Axes, model: str, rows: Sequence[Mapping[str, str]]) -> None:
    axes.plot(*_column(rows, "train_loss"), color="#0072b2", linewidth=1.6, label="training")
    axes.plot(*_column(rows, "validation_loss"), color="#d55e00", linewidth=1.2, label="patches looked at")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    dress(axes, f"{words(model)}: loss", "both", PALE_INK)


def _draw_dice(axes: Axes, rows: Sequence[Mapping[str, str]], names: Sequence[str], least: float) -> None:
    """Draw a line per class; each is named, in its color, at the right, no two names closer than `least`."""
    colors = label_colors(names)
    ends = []
    for name in names:
        epochs, values = _column(rows, _CLASS + name)
        marker = "o" if len(epochs) == 1 else None
        if values:
            axes.plot(epochs, values, color=colors[name], linewidth=1.1, marker=marker, markersize=3)
            ends.append((values[-1], name))
    axes.plot(*_column(rows, "pseudo_dice"), color=INK, linewidth=2)
    axes.set_ylim(0, 1)
    dress(axes, "pseudo Dice (black: mean)", "both", PALE_INK)
    for height, (_, name) in zip(_heights([value for value, _ in sorted(ends)], least), sorted(ends), strict=True):
        for text, color, offset in (("\N{BLACK CIRCLE}", colors[name], 6), (words(name), INK, 17)):
            axes.annotate(
                text, (1, height), xycoords=("axes fraction", "data"), xytext=(offset, 0),
                textcoords="offset points", va="center", fontsize=8, color=color, annotation_clip=False,
            )  # fmt: skip


def _heights(values: Sequence[float], least: float) -> list[float]:
    """Return heights for words, in order, no two closer than `least`, around the values, in 0 to 1 if they fit."""
    if not values:
        return []
    heights = apart(values, [least] * (len(values) - 1))
    return list(heights + max(min(0, 1 - heights[-1]), -heights[0]))
