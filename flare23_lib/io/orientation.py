"""From the axes of a file to those that a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from flare23_lib.axes import Spacing, as_triple
from flare23_lib.errors import ImageError

CANONICAL_AXES = ("L", "P", "S")
"""The canonical direction of the x, y and z axes: ITK's identity (left, posterior, superior)."""


@dataclass(frozen=True)
class Orientation:
    """How stored axes become the axes a network sees, as nibabel's orientation array of (x, y, z): flips and
    permutations."""

    transform: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, mode: str) -> Orientation:
        """Return the orientation for an affine: mode "stored" changes nothing, "canonical" brings it to LPS."""
        stored = nib.io_orientation(affine)
        seen = nib.orientations.axcodes2ornt(CANONICAL_AXES) if mode == "canonical" else stored
        if np.isnan(stored).any():
            raise ImageError("the affine is singular: an axis has no direction")
        return cls(nib.orientations.ornt_transform(stored, seen))

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Turn a stored (z, y, x) array into the seen one: a view, through which the stored one can be filled."""
        return nib.orientations.apply_orientation(array.T, self.transform).T

    def spacing(self, spacing: Sequence[float]) -> Spacing:
        """Reorder a stored spacing (z, y, x) for the seen axes."""
        seen = [0.0, 0.0, 0.0]
        for axis, (target, _) in enumerate(self.transform):
            seen[int(target)] = spacing[::-1][axis]
        return as_triple(seen[::-1])
