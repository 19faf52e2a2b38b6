"""What the figures share: fonts, colors, how names are shown, and SVGs whose bytes follow from their content.

The model colors begin with the blue and the vermilion of Okabe and Ito (2008), and continue by the rule of
`flare23_lib.colors`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flare23_lib.io import atomic

STYLE: list[Any] = [
    "default",  # nothing of a user's matplotlibrc, such as LaTeX, which a node may lack
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "flare23",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "text.parse_math": False,  # a case may be named with dollar signs
    },
]
"""For `matplotlib.style.context`."""

INK, PALE_INK, GRID = "#1d2733", "#5d6876", "#d5dbe1"
"""Colors of text, of less important text, and of grid lines."""

MODEL_COLORS = ("#0072b2", "#d55e00", "#4f8a76", "#3b1620", "#1b2fb5", "#0b0b3b")
"""Colors of models in the order in which a figure names them."""

MAX_LETTERS = 64
"""Letters of a case's name in a title; the longest of DICOM's UIDs fits."""

LEGEND_PADDING, LEGEND_MARK, LEGEND_LETTER, LEGEND_ROW = 2, 4.8, 0.6, 1.5
"""In a legend, in font sizes: width around it, of a color with its gaps and of a letter; height of a row."""

LEGEND_ROWS = 3
"""Rows that figures leave room for."""

PNG_DPI = 200
"""Resolution of the PNG beside each SVG."""


def display_name(name: str) -> str:
    """Return a name of the configuration as figures and pages show it."""
    return name.replace("_", " ")


def count(number: int, thing: str) -> str:
    """Return a number of things, `1 case`, `2,000 cases` or `2 classes`."""
    plural = "" if number == 1 else "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{plural}"


def shortened(name: str) -> str:
    """Return a name for a title, without its middle if it is too long."""
    half = MAX_LETTERS // 2
    return name if len(name) <= MAX_LETTERS else f"{name[:half]}…{name[-half:]}"


def add_legend(figure: Figure, colors: Iterable[tuple[str, Any]], size: int) -> None:
    """Add the names and colors of labels, below the axes, in as many columns as fit; a long one makes the figure
    higher."""
    shown = list(colors)
    handles = [Patch(facecolor=color, edgecolor=INK, label=name) for name, color in shown]
    letters = max((len(name) for name, _ in shown), default=0)
    room = 72 * figure.get_figwidth() / size - LEGEND_PADDING
    columns = max(1, int(room / (LEGEND_MARK + LEGEND_LETTER * letters)))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * size / 72 * max(0, rows - LEGEND_ROWS))
    figure.legend(
        handles=handles, loc="outside lower left", ncols=columns, fontsize=size, frameon=False, labelcolor=INK
    )


@contextmanager
def new_figure(path: Path, width: float, height: float, dpi: int = PNG_DPI) -> Iterator[Figure]:
    """Draw a figure in the look of all; at the end it is written as SVG and, beside it, as PNG; or as PNG alone.

    The same content gives the same bytes.

    Args:
        path: of the SVG, or of a PNG alone.
        width: in inches.
        height: in inches.
        dpi: of the PNG.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        yield figure
        if path.suffix == ".svg":
            with atomic.atomic_path(path) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        with atomic.atomic_path(path.with_suffix(".png")) as temporary:
            figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def dress(axes: Axes, title: str = "", grid: Literal["x", "both"] | None = "x", ticks: str = INK) -> None:
    """Give axes the look of all figures: a bold title at the left, pale grid lines below the data, no frame."""
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.tick_params(length=0, labelcolor=ticks)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
