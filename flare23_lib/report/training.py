"""The course of a training as a figure: losses, and the pseudo Dice of each class, by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from flare23_lib.colors import label_colors
from flare23_lib.report.style import INK, PALE_INK, display_name, dress, new_figure

CLASS = "pseudo_dice_"
MIN_HEIGHT, LINE = 3.6, 0.175
"""Inches: height of the figure, and of a class's name in the legend."""

FEW_EPOCHS = 50
"""Fewer are marked one by one."""


def draw_training(path: Path, model: str, history: pd.DataFrame) -> None:
    """Write the figure of a model's training.csv as SVG and PNG."""
    history = history.apply(pd.to_numeric, errors="coerce").set_index("epoch")
    colors = label_colors([column.removeprefix(CLASS) for column in history if column.startswith(CLASS)])
    dices = {name: history[CLASS + name].dropna() for name in colors}
    seen = sorted((name for name in dices if len(dices[name])), key=lambda name: -dices[name].iloc[-1])
    line: dict[str, Any] = {"marker": "." if len(history) < FEW_EPOCHS else "", "markersize": 4}
    with new_figure(path, 9.5, max(MIN_HEIGHT, 1 + LINE * len(seen))) as figure:
        losses, dice = figure.subplots(1, 2, width_ratios=(1, 1.35))
        losses.plot(history["train_loss"].dropna(), color="#0072b2", label="training", **line)
        losses.plot(history["validation_loss"].dropna(), color="#d55e00", label="validation patches", **line)
        losses.legend(frameon=False, labelcolor=INK, fontsize=9)
        for name in seen:  # in the order of their last values, as in the legend
            dice.plot(dices[name], color=colors[name], linewidth=1.1, label=display_name(name), **line)
        dice.plot(history["pseudo_dice"].dropna(), color=INK, linewidth=2, label="mean", **line)
        dice.set_ylim(0, 1)
        dice.legend(frameon=False, labelcolor=INK, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        dress(losses, f"{display_name(model)}: loss", "both", PALE_INK)
        dress(dice, "pseudo Dice, ordered by the last epoch", "both", PALE_INK)
        for axes in (losses, dice):
            axes.set_xlabel("epoch", color=PALE_INK)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
