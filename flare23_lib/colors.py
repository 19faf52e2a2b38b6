"""Colors of the figures: one for every label class, a few for models.

The label colors were chosen one after the other, each as far as possible from all before it in CIELAB, where the
distance is the smallest of those seen with normal sight, with protanopia and with deuteranopia (simulated after
Machado et al. 2009). Any number of first colors is therefore a good choice, and the first 20 differ for everyone. The
model colors begin with the blue and the vermilion of Okabe and Ito (2008), go on by the same rule, and are dark
enough for text on white.
"""

from __future__ import annotations

from collections.abc import Sequence

LABEL_COLORS = (
    "#ff7711",
    "#0000ff",
    "#88eeff",
    "#773333",
    "#4488dd",
    "#663377",
    "#33cc77",
    "#bbeecc",
    "#ccee77",
    "#ffdd00",
    "#446600",
    "#bb6677",
    "#ff3344",
    "#0033cc",
    "#3344aa",
    "#99bbff",
    "#1177ff",
    "#996699",
    "#dd99bb",
    "#773355",
)
"""Colors of label classes in the order of the label map."""

MODEL_COLORS = ("#0072b2", "#d55e00", "#4f8a76", "#3b1620", "#1b2fb5", "#0b0b3b")
"""Colors of models in the order in which a figure names them."""


def label_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each class, given all names in the order of the label map; after 20 they repeat."""
    return _assigned(names, LABEL_COLORS)


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each model; after 6 they repeat, so a figure should also vary the mark."""
    return _assigned(names, MODEL_COLORS)


def _assigned(names: Sequence[str], colors: Sequence[str]) -> dict[str, str]:
    return {name: colors[index % len(colors)] for index, name in enumerate(names)}
