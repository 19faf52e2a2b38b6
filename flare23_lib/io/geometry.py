"""Where the voxels of an image are in the world, and whether two images lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from flare23_lib.axes import Spacing, Triple, as_triple

GEOMETRY_TOLERANCE = 0.1
"""Geometries that put a corner of the volume further apart than this, in voxels, are different."""


@dataclass(frozen=True)
class Geometry:
    """The place of an image in the world.

    Attributes:
        shape: (z, y, x).
        affine: 4x4 float64, voxel (x, y, z) to RAS+ mm.
        spacing: (z, y, x) in mm, the header's float32 zooms as Python floats, whatever its unit.
    """

    shape: Triple
    affine: np.ndarray
    spacing: Spacing

    @classmethod
    def of(cls, shape: Sequence[int], affine: np.ndarray) -> Geometry:
        """Return the geometry of an image of a shape (z, y, x) whose spacing is its affine's."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
        return cls(as_triple(map(int, shape)), affine, as_triple(map(float, spacing)))

    @property
    def axis_codes(self) -> str:
        """Directions of the x, y and z axes, such as `LPS`."""
        return "".join(code or "?" for code in nib.aff2axcodes(self.affine))

    @property
    def axes(self) -> str:
        """Directions and lengths of the axes for a message, like `LPS 0.8x0.8x2.5 mm` (x, y, z)."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return self.axis_codes + " " + "x".join(f"{value:.4g}" for value in spacing) + " mm"

    def difference(self, other: Geometry, tolerance: float = GEOMETRY_TOLERANCE) -> str | None:
        """Return how two geometries differ; None if no corner of the volume is further apart than the tolerance, in
        voxels."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        distances = lengths_at_corners(self.shape, np.linalg.solve(self.affine, other.affine - self.affine))
        if (distance := distances.max()) <= tolerance:
            return None
        if np.ptp(distances) < distance / 2:
            what = f"origin {self.affine[:3, 3].tolist()} against {other.affine[:3, 3].tolist()}"
        else:
            what = f"axes {self.axes} against {other.axes}"
        return f"{what}, a corner is {distance:.3g} voxels off"


def lengths_at_corners(shape: Triple, shift: np.ndarray) -> np.ndarray:
    """Return the lengths (8,) of what a 4x4 matrix makes of the corners (x, y, z) of a volume of shape (z, y, x)."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape[::-1]])).reshape(3, -1)
    return np.linalg.norm(shift[:3, :3] @ corners + shift[:3, 3:], axis=0)
