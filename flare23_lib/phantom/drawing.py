"""A phantom painted part by part: trunk, bowel, organs, tumors, table; then blurred and given noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flare23_lib.phantom.anatomy import FLARE23_VALUES, STRUCTURES, TISSUE_HU, TUMOR_HOSTS, Ellipsoid, Part, Tube
from flare23_lib.phantom.frame import VARIATION, Frame, Variation, draw_grid, place_body, smooth_field

CAVITY_RADII = (132.0, 88.0)
"""Radii (x, y) of the abdominal cavity in mm of the body frame."""

WALL = 12.0
"""Thickness of the muscular wall in mm of the body frame."""


@dataclass(frozen=True)
class Phantom:
    """A drawn case; arrays are (z, y, x).

    Attributes:
        image: int16, HU.
        organs: uint8, FLARE23's values, without tumors.
        tumors: bool; every tumor voxel is also a voxel of an organ.
        affine: 4x4, voxel (x, y, z) to world in RAS+ mm.
    """

    image: np.ndarray
    organs: np.ndarray
    tumors: np.ndarray
    affine: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """uint8, FLARE23's values, tumors in place of the organ around them."""
        return np.where(self.tumors, np.uint8(FLARE23_VALUES["tumor"]), self.organs)


def draw_phantom(
    rng: np.random.Generator,
    *,
    tumors: bool = False,
    gallbladder: bool = True,
    flipped: bool = False,
    coarseness: float = 1.0,
    variation: Variation = VARIATION,
) -> Phantom:
    """Draw one case.

    Args:
        rng: source of everything that varies.
        tumors: draw tumors inside organs.
        gallbladder: False draws a patient without one.
        flipped: store x and y from right to left and front to back (LPS) instead of RAS; the anatomy in the
            world is the same.
        coarseness: factor on the voxel size.
        variation: how much bodies and scans differ.
    """
    shape, affine, center = draw_grid(rng, variation, coarseness, flipped)
    frame = place_body(rng, variation, shape, affine, center)
    phase = rng.uniform(*variation.phase)
    noise = rng.uniform(*variation.noise_hu)
    canvas = _Canvas(frame)
    within = _paint_trunk(canvas, rng.uniform(*variation.fat))
    _paint_bowel(canvas, rng, within)
    levels = {}
    for structure in STRUCTURES:
        parts = structure.vary(rng)
        mean = structure.portal + phase * (structure.arterial - structure.portal)
        levels[structure.name] = mean + rng.normal(0, variation.organ_hu)
        if structure.name == "gallbladder" and not gallbladder:
            continue
        for organ, margin in structure.fat.items():
            replaced = canvas.labels == FLARE23_VALUES[organ]
            for part in parts:
                canvas.paint(part.enlarged(margin), TISSUE_HU["fat"], replaced)
        for part in parts:
            canvas.paint(part, levels[structure.name], within, FLARE23_VALUES.get(structure.name, 0))
    _paint_stomach_gas(canvas, rng)
    mask = _paint_tumors(canvas, rng, levels) if tumors else np.zeros(shape, dtype=bool)
    _paint_table(canvas)
    return Phantom(_degrade(canvas.hu, frame, rng, noise), canvas.labels, mask, affine)


