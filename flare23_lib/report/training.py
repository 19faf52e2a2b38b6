"""The course of a training as a figure: losses, and the pseudo Dice of each class, by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from flare23_lib.report.style import INK, PALE_INK, display_name, dress, label_colors, new_figure

_CLASS = "pseudo_dice_"
MIN_HEIGHT, LINE = 3.6, 0.165
"""Inches: height of the figure, and of a class's name."""


def draw_training(path: Path, model: str, history: pd.DataFrame) -> None:
    """Write the figure as SVG and PNG.

    Args:
        path: of the SVG.
        model: its name.
        history: training.csv, a row per epoch.
    """
    history = history.apply(pd.to_numeric).set_index("epoch")
    lines = {name: history[name].dropna() for name in history}
    classes = [name.removeprefix(_CLASS) for name in lines if name.startswith(_CLASS)]
    colors = label_colors(classes)
    height = max(MIN_HEIGHT, 0.9 + LINE * len(classes))
    with new_figure(path, 9.5, height) as figure:
        losses, dice = figure.subplots(1, 2, width_ratios=(1, 1.35))
        losses.plot(lines["train_loss"], color="#0072b2", linewidth=1.6, label="training")
        losses.plot(lines["validation_loss"], color="#d55e00", linewidth=1.2, label="validation patches")
        losses.legend(frameon=False, labelcolor=INK, fontsize=9)
        for name in classes:
            line = lines[_CLASS + name]
            marker = "o" if len(line) == 1 else None
            dice.plot(line, color=colors[name], linewidth=1.1, marker=marker, markersize=3)
        dice.plot(lines["pseudo_dice"], color=INK, linewidth=2)
        dice.set_ylim(0, 1)
        ends = sorted((lines[_CLASS + name].iloc[-1], name) for name in classes if len(lines[_CLASS + name]))
        places = name_heights([value for value, _ in ends], min(0.06, LINE / (height - 0.9)))
        for place, (_, name) in zip(places, ends, strict=True):
            for text, color, offset in (("\N{BLACK CIRCLE}", colors[name], 6), (display_name(name), INK, 17)):
                dice.annotate(
                    text, (1, place), xycoords=("axes fraction", "data"), xytext=(offset, 0),
                    textcoords="offset points", va="center", fontsize=8, color=color, annotation_clip=False,
                )  # fmt: skip
        dress(losses, f"{display_name(model)}: loss", "both", PALE_INK)
        dress(dice, "pseudo Dice (black: mean)", "both", PALE_INK)
        for axes in (losses, dice):
            axes.set_xlabel("epoch", color=PALE_INK)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def name_heights(values: Sequence[float], distance: float) -> list[float]:
    """Return the ascending heights nearest to those given, at a distance, and within 0 and 1 if they fit."""
    if not values:
        return []
    offsets = distance * np.arange(len(values))
    heights = isotonic_regression(np.asarray(values) - offsets).x + offsets
    return list(heights + max(min(0, 1 - heights[-1]), -heights[0]))
