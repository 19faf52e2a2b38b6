"""What the figures share: fonts, inks, how names are shown, and SVGs whose bytes follow from their content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flare23_lib.io import atomic

NO_STYLE = (
    "backend",
    "interactive",
    "toolbar",
    "timezone",
    "tk.",
    "webagg.",
    "date.epoch",
    "docstring.",
    "savefig.d",
)
"""Beginnings of the names of matplotlib's settings that are no matter of looks."""

STYLE = {
    # Nothing of a user's matplotlibrc, such as LaTeX, which a node may lack.
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(NO_STYLE)},
    "svg.fonttype": "none",
    "svg.hashsalt": "flare23",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a case may be named with dollar signs
}
"""For `matplotlib.rc_context`."""

INK, PALE_INK, GRID = "#1d2733", "#5d6876", "#d5dbe1"
"""Colors of words, of less important words, and of grid lines."""

NO_DATE = {"Date": None, "Creator": None}
"""Metadata for `savefig`: nothing that differs from run to run."""

PNG_DPI = 200
"""Resolution of the PNG beside each SVG."""


def words(name: str) -> str:
    """Return a name of the configuration as figures and pages show it."""
    return name.replace("_", " ")


def dress(axes: Axes, title: str = "", grid: Literal["x", "both"] | None = "x", ticks: str = INK) -> None:
    """Give axes the look of all figures: a bold title at the left, pale grid lines below the data, no frame."""
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.tick_params(length=0, labelcolor=ticks)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def apart(places: Sequence[float], steps: Sequence[float]) -> np.ndarray:
    """Return the places nearest to those given (least squares) that keep their order and lie at least steps apart.

    Args:
        places: in ascending order, at least one.
        steps: distances of neighbors, one fewer.
    """
    from scipy.optimize import isotonic_regression

    offsets = np.cumsum([0.0, *steps])
    return isotonic_regression(np.asarray(places) - offsets).x + offsets


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as SVG and, beside it, as PNG; the same content gives the same bytes.

    Args:
        path: of the SVG.
        figure: drawn under `STYLE`.
    """
    with atomic.atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata=NO_DATE)
    with atomic.atomic_path(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=PNG_DPI, metadata={"Software": None})
