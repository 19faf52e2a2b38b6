"""Intensity normalization, and its numbers measured on a training set's foreground as nnU-Net does.

nnU-Net 2.8.1 (`DatasetFingerprintExtractor`) draws from the foreground of each case the same number of voxels, with
replacement, so that each case weighs the same, and takes percentiles, mean and standard deviation of all of them. The
number is 10,000 where `collect_foreground_intensities` is called by itself, and 1e8 over the number of cases in a run
of nnU-Net. Here it is 10,000, so that what is drawn from a case does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from flare23_lib.errors import ConfigError
from flare23_lib.labels import IGNORE_VALUE

if TYPE_CHECKING:
    from flare23_lib.config.training_models import IntensityValues

SAMPLES = 10_000
"""Voxels that are drawn from a case (nnU-Net's default)."""

SEED = 1234
"""nnU-Net's."""

PERCENTILES = (0.5, 99.5)
"""Between them intensities are clipped."""

DIGITS = 4
"""To which a result is rounded: differences between CPUs are smaller."""


@dataclass(frozen=True)
class Intensity:
    """CT intensity normalization: clip to [low, high] HU, subtract mean, divide by std (nnU-Net's CT scheme)."""

    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def of(cls, setting: Literal["measure"] | IntensityValues) -> Intensity:
        """Return a model's setting; ConfigError for one that is yet to be measured."""
        if setting == "measure":
            raise ConfigError("intensity: is not measured yet")
        return cls(**dict(setting))


def draw_foreground(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw `SAMPLES` voxels out of an image's foreground, with replacement, and return their intensities, float32.

    The image, in HU, and the labels are (z, y, x); background is 0, and voxels to ignore are no foreground. Without
    foreground the result is empty.
    """
    # Slice by slice: a mask of the whole would take as much memory as the labels.
    slices = zip(image, labels, strict=True)
    foreground = np.concatenate([plane[(label != 0) & (label != IGNORE_VALUE)] for plane, label in slices])
    if not foreground.size:
        return np.empty(0, np.float32)
    return np.random.RandomState(SEED).choice(foreground, SAMPLES, replace=True).astype(np.float32)


def pool(samples: Sequence[np.ndarray]) -> dict[str, float]:
    """Return `low`, `high`, `mean` and `std` in HU of the voxels drawn from all cases; at least one is needed."""
    drawn = np.concatenate(samples).astype(np.float64)
    low, high = np.percentile(drawn, PERCENTILES)
    values = {"low": low, "high": high, "mean": drawn.mean(), "std": drawn.std()}
    return {name: round(float(value), DIGITS) for name, value in values.items()}
