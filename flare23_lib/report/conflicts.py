"""A completion's conflicts as a figure: classes of the original labels against those that the teacher predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flare23_lib.report.style import INK, PALE_INK, STYLE, dress, save_figure, words

BACKGROUND = "background"

CELL = 0.42
"""Inches per class."""

LETTER = 0.09
"""Inches per letter of the heading."""

DARK = 0.55
"""Share from which on a number is written in white."""


def conflict_matrix(
    rows: Sequence[Mapping[str, str]], names: Sequence[str]
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the classes of the originals, those of the predictions, and the voxels of each pair of them.

    Args:
        rows: of confusion.csv: original, predicted, voxels.
        names: names of the labels in order; background and ignore are put around them.

    Returns:
        Row names, column names and an integer array (rows, columns); classes that occur on neither side are left out.
    """
    order = [BACKGROUND, *names, "ignore"]
    originals = [name for name in order if any(row["original"] == name for row in rows)]
    predictions = [name for name in order if any(row["predicted"] == name for row in rows)]
    counts = np.zeros((len(originals), len(predictions)), dtype=np.int64)
    for row in rows:
        counts[originals.index(row["original"]), predictions.index(row["predicted"])] += int(row["voxels"])
    return originals, predictions, counts


def draw_conflicts(output: Path, title: str, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
    """Draw the matrix: each row's shares of what the teacher predicted where the original has the row's class.

    Args:
        output: the figure (SVG; a PNG is written beside it).
        title: what stands above it.
        rows: of confusion.csv.
        names: names of the labels in order.
    """
    originals, predictions, counts = conflict_matrix(rows, names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    with matplotlib.rc_context(STYLE):
        heading = f"{words(title)}: percent of each row" if counts.size else f"{words(title)}: no cases"
        width = max(3.4 + CELL * len(predictions), 0.4 + LETTER * len(heading))
        figure = Figure(figsize=(width, 2.3 + CELL * len(originals)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.15)
        axes = figure.add_subplot()
        if counts.size:
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        for (y, x), share in np.ndenumerate(shares):
            if counts[y, x]:
                axes.text(x, y, _percent(share), ha="center", va="center", fontsize=7.5,
                          color="white" if share > DARK else INK)  # fmt: skip
        axes.set_xticks(range(len(predictions)), [words(name) for name in predictions], rotation=45, ha="right",
                        rotation_mode="anchor")  # fmt: skip
        rows_named = [f"{words(name)}  {_count(total)}" for name, total in zip(originals, totals[:, 0], strict=True)]
        axes.set_yticks(range(len(originals)), rows_named)
        axes.set_xlabel("predicted by the teacher", color=PALE_INK)
        axes.set_ylabel("original label, voxels", color=PALE_INK)
        dress(axes, grid=None)
        figure.suptitle(heading, x=0.02, ha="left", color=INK, fontsize=11)
        save_figure(output, figure)


def _percent(share: float) -> str:
    if share < 0.0005:
        return "<0.1"
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _count(voxels: int) -> str:
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if voxels >= factor:
            return f"{voxels / factor:.3g} {unit}"
    return str(voxels)
