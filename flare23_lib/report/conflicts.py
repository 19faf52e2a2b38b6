"""A completion's conflicts as a figure: classes of the original labels against those that the teacher predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flare23_lib.report.style import INK, PALE_INK, display_name, dress, new_figure

CELL, LETTER = 0.42, 0.09
"""Inches: side of a cell, width of a letter of the heading."""

DARK = 0.55
"""Share above which a number is written in white."""


def conflict_matrix(confusion: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the voxels of each pair of classes that occurs: a row per original class, a column per predicted one.

    Args:
        confusion: confusion.csv, with the columns original, predicted, voxels.
        names: of the labels in order; background and ignore are put around them.
    """
    counts = confusion.assign(voxels=pd.to_numeric(confusion["voxels"]))
    counts = counts.pivot(index="original", columns="predicted", values="voxels").fillna(0).astype("int64")
    order = ["background", *names, "ignore"]
    return counts.reindex(
        index=[name for name in order if name in counts.index],
        columns=[name for name in order if name in counts.columns],
    )


def draw_conflicts(path: Path, title: str, confusion: pd.DataFrame, names: Sequence[str]) -> None:
    """Write the matrix of `conflict_matrix` as SVG and PNG, with each row's shares of its voxels."""
    counts = conflict_matrix(confusion, names)
    totals = counts.sum(axis=1)
    shares = counts.div(totals.clip(lower=1), axis=0).to_numpy()
    heading = f"{display_name(title)}: {'no cases' if counts.empty else 'percent of each row'}"
    rows, columns = counts.shape
    width = max(3.4 + CELL * columns, 0.4 + LETTER * len(heading))
    with new_figure(path, width, 2.3 + CELL * rows) as figure:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.15)
        axes = figure.add_subplot()
        if not counts.empty:
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        for y, x in zip(*counts.to_numpy().nonzero(), strict=True):
            color = "white" if shares[y, x] > DARK else INK
            axes.text(x, y, _percent(shares[y, x]), ha="center", va="center", fontsize=7.5, color=color)
        predicted = [display_name(name) for name in counts.columns]
        originals = [f"{display_name(name)}  {_short(total)}" for name, total in totals.items()]
        axes.set_xticks(range(columns), predicted, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), originals)
        axes.set_xlabel("predicted by the teacher", color=PALE_INK)
        axes.set_ylabel("original label, voxels", color=PALE_INK)
        dress(axes, grid=None)
        figure.suptitle(heading, x=0.02, ha="left", color=INK, fontsize=11)


def _percent(share: float) -> str:
    if share < 0.0005:
        return "<0.1"
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _short(voxels: int) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if voxels >= factor:
            return f"{voxels / factor:.3g} {unit}"
    return str(voxels)
