"""Cases whose pseudo-labels changed most are left out of training.

What changes from one teacher to the next, or between the mirrored passes of one, is likely to be wrong. FLARE22's
winner (Huang et al., "Revisiting nnU-Net for iterative pseudo labeling and efficient sliding window inference")
filtered its unlabeled cases by how their pseudo-labels changed from round to round; this is in that spirit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

DIGITS = 6
"""Decimals that a change is given with."""


def change_between(one: np.ndarray, other: np.ndarray, values: Collection[int]) -> float:
    """Return 1 minus the mean Dice of the classes that either label map holds; 0 if neither holds any.

    Args:
        one: uint8 (z, y, x) label values.
        other: the same of the same shape.
        values: label values that count.
    """
    ones, others = (np.bincount(labels.ravel(), minlength=256) for labels in (one, other))
    both = np.bincount(one[one == other], minlength=256)
    held = [value for value in values if ones[value] + others[value]]
    return round(1 - _mean([2 * both[value] / (ones[value] + others[value]) for value in held]), DIGITS)


def change_between_passes(agreement: Mapping[str, float | None]) -> float:
    """Return 1 minus the mean agreement of the classes that the passes hold; 0 if they hold none.

    Args:
        agreement: class -> Dice between each pass's labels and the mean's, averaged; None if no pass holds it.
    """
    return round(1 - _mean([score for score in agreement.values() if score is not None]), DIGITS)


def most_changed(changes: Mapping[str, float], share: float) -> set[str]:
    """Return the share of the cases that changed most, rounded down; of equal ones the first by name stay."""
    count = math.floor(share * len(changes) + 1e-9)
    ordered = sorted(changes, key=lambda case: (changes[case], case))
    return set(ordered[len(ordered) - count :])


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 1.0
