"""FLARE23's cohort in figures, for what is drawn and estimated without its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CASES: Mapping[str, int] = {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800, "validation": 50}
"""Training cases of each category of config.yaml, and validation cases with a published label."""

SIZES: Sequence[tuple[tuple[int, int, int], tuple[float, float, float]]] = (
    ((44, 512, 512), (5.0, 0.931641, 0.931641)),
    ((84, 512, 512), (2.5, 0.839844, 0.839844)),
    ((101, 512, 512), (5.0, 0.896484, 0.896484)),
    ((133, 512, 512), (2.5, 0.976562, 0.976562)),
    ((157, 285, 285), (1.5, 1.5, 1.5)),
    ((206, 512, 512), (1.0, 0.927734, 0.927734)),
    ((371, 512, 512), (2.5, 0.894531, 0.894531)),
    ((488, 512, 512), (0.8, 0.734375, 0.734375)),
    ((588, 512, 512), (0.8, 0.820312, 0.820312)),
    ((852, 512, 512), (1.0, 0.810547, 0.810547)),
)
"""Shape (z, y, x) in voxels and spacing (z, y, x) in mm of ten training CTs that stand for all.

Of the 3,918 whose geometry the paper's authors released, ordered by their number of slices, they are the middle ones
of ten equal parts.
"""
