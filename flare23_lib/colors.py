"""Colors of label classes.

They were chosen one after the other, each as far as possible from all before it in CIELAB, where the distance is the
smallest of those seen with normal sight, with protanopia and with deuteranopia (simulated after Machado et al. 2009).
Any number of first colors is therefore a good choice, and the first 20 differ for everyone. CIELAB overstates how far
blues are apart: two of them are replaced, so that under normal sight all are more than 12 apart by CIEDE2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

LABEL_COLORS = (
    "#ff7711", "#0000ff", "#88eeff", "#773333", "#4488dd", "#663377", "#33cc77", "#bbeecc", "#ccee77", "#ffdd00",
    "#446600", "#bb6677", "#ff3344", "#8844ee", "#3344aa", "#99bbff", "#778844", "#996699", "#dd99bb", "#773355",
)  # fmt: skip
"""Colors of label classes in the order of the label map."""


def label_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each class, given all names in the order of the label map; after 20 they repeat."""
    return dict(zip(names, cycle(LABEL_COLORS), strict=False))
