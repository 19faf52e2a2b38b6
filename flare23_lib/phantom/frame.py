"""How bodies and scans differ, and where a scan's voxels lie in the deformed body."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flare23_lib.axes import Slices, as_triple
from flare23_lib.phantom.anatomy import Point


@dataclass(frozen=True)
class Variation:
    """How much bodies and scans differ; lengths in mm, angles in degrees, ranges uniform.

    Attributes:
        z_spacings: slice distances to choose from.
        plane_spacings: pixel sizes to choose from.
        plane_view: field of view in plane.
        z_view: field of view along z.
        shift: largest distance (x, y) of the body's center from the center of the field of view.
        in_view: z from and to which every scan reaches at least, in mm of the body frame; within this and the
            length of the scan its place is free.
        size: whole-body scale.
        proportion: largest relative change of a single axis on top of it.
        tilt: largest rotation about x, y and z.
        fat: thickness of the subcutaneous fat.
        bends: pairs of wavelength and standard deviation of the smooth deformation.
        phase: portal (0) to arterial (1).
        organ_hu: standard deviation of an organ's mean HU.
        noise_hu: standard deviation of the noise.
    """

    z_spacings: tuple[float, ...] = (4.0, 5.0, 6.0)
    plane_spacings: tuple[float, ...] = (3.0, 3.4, 3.8, 4.2)
    plane_view: tuple[float, float] = (370.0, 395.0)
    z_view: tuple[float, float] = (200.0, 260.0)
    shift: tuple[float, float] = (26.0, 36.0)
    in_view: tuple[float, float] = (-84.0, 98.0)
    size: tuple[float, float] = (0.85, 1.15)
    proportion: float = 0.05
    tilt: Point = (3.0, 3.0, 6.0)
    fat: tuple[float, float] = (6.0, 20.0)
    bends: tuple[tuple[float, float], ...] = ((80.0, 4.5), (36.0, 1.4))
    phase: tuple[float, float] = (0.0, 0.6)
    organ_hu: float = 4.0
    noise_hu: tuple[float, float] = (6.0, 11.0)


VARIATION = Variation()


@dataclass(frozen=True)
class Frame:
    """The voxel grid: where voxels lie in the world and in the deformed body frame.

    Attributes:
        axes: world coordinates along the stored z, y and x axes, in mm from the body's center.
        body: deformed body coordinates (x, y, z) of every voxel, each (z, y, x) float32.
        scale: mm of the world per mm of the body, (x, y, z).
        margin: by how much tilt and deformation may move a point, in mm of the world.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    body: tuple[np.ndarray, np.ndarray, np.ndarray]
    scale: np.ndarray
    margin: float

    def window(self, low: np.ndarray, high: np.ndarray) -> Slices:
        """Return the index box that surely covers a box (x, y, z) of the body frame."""
        slices = []
        for axis, coordinates in zip((2, 1, 0), self.axes, strict=True):
            inside = (coordinates >= low[axis] * self.scale[axis] - self.margin) & (
                coordinates <= high[axis] * self.scale[axis] + self.margin
            )
            indices = np.flatnonzero(inside)
            slices.append(slice(indices[0], indices[-1] + 1) if indices.size else slice(0, 0))
        return as_triple(slices)


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a number between two bounds."""
    return float(rng.uniform(*bounds))


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix for angles about x, y and z, applied in this order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_field(
    rng: np.random.Generator, axes: tuple[np.ndarray, ...], wavelength: float, reach: float = 320.0
) -> np.ndarray:
    """A smooth random field of unit variance, (z, y, x) float32.

    Random weights sit on a grid of knots half a wavelength apart, out to `reach` mm from the body's center whatever
    the field of view, and are spread by Gaussians, axis by axis.
    """
    step = wavelength / 2
    count = math.ceil(reach / step)
    knots = np.arange(-count, count + 1) * step
    field_values = rng.standard_normal((knots.size,) * 3)
    for axis, coordinates in enumerate(axes):
        basis = np.exp(-0.5 * ((coordinates[:, None] - knots) / (0.7 * step)) ** 2)
        basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
        near = np.flatnonzero(basis.max(axis=0) > 1e-3)
        basis = basis[:, near[0] : near[-1] + 1]
        field_values = np.moveaxis(field_values, axis, 0)[near[0] : near[-1] + 1]
        field_values = np.moveaxis(np.einsum("nk,kij->nij", basis, field_values), 0, axis)
    return field_values.astype(np.float32)


def voxel_grid(
    rng: np.random.Generator, variation: Variation, coarseness: float, flipped: bool
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Draw a voxel grid: shape (z, y, x), affine, and the center of its field of view in the world (x, y, z)."""
    plane = float(rng.choice(variation.plane_spacings)) * coarseness
    step = float(rng.choice(variation.z_spacings)) * coarseness
    pixels = 2 * round(uniform(rng, variation.plane_view) / plane / 2)
    shape = (round(uniform(rng, variation.z_view) / step), pixels, pixels)
    center = np.round(np.array([rng.uniform(-20, 20), rng.uniform(-20, 20), rng.uniform(-900, 300)]), 1)
    sign = -1.0 if flipped else 1.0
    steps = np.array([sign * plane, sign * plane, step])
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
    """Draw place, size, tilt and deformation of a body and evaluate its coordinates on the grid."""
    scale = uniform(rng, variation.size) * (1 + rng.uniform(-1, 1, 3) * variation.proportion)
    rotation = _rotation(rng.uniform(-1, 1, 3) * variation.tilt)
    half = shape[0] * affine[2, 2] / 2
    lowest, highest = sorted((variation.in_view[1] * scale[2] - half, variation.in_view[0] * scale[2] + half))
    offset = [*(rng.uniform(-1, 1, 2) * variation.shift), -uniform(rng, (lowest, highest))]
    body_center = view_center + offset
    x, y, z = (
        affine[axis, axis] * np.arange(shape[2 - axis]) + affine[axis, 3] - body_center[axis] for axis in range(3)
    )
    axes = (z, y, x)
    body = []
    for axis in range(3):
        row = (rotation[:, axis] / scale[axis]).astype(np.float32)
        coordinate = row[2] * z[:, None, None] + row[1] * y[:, None] + row[0] * x
        coordinate = coordinate.astype(np.float32)
        for wavelength, amount in variation.bends:
            coordinate += np.float32(amount) * smooth_field(rng, axes, wavelength)
        body.append(coordinate)
    bend = sum(amount for _, amount in variation.bends)
    return Frame(axes, tuple(body), scale, margin=4 * bend + 18)