class _Canvas:
    """HU and labels while they are painted; a voxel belongs to what was painted last."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.hu = np.full(frame.body[0].shape, TISSUE_HU["air"], dtype=np.float32)
        self.labels = np.zeros(frame.body[0].shape, dtype=np.uint8)

    def covered(self, part: Part) -> tuple[tuple[slice, ...], np.ndarray]:
        """Return an index box and the voxels of a part within it (bool)."""
        box = self.frame.window(*part.bounds())
        return box, part.covers([coordinate[box] for coordinate in self.frame.body])

    def paint(self, part: Part, hu: float, within: np.ndarray, label: int = 0) -> None:
        """Paint one part, where `within` (bool, whole grid) allows it."""
        box, mask = self.covered(part)
        mask &= within[box]
        self.hu[box][mask] = hu
        self.labels[box][mask] = label


def _paint_trunk(canvas: _Canvas, fat: float) -> np.ndarray:
    """Paint skin, fat, the muscular wall with ribs, the spine; return where soft organs may be (bool)."""
    x, y, z = canvas.frame.body

    def inside(margin: float) -> np.ndarray:
        """Return the voxels of an elliptic cylinder `margin` mm outside the cavity."""
        radii = np.float32(CAVITY_RADII[0] + margin), np.float32(CAVITY_RADII[1] + margin)
        return (x / radii[0]) ** 2 + (y / radii[1]) ** 2 <= 1

    cavity, wall = inside(0), inside(WALL)
    canvas.hu[inside(WALL + fat + 2.5)] = TISSUE_HU["skin"]
    canvas.hu[inside(WALL + fat)] = TISSUE_HU["fat"]
    canvas.hu[wall] = TISSUE_HU["muscle"]
    slope = z - 0.45 * y
    ribs = wall & ~cavity & (np.mod(slope, 26) < 10) & (slope > -25 + 0.15 * np.abs(x)) & (np.abs(x) > 25)
    canvas.hu[ribs] = TISSUE_HU["marrow"]
    canvas.hu[cavity] = TISSUE_HU["fat"]
    back = np.zeros_like(cavity)
    for side in (-34, 34):
        back |= wall & (((x - side) / 30) ** 2 + ((y + 84) / 19) ** 2 <= 1)
    canvas.hu[back] = TISSUE_HU["muscle"]
    vertebra = (x / 23) ** 2 + ((y + 58) / 18) ** 2
    process = (np.abs(x) < 5) & (y < -58) & (y > -98) & (np.mod(z, 32) < 18)
    process |= (np.abs(x) < 36) & (np.abs(y + 76) < 5) & (np.mod(z, 32) < 9)
    canvas.hu[process | (vertebra <= 1)] = TISSUE_HU["cortex"]
    canvas.hu[vertebra <= 0.72] = TISSUE_HU["marrow"]
    canvas.hu[(vertebra <= 1) & (np.mod(z, 32) > 25)] = TISSUE_HU["disc"]
    canvas.hu[(x / 9) ** 2 + ((y + 84) / 7) ** 2 <= 1] = TISSUE_HU["disc"] - 50
    return cavity & ~back & (vertebra > 1) & ~process


def _paint_bowel(canvas: _Canvas, rng: np.random.Generator, within: np.ndarray) -> None:
    """Paint unlabeled loops below the stomach and in front of the kidneys, some with gas."""
    for _ in range(int(rng.integers(8, 14))):
        side = rng.choice([-1, 1])
        start = np.array([side * rng.uniform(0, 110), rng.uniform(-10, 72), rng.uniform(-140, -20)])
        points = start + np.cumsum(rng.normal(0, 22, (3, 3)), axis=0)
        radius = rng.uniform(10, 18)
        content = rng.choice(["bowel", "bowel", "bowel", "gas"])
        canvas.paint(Tube(points, radius), TISSUE_HU["bowel"] + rng.normal(0, 10), within)
        if content == "gas":
            canvas.paint(Tube(points, radius - 4), TISSUE_HU["gas"], within)


def _paint_stomach_gas(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paint gas under the front wall of some stomachs; it stays part of the stomach's label."""
    stomach = canvas.labels == FLARE23_VALUES["stomach"]
    chance, level = rng.uniform(), rng.uniform(38, 52)
    if chance < 0.4:
        canvas.hu[stomach & (canvas.frame.body[1] > level)] = TISSUE_HU["gas"]


def _paint_tumors(canvas: _Canvas, rng: np.random.Generator, levels: Mapping[str, float]) -> np.ndarray:
    """Paint 2 to 4 tumors, each inside an organ (the liver if the one drawn is out of view); return them (bool)."""
    tumors = np.zeros_like(canvas.labels, dtype=bool)
    names, weights = list(TUMOR_HOSTS), np.array(list(TUMOR_HOSTS.values()))
    soft = canvas.hu > TISSUE_HU["fat"]
    seats = {name: np.flatnonzero((canvas.labels == FLARE23_VALUES[name]) & soft) for name in names}
    spacing = [abs(float(axis[1] - axis[0])) for axis in canvas.frame.axes]
    for _ in range(int(rng.integers(2, 5))):
        host = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        if not seats[host].size:
            host = "liver"
        place, radius = rng.uniform(), rng.uniform(16, 30)
        stretch = np.exp(rng.normal(0, 0.15, 3))
        contrast = rng.uniform(45, 85) * (-1 if rng.uniform() < 0.85 else 1)
        voxels = seats[host]
        seat = np.unravel_index(voxels[int(place * voxels.size)], canvas.labels.shape)
        center = np.array([coordinate[seat] for coordinate in canvas.frame.body])
        organ_radius = (voxels.size * math.prod(spacing) * 0.75 / math.pi) ** (1 / 3)
        radii = np.maximum(min(radius, 0.6 * organ_radius) * stretch, 0.6 * max(spacing))
        box, mask = canvas.covered(Ellipsoid(center, radii))
        mask &= canvas.labels[box] == FLARE23_VALUES[host]
        tumors[box] |= mask
        canvas.hu[box][mask] = levels[host] + contrast
    return tumors


def _paint_table(canvas: _Canvas) -> None:
    """Paint the top of the scanner's table, a curved plate under the back, where it is air."""
    _, y, x = canvas.frame.axes
    back = (CAVITY_RADII[1] + 26) * canvas.frame.scale[1]
    top = -back - 6 + 0.0012 * x**2
    below = (top - y[:, None]) / 8
    plate = (below >= 0) & (below <= 1) & (np.abs(x) < 200)
    canvas.hu[plate[None] & (canvas.hu < TISSUE_HU["gas"])] = TISSUE_HU["table"]


def _degrade(hu: np.ndarray, frame: Frame, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Blur HU mildly, add faint texture and correlated noise; return int16 from -1024 up."""
    hu = ndimage.gaussian_filter(hu, 0.55, mode="nearest", truncate=3)
    hu += 3 * smooth_field(rng, frame.axes, 40.0)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, (0, 0.6, 0.6), mode="wrap", truncate=3)
    hu += grain * np.float32(noise / grain.std())
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
