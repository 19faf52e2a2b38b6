"""How bodies and scans differ, and where a scan's voxels are in the deformed body."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flare23_lib.axes import Slices, as_triple

Range = tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """How much bodies and scans differ; lengths in mm, angles in degrees, ranges uniform, SD a standard deviation."""

    z_spacings: tuple[float, ...] = (4.0, 5.0, 6.0)  # slice distances to choose from
    plane_spacings: tuple[float, ...] = (3.0, 3.4, 3.8, 4.2)  # pixel sizes to choose from
    plane_view: Range = (370.0, 395.0)  # field of view in plane
    z_view: Range = (200.0, 260.0)  # field of view along z
    shift: Range = (26.0, 36.0)  # largest distance (x, y) of the body's center from the center of the field of view
    in_view: Range = (-84.0, 98.0)  # z of the body frame that every scan covers
    size: Range = (0.85, 1.15)  # scale of the whole body
    proportion: float = 0.05  # largest relative change of a single axis on top of it
    tilt: tuple[float, float, float] = (3.0, 3.0, 6.0)  # largest rotation about x, y and z
    fat: Range = (6.0, 20.0)  # thickness of the subcutaneous fat
    bends: tuple[Range, ...] = ((80.0, 4.5), (36.0, 1.4))  # wavelength and SD of each smooth deformation
    phase: Range = (0.0, 0.6)  # portal (0) to arterial (1)
    organ_hu: float = 4.0  # SD of an organ's mean HU
    noise_hu: Range = (6.0, 11.0)  # SD of the noise


VARIATION = Variation()


@dataclass(frozen=True)
class Frame:
    """Where voxels are in the world and in the deformed body frame.

    Attributes:
        axes: world coordinates along the stored z, y and x axes, in mm from the body's center.
        body: deformed body coordinates (x, y, z) of every voxel, each (z, y, x) float32.
        scale: mm of the world per mm of the body, (x, y, z).
        margin: by how much tilt and deformation may move a point, in mm of the world.
    """

    axes: tuple[np.ndarray, ...]
    body: tuple[np.ndarray, ...]
    scale: np.ndarray
    margin: float

    def window(self, low: np.ndarray, high: np.ndarray) -> Slices:
        """Return an index box (z, y, x) that covers a box (x, y, z) of the body frame."""
        slices = []
        for axis, coordinates in zip((2, 1, 0), self.axes, strict=True):
            first = low[axis] * self.scale[axis] - self.margin
            last = high[axis] * self.scale[axis] + self.margin
            indices = np.flatnonzero((coordinates >= first) & (coordinates <= last))
            slices.append(slice(indices[0], indices[-1] + 1) if indices.size else slice(0, 0))
        return as_triple(slices)


def smooth_field(rng: np.random.Generator, axes: tuple[np.ndarray, ...], wavelength: float) -> np.ndarray:
    """Return a smooth random field of unit variance, (z, y, x) float32.

    Random weights on a grid of knots half a wavelength apart are spread by Gaussians, axis by axis. The grid reaches
    320 mm from the body's center whatever the field of view.
    """
    step = wavelength / 2
    count = math.ceil(320 / step)
    knots = np.arange(-count, count + 1) * step
    field = rng.standard_normal((knots.size,) * 3)
    for axis, coordinates in enumerate(axes):
        basis = np.exp(-0.5 * ((coordinates[:, None] - knots) / (0.7 * step)) ** 2)
        basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
        near = np.flatnonzero(basis.max(axis=0) > 1e-3)
        used = slice(near[0], near[-1] + 1)
        field = np.moveaxis(field, axis, 0)[used]
        field = np.moveaxis(np.einsum("nk,kij->nij", basis[:, used], field), 0, axis)
    return field.astype(np.float32)


def draw_grid(
    rng: np.random.Generator, variation: Variation, coarseness: float, flipped: bool
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Draw a voxel grid: its shape (z, y, x), its affine, and its center in the world (x, y, z)."""
    plane = float(rng.choice(variation.plane_spacings)) * coarseness
    depth = float(rng.choice(variation.z_spacings)) * coarseness
    pixels = 2 * round(rng.uniform(*variation.plane_view) / plane / 2)
    shape = (round(rng.uniform(*variation.z_view) / depth), pixels, pixels)
    center = np.round(np.array([rng.uniform(-20, 20), rng.uniform(-20, 20), rng.uniform(-900, 300)]), 1)
    sign = -1.0 if flipped else 1.0
    steps = np.array([sign * plane, sign * plane, depth])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = center - steps * (np.array(shape[::-1]) - 1) / 2
    return shape, affine, center


def place_body(
    rng: np.random.Generator,
    variation: Variation,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    view_center: np.ndarray,
) -> Frame:
    """Draw place, size, tilt and deformation of a body in a voxel grid as `draw_grid` returns it."""
    scale = rng.uniform(*variation.size) * (1 + rng.uniform(-1, 1, 3) * variation.proportion)
    rotation = _rotation(rng.uniform(-1, 1, 3) * variation.tilt)
    half = shape[0] * affine[2, 2] / 2
    lowest, highest = sorted((variation.in_view[1] * scale[2] - half, variation.in_view[0] * scale[2] + half))
    offset = [*(rng.uniform(-1, 1, 2) * variation.shift), -rng.uniform(lowest, highest)]
    center = view_center + offset
    x, y, z = (affine[axis, axis] * np.arange(shape[2 - axis]) + affine[axis, 3] - center[axis] for axis in range(3))
    axes = (z, y, x)
    body = []
    for axis in range(3):
        row = (rotation[:, axis] / scale[axis]).astype(np.float32)
        coordinate = (row[2] * z[:, None, None] + row[1] * y[:, None] + row[0] * x).astype(np.float32)
        for wavelength, amount in variation.bends:
            coordinate += np.float32(amount) * smooth_field(rng, axes, wavelength)
        body.append(coordinate)
    bend = sum(amount for _, amount in variation.bends)
    return Frame(axes, tuple(body), scale, margin=4 * bend + 18)


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Return the matrix of rotations about x, y and z, in this order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
