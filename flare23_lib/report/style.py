"""What the figures share: fonts, inks, and how an SVG is written so that the same content gives the same bytes."""

from __future__ import annotations

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flare23",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
}
"""For `matplotlib.rc_context`."""

INK, PALE_INK = "#1d2733", "#5d6876"
"""Colors of words."""

NO_DATE = {"Date": None, "Creator": None}
"""Metadata for `savefig`: nothing that differs from run to run."""
