"""The demo cohort: synthetic abdominal CTs, laid out and partially labeled as FLARE23 is.

A phantom is drawn from a table of structures (`STRUCTURES`, `SURROUNDINGS`): ellipsoids and tubes at anatomical
places, in a body frame in mm. Bodies differ in size, proportions, place in the field of view and fat, are tilted and
smoothly deformed, their organs are jittered one by one, and HU values follow a contrast phase. The figures in
the tables are typical sizes and attenuations of adults, rounded; small organs are drawn on the large side so
that they survive coarse voxels.

Frames: the body frame and the world are RAS+ as in nibabel (x to the patient's right, y anterior, z superior);
arrays are (z, y, x).
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from flare23_lib.errors import CohortError
from flare23_lib.images import header_for, write_volume

log = logging.getLogger(__name__)

FLARE23_VALUES: Mapping[str, int] = {
    "liver": 1,
    "right_kidney": 2,
    "spleen": 3,
    "pancreas": 4,
    "aorta": 5,
    "inferior_vena_cava": 6,
    "right_adrenal_gland": 7,
    "left_adrenal_gland": 8,
    "gallbladder": 9,
    "esophagus": 10,
    "stomach": 11,
    "duodenum": 12,
    "left_kidney": 13,
    "tumor": 14,
}
"""Label values of FLARE23; `draw` always uses them."""

ORGANS = tuple(name for name in FLARE23_VALUES if name != "tumor")
FIVE_ORGANS = ("liver", "right_kidney", "spleen", "pancreas", "left_kidney")

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: center and radii (x, y, z) in mm of the body frame."""

    center: Point
    radii: Point


@dataclass(frozen=True)
class Tube:
    """A chain of round segments through points (x, y, z), in mm of the body frame."""

    points: tuple[Point, ...]
    radius: float


@dataclass(frozen=True)
class Structure:
    """What one structure looks like.

    Attributes:
        name: a label's name, or any other name for what is not labeled.
        parts: its union is the structure.
        portal: mean HU in the portal venous phase.
        arterial: mean HU in the arterial phase.
        wander: standard deviation of its place in mm, per axis.
        growth: standard deviation of the logarithm of its size, per axis.
    """

    name: str
    parts: tuple[Ellipsoid | Tube, ...]
    portal: float
    arterial: float
    wander: float = 5.0
    growth: float = 0.10


SURROUNDINGS: tuple[Structure, ...] = (
    Structure(
        "right_lung", (Ellipsoid((72, -8, 150), (58, 70, 72)),), portal=-820, arterial=-820, wander=4, growth=0.05
    ),
    Structure(
        "left_lung", (Ellipsoid((-74, -8, 148), (56, 70, 70)),), portal=-820, arterial=-820, wander=4, growth=0.05
    ),
    Structure("heart", (Ellipsoid((-20, 30, 140), (50, 42, 50)),), portal=130, arterial=200, wander=4, growth=0.06),
    Structure(
        "right_psoas",
        (Tube(((33, -52, 10), (42, -45, -70), (52, -35, -150)), 17),),
        portal=58,
        arterial=55,
        wander=2,
        growth=0.10,
    ),
    Structure(
        "left_psoas",
        (Tube(((-33, -52, 10), (-42, -45, -70), (-52, -35, -150)), 17),),
        portal=58,
        arterial=55,
        wander=2,
        growth=0.10,
    ),
)
"""Unlabeled structures inside the abdominal cavity; later rows lie on top of earlier ones."""

STRUCTURES: tuple[Structure, ...] = (
    Structure(
        "liver",
        (
            Ellipsoid((72, 2, 42), (66, 72, 64)),
            Ellipsoid((18, 42, 50), (58, 36, 34)),
        ),
        portal=108,
        arterial=88,
    ),
    Structure(
        "stomach",
        (
            Ellipsoid((-58, 22, 48), (38, 38, 44)),
            Tube(((-52, 42, 20), (-25, 52, 0), (8, 48, 4)), 20),
        ),
        portal=12,
        arterial=12,
        wander=7,
        growth=0.12,
    ),
    Structure("spleen", (Ellipsoid((-98, -34, 44), (30, 40, 46)),), portal=138, arterial=152, wander=6),
    Structure("right_kidney", (Ellipsoid((66, -48, -38), (29, 28, 54)),), portal=205, arterial=195, wander=6),
    Structure("left_kidney", (Ellipsoid((-66, -48, -22), (29, 28, 54)),), portal=205, arterial=195, wander=6),
    Structure(
        "duodenum",
        (Tube(((32, 36, 10), (58, 16, 2), (60, 4, -38), (34, 4, -56), (-14, 2, -52)), 14),),
        portal=44,
        arterial=48,
        wander=5,
        growth=0.08,
    ),
    Structure(
        "pancreas",
        (Tube(((36, 10, -22), (26, 18, -2), (-4, 20, 8), (-40, 8, 16), (-72, -14, 26)), 14),),
        portal=82,
        arterial=96,
        wander=4,
        growth=0.08,
    ),
    Structure(
        "gallbladder", (Ellipsoid((58, 52, -16), (19, 22, 30)),), portal=-8, arterial=-8, wander=7, growth=0.12
    ),
    Structure(
        "inferior_vena_cava",
        (Tube(((20, -18, 150), (22, -20, 60), (20, -25, 0), (18, -26, -150)), 13),),
        portal=168,
        arterial=140,
        wander=3,
        growth=0.08,
    ),
    Structure(
        "aorta",
        (Tube(((-14, -30, 150), (-8, -27, 40), (-6, -25, -150)), 13),),
        portal=250,
        arterial=330,
        wander=3,
        growth=0.08,
    ),
    Structure(
        "esophagus",
        (Tube(((-6, -4, 150), (-12, -2, 90), (-30, 8, 62)), 12),),
        portal=36,
        arterial=38,
        wander=3,
        growth=0.08,
    ),
    Structure(
        "right_adrenal_gland",
        (Tube(((30, -38, 46), (33, -46, 18)), 9), Tube(((30, -38, 46), (49, -34, 22)), 8)),
        portal=70,
        arterial=78,
        wander=4,
        growth=0.08,
    ),
    Structure(
        "left_adrenal_gland",
        (Tube(((-36, -30, 46), (-32, -36, 20)), 9), Tube(((-36, -30, 46), (-50, -34, 24)), 8)),
        portal=70,
        arterial=78,
        wander=4,
        growth=0.08,
    ),
)
"""The 13 organs; later rows lie on top of earlier ones, so organs never overlap."""

TUMOR_HOSTS: Mapping[str, float] = {
    "liver": 0.35,
    "right_kidney": 0.18,
    "left_kidney": 0.18,
    "pancreas": 0.15,
    "spleen": 0.09,
    "stomach": 0.05,
}
"""Where tumors lie, with the probability of each."""

TISSUE_HU: Mapping[str, float] = {
    "air": -1000,
    "gas": -900,
    "table": -350,
    "fat": -102,
    "skin": 10,
    "muscle": 56,
    "marrow": 190,
    "cortex": 480,
    "disc": 85,
    "bowel": 30,
}
"""HU of what has no row of its own."""


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

MOST_COARSE = 10
"""Voxels beyond this factor leave nothing of most organs."""

CAVITY_RADII = (132.0, 88.0)
"""Radii (x, y) of the abdominal cavity in mm of the body frame."""

WALL = 12.0
"""Thickness of the muscular wall in mm of the body frame."""


@dataclass(frozen=True)
class PhantomLayout:
    """How a cohort is laid out and labeled: data only, FLARE23's by default.

    Paths are relative to the cohort's folder; `{number}` is the case's number.

    Attributes:
        images: images of the labeled training cases.
        labels: their labels.
        unlabeled_images: images of the unlabeled training cases.
        validation_images: images of the validation cases.
        validation_labels: their labels, complete.
        truth: complete labels of every training case.
        first_labeled: number of the first labeled case; the others follow.
        first_unlabeled: number of the first unlabeled case.
        first_validation: number of the first validation case.
        validation_step: distance of the validation cases' numbers.
        values: structure name to label value; a structure left out is in no label (a tumor's voxels then
            belong to the organ around them).
        annotated: kind of case to the names of the structures that its label holds.
        kinds: kinds of the labeled cases, in turn, over and over.
    """

    images: str = "imagesTr2200/FLARE23_{number:04d}_0000.nii.gz"
    labels: str = "labelsTr2200/FLARE23_{number:04d}.nii.gz"
    unlabeled_images: str = "unlabelTr1800/FLARE23_{number:04d}_0000.nii.gz"
    validation_images: str = "validation/FLARE23Ts_{number:04d}_0000.nii.gz"
    validation_labels: str = "validation-gt/FLARE23Ts_{number:04d}.nii.gz"
    truth: str = "truth/FLARE23_{number:04d}.nii.gz"
    first_labeled: int = 1
    first_unlabeled: int = 2201
    first_validation: int = 1
    validation_step: int = 2
    values: Mapping[str, int] = field(default_factory=lambda: dict(FLARE23_VALUES))
    annotated: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "tumor_only": ("tumor",),
            "tumor_and_organs": ("tumor", *FIVE_ORGANS),
            "all_organs": ORGANS,
            "five_organs": FIVE_ORGANS,
        }
    )
    kinds: tuple[str, ...] = (
        *("tumor_only", "all_organs", "five_organs", "tumor_and_organs"),
        *("tumor_only", "tumor_and_organs", "all_organs", "five_organs"),
        *("tumor_only", "tumor_and_organs", "five_organs", "tumor_only"),
        *("all_organs", "tumor_and_organs", "tumor_only", "five_organs"),
        *("tumor_and_organs", "tumor_only", "all_organs", "five_organs"),
    )


@dataclass(frozen=True)
class PlannedCase:
    """One case before it is drawn.

    Attributes:
        split: "labeled", "unlabeled" or "validation".
        index: from 0 within its split; with the split and the seed it determines what is drawn.
        number: the number in its file names.
        kind: key of the layout's `annotated`, or "unlabeled" or "validation".
    """

    split: str
    index: int
    number: int
    kind: str


def plan_cohort(cases: int, validation: int, layout: PhantomLayout) -> list[PlannedCase]:
    """List the cases of a cohort.

    Three in eight training cases, rounded down, are unlabeled. The others take the layout's kinds in turn. By
    default these repeat after 20: 11 tumor cases (6 of them with nothing else marked), 4 with all organs, 5 with
    five organs; so 32 cases are 11 / 4 / 5 / 12 and 6 cases are 2 / 1 / 1 / 2, and more cases never change the
    earlier ones. FLARE23 is 37 % tumor, 6 % all organs, 11 % five organs, 45 % unlabeled; all organs are twice as
    frequent here so that a small cohort can train the first teacher.

    Raises:
        CohortError: fewer than 4 cases, or a kind of case whose label would hold nothing.
    """
    if cases < 4:
        raise CohortError(f"a phantom cohort needs at least 4 training cases, not {cases}")
    for kind in layout.kinds:
        if not set(layout.annotated[kind]) & set(layout.values):
            raise CohortError(f"the layout leaves out every structure that a {kind} case annotates")
    unlabeled = cases * 3 // 8
    plan = []
    for index in range(cases - unlabeled):
        kind = layout.kinds[index % len(layout.kinds)]
        plan.append(PlannedCase("labeled", index, layout.first_labeled + index, kind))
    for index in range(unlabeled):
        plan.append(PlannedCase("unlabeled", index, layout.first_unlabeled + index, "unlabeled"))
    for index in range(validation):
        number = layout.first_validation + index * layout.validation_step
        plan.append(PlannedCase("validation", index, number, "validation"))
    return plan


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


@dataclass(frozen=True)
class _Frame:
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

    def window(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """Return the index box that surely covers a box (x, y, z) of the body frame."""
        slices = []
        for axis, coordinates in zip((2, 1, 0), self.axes, strict=True):
            inside = (coordinates >= low[axis] * self.scale[axis] - self.margin) & (
                coordinates <= high[axis] * self.scale[axis] + self.margin
            )
            indices = np.flatnonzero(inside)
            slices.append(slice(indices[0], indices[-1] + 1) if indices.size else slice(0, 0))
        return tuple(slices)


def _uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(rng.uniform(*bounds))


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix for angles about x, y and z, applied in this order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _smooth_field(
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


def _geometry(
    rng: np.random.Generator, variation: Variation, coarseness: float, flipped: bool
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Draw a voxel grid: shape (z, y, x), affine, and the center of its field of view in the world (x, y, z)."""
    plane = float(rng.choice(variation.plane_spacings)) * coarseness
    step = float(rng.choice(variation.z_spacings)) * coarseness
    pixels = 2 * round(_uniform(rng, variation.plane_view) / plane / 2)
    shape = (round(_uniform(rng, variation.z_view) / step), pixels, pixels)
    center = np.round(np.array([rng.uniform(-20, 20), rng.uniform(-20, 20), rng.uniform(-900, 300)]), 1)
    sign = -1.0 if flipped else 1.0
    steps = np.array([sign * plane, sign * plane, step])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = center - steps * (np.array(shape[::-1]) - 1) / 2
    return shape, affine, center


def _frame(
    rng: np.random.Generator,
    variation: Variation,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    view_center: np.ndarray,
) -> _Frame:
    """Draw place, size, tilt and deformation of a body and evaluate its coordinates on the grid."""
    scale = _uniform(rng, variation.size) * (1 + rng.uniform(-1, 1, 3) * variation.proportion)
    rotation = _rotation(rng.uniform(-1, 1, 3) * variation.tilt)
    half = shape[0] * affine[2, 2] / 2
    lowest, highest = sorted((variation.in_view[1] * scale[2] - half, variation.in_view[0] * scale[2] + half))
    offset = [*(rng.uniform(-1, 1, 2) * variation.shift), -_uniform(rng, (lowest, highest))]
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
            coordinate += np.float32(amount) * _smooth_field(rng, axes, wavelength)
        body.append(coordinate)
    bend = sum(amount for _, amount in variation.bends)
    return _Frame(axes, tuple(body), scale, margin=4 * bend + 18)


def _move(rng: np.random.Generator, structure: Structure) -> list[Ellipsoid | Tube]:
    """Draw a structure's own place and size; all its parts move and grow together, points of tubes a bit more."""
    shift = np.clip(rng.standard_normal(3), -2, 2) * structure.wander
    growth = np.exp(np.clip(rng.standard_normal(3), -2, 2) * structure.growth)
    moved: list[Ellipsoid | Tube] = []
    for part in structure.parts:
        if isinstance(part, Ellipsoid):
            center, radii = np.array(part.center) + shift, np.array(part.radii) * growth
            moved.append(Ellipsoid(tuple(center), tuple(radii)))
        else:
            points = np.array(part.points, dtype=float) + shift
            points += rng.standard_normal(points.shape) * structure.wander / 4
            moved.append(Tube(tuple(map(tuple, points)), part.radius * float(growth[0])))
    return moved


def _inside(frame: _Frame, part: Ellipsoid | Tube) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Return an index box and the voxels of a part within it (bool)."""
    if isinstance(part, Ellipsoid):
        center, radii = np.array(part.center), np.array(part.radii)
        box = frame.window(center - radii, center + radii)
        square = sum(
            ((frame.body[axis][box] - np.float32(center[axis])) / np.float32(radii[axis])) ** 2 for axis in range(3)
        )
        return box, square <= 1
    points = np.array(part.points, dtype=np.float32)
    box = frame.window(points.min(axis=0) - part.radius, points.max(axis=0) + part.radius)
    x, y, z = (coordinate[box] for coordinate in frame.body)
    mask = np.zeros(x.shape, dtype=bool)
    for start, end in itertools.pairwise(points):
        along = end - start
        place = (x - start[0]) * along[0] + (y - start[1]) * along[1] + (z - start[2]) * along[2]
        place = np.clip(place / np.float32(along @ along), 0, 1)
        square = sum(
            (coordinate - start[axis] - place * along[axis]) ** 2 for axis, coordinate in enumerate((x, y, z))
        )
        mask |= square <= np.float32(part.radius**2)
    return box, mask


class _Canvas:
    """HU and labels while they are painted; a voxel belongs to what was painted last."""

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame
        self.hu = np.full(frame.body[0].shape, TISSUE_HU["air"], dtype=np.float32)
        self.labels = np.zeros(frame.body[0].shape, dtype=np.uint8)

    def paint(self, part: Ellipsoid | Tube, hu: float, label: int = 0, within: np.ndarray | None = None) -> None:
        """Paint one part, where `within` (bool, whole grid) allows it."""
        box, mask = _inside(self.frame, part)
        if within is not None:
            mask = mask & within[box]
        self.hu[box][mask] = hu
        self.labels[box][mask] = label


def _paint_trunk(canvas: _Canvas, fat: float) -> np.ndarray:
    """Paint skin, fat, the muscular wall with ribs, the spine; return where soft organs may lie (bool)."""
    x, y, z = canvas.frame.body

    def depth(margin: float) -> np.ndarray:
        """Below 1 inside an elliptic cylinder `margin` mm outside the cavity."""
        return (x / np.float32(CAVITY_RADII[0] + margin)) ** 2 + (y / np.float32(CAVITY_RADII[1] + margin)) ** 2

    cavity, wall = depth(0) <= 1, depth(WALL) <= 1
    canvas.hu[depth(WALL + fat + 2.5) <= 1] = TISSUE_HU["skin"]
    canvas.hu[depth(WALL + fat) <= 1] = TISSUE_HU["fat"]
    canvas.hu[wall] = TISSUE_HU["muscle"]
    slope = z - 0.45 * y
    ribs = wall & ~cavity & (np.mod(slope, 26) < 10) & (slope > -25 + 0.15 * np.abs(x)) & (np.abs(x) > 25)
    canvas.hu[ribs] = TISSUE_HU["marrow"]
    canvas.hu[cavity] = TISSUE_HU["fat"]
    back = np.zeros_like(cavity)
    for side in (-34, 34):
        muscle = ((x - side) / 30) ** 2 + ((y + 84) / 19) ** 2 <= 1
        back |= muscle & wall
    canvas.hu[back] = TISSUE_HU["muscle"]
    vertebra = (x / 23) ** 2 + ((y + 58) / 18) ** 2
    process = (np.abs(x) < 5) & (y < -58) & (y > -98) & (np.mod(z, 32) < 18)
    process |= (np.abs(x) < 36) & (np.abs(y + 76) < 5) & (np.mod(z, 32) < 9)
    disc = np.mod(z, 32) > 25
    canvas.hu[process] = TISSUE_HU["cortex"]
    canvas.hu[vertebra <= 1] = TISSUE_HU["cortex"]
    canvas.hu[vertebra <= 0.72] = TISSUE_HU["marrow"]
    canvas.hu[(vertebra <= 1) & disc] = TISSUE_HU["disc"]
    canvas.hu[(x / 9) ** 2 + ((y + 84) / 7) ** 2 <= 1] = TISSUE_HU["disc"] - 50
    return cavity & ~back & (vertebra > 1) & ~process


def _paint_bowel(canvas: _Canvas, rng: np.random.Generator, within: np.ndarray) -> None:
    """Paint unlabeled loops below the stomach and in front of the kidneys, some with gas or contrast medium."""
    for _ in range(int(rng.integers(8, 14))):
        side = rng.choice([-1, 1])
        start = np.array([side * rng.uniform(0, 110), rng.uniform(-10, 72), rng.uniform(-140, -20)])
        points = start + np.cumsum(rng.normal(0, 22, (3, 3)), axis=0)
        radius = rng.uniform(10, 18)
        content = rng.choice(["bowel", "bowel", "bowel", "gas"])
        tube = Tube(tuple(map(tuple, points)), float(radius))
        canvas.paint(tube, TISSUE_HU["bowel"] + rng.normal(0, 10), within=within)
        if content == "gas":
            canvas.paint(Tube(tube.points, float(radius - 4)), TISSUE_HU["gas"], within=within)


def _paint_table(canvas: _Canvas) -> None:
    """Paint the top of the scanner's table, a curved plate under the back, where it is air."""
    _, y, x = canvas.frame.axes
    back = (CAVITY_RADII[1] + 26) * canvas.frame.scale[1]
    top = -back - 6 + 0.0012 * x**2
    below = (top - y[:, None]) / 8
    plate = (below >= 0) & (below <= 1) & (np.abs(x) < 200)
    canvas.hu[plate[None] & (canvas.hu < TISSUE_HU["gas"])] = TISSUE_HU["table"]


def _paint_stomach_gas(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paint gas under the front wall of some stomachs; it stays part of the stomach's label."""
    stomach = canvas.labels == FLARE23_VALUES["stomach"]
    chance, level = rng.uniform(), rng.uniform(38, 52)
    if chance < 0.4:
        canvas.hu[stomach & (canvas.frame.body[1] > level)] = TISSUE_HU["gas"]


def _paint_tumors(canvas: _Canvas, rng: np.random.Generator, levels: Mapping[str, float]) -> np.ndarray:
    """Paint 1 to 3 tumors, each inside an organ (the liver if the one drawn is out of view); return them (bool)."""
    tumors = np.zeros_like(canvas.labels, dtype=bool)
    names, weights = list(TUMOR_HOSTS), np.array(list(TUMOR_HOSTS.values()))
    seats = {
        name: np.flatnonzero((canvas.labels == FLARE23_VALUES[name]) & (canvas.hu > TISSUE_HU["fat"]))
        for name in names
    }
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
        spacing = [abs(float(axis[1] - axis[0])) for axis in canvas.frame.axes]
        organ_radius = (voxels.size * math.prod(spacing) * 0.75 / math.pi) ** (1 / 3)
        radii = np.maximum(min(radius, 0.6 * organ_radius) * stretch, 0.6 * max(spacing))
        box, mask = _inside(canvas.frame, Ellipsoid(tuple(center), tuple(radii)))
        mask &= canvas.labels[box] == FLARE23_VALUES[host]
        tumors[box] |= mask
        canvas.hu[box][mask] = levels[host] + contrast
    return tumors


def _degrade(hu: np.ndarray, frame: _Frame, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Blur HU mildly, add faint texture and correlated noise; return int16 from -1024 up."""
    hu = ndimage.gaussian_filter(hu, 0.55, mode="nearest", truncate=3)
    hu += 3 * _smooth_field(rng, frame.axes, 40.0)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, (0, 0.6, 0.6), mode="wrap", truncate=3)
    hu += grain * np.float32(noise / grain.std())
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def draw_phantom(
    rng: np.random.Generator,
    *,
    tumors: bool = False,
    gallbladder: bool = True,
    flipped: bool = False,
    coarseness: float = 1.0,
    variation: Variation = VARIATION,
) -> Phantom:
    """Draw one case; the arguments are those of `draw`."""
    shape, affine, center = _geometry(rng, variation, coarseness, flipped)
    frame = _frame(rng, variation, shape, affine, center)
    phase = _uniform(rng, variation.phase)
    noise = _uniform(rng, variation.noise_hu)
    canvas = _Canvas(frame)
    within = _paint_trunk(canvas, _uniform(rng, variation.fat))
    _paint_bowel(canvas, rng, within)
    levels = {}
    for structure in SURROUNDINGS + STRUCTURES:
        parts = _move(rng, structure)
        mean = structure.portal + phase * (structure.arterial - structure.portal)
        levels[structure.name] = mean + rng.normal(0, variation.organ_hu)
        if structure.name == "gallbladder" and not gallbladder:
            continue
        for part in parts:
            canvas.paint(part, levels[structure.name], FLARE23_VALUES.get(structure.name, 0), within)
    _paint_stomach_gas(canvas, rng)
    mask = _paint_tumors(canvas, rng, levels) if tumors else np.zeros(shape, dtype=bool)
    _paint_table(canvas)
    return Phantom(_degrade(canvas.hu, frame, rng, noise), canvas.labels, mask, affine)


def draw(
    rng: np.random.Generator,
    *,
    tumors: bool = False,
    gallbladder: bool = True,
    flipped: bool = False,
    coarseness: float = 1.0,
    variation: Variation = VARIATION,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one case.

    Args:
        rng: source of everything that varies.
        tumors: draw 1 to 3 tumors inside organs.
        gallbladder: False draws a patient without one.
        flipped: store x and y from right to left and front to back (LPS) instead of RAS; the anatomy in the
            world is the same.
        coarseness: factor on the voxel size.
        variation: how much bodies and scans differ.

    Returns:
        Image (z, y, x) int16 in HU; labels (z, y, x) uint8 with FLARE23's values; affine 4x4 from voxel (x, y, z) to
        world in RAS+ mm.
    """
    phantom = draw_phantom(
        rng,
        tumors=tumors,
        gallbladder=gallbladder,
        flipped=flipped,
        coarseness=coarseness,
        variation=variation,
    )
    return phantom.image, phantom.labels, phantom.affine


TUMOR_CHANCE: Mapping[str, float] = {
    "tumor_only": 1.0,
    "tumor_and_organs": 1.0,
    "all_organs": 0.0,
    "five_organs": 0.0,
    "unlabeled": 0.5,
    "validation": 0.8,
}
"""Probability that a case has tumors, by kind; kinds of other layouts: 1 if they annotate tumors, else 0."""

GALLBLADDER_REMOVED = 0.1
"""Probability that a case has no gallbladder; the first case with every organ always has its own."""

MISSED_ORGAN = 0.1
"""Probability that a tumor case's label lacks one of the organs that it annotates."""


def _stored_labels(phantom: Phantom, names: tuple[str, ...], values: Mapping[str, int]) -> np.ndarray:
    """Return the label file's voxels (uint8) for the structures named."""
    table = np.zeros(256, dtype=np.uint8)
    for name in names:
        if name != "tumor" and name in values:
            table[FLARE23_VALUES[name]] = values[name]
    stored = table[phantom.organs]
    if "tumor" in values:
        stored[phantom.tumors] = values["tumor"] if "tumor" in names else 0
    return stored


def _annotated_names(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is really marked of the structures a kind annotates: beside tumors, not always every organ."""
    missed = rng.uniform(size=len(names)) < MISSED_ORGAN
    if "tumor" not in names:
        return names
    return tuple(name for name, gone in zip(names, missed, strict=True) if name == "tumor" or not gone)


def _write_case(
    case: PlannedCase, folder: Path, seed: int, coarseness: float, layout: PhantomLayout, variation: Variation
) -> None:
    """Draw a case and write its files."""
    split = ("labeled", "unlabeled", "validation").index(case.split)
    choices, content = np.random.default_rng([seed, split, case.index]).spawn(2)
    names = layout.annotated.get(case.kind, ())
    chance = TUMOR_CHANCE.get(case.kind, float("tumor" in names))
    tumors = bool(choices.uniform() < chance)
    removed = bool(choices.uniform() < GALLBLADDER_REMOVED)
    first_complete = case.kind == "all_organs" and case.index == layout.kinds.index("all_organs")
    annotated = _annotated_names(choices, names)
    phantom = draw_phantom(
        content,
        tumors=tumors,
        gallbladder=first_complete or not removed,
        flipped=case.index % 2 == 1,
        coarseness=coarseness,
        variation=variation,
    )
    header = partial(header_for, phantom.image.shape, phantom.affine)
    truth = _stored_labels(phantom, tuple(FLARE23_VALUES), layout.values)
    image_pattern, label_pattern = {
        "labeled": (layout.images, layout.labels),
        "unlabeled": (layout.unlabeled_images, None),
        "validation": (layout.validation_images, layout.validation_labels),
    }[case.split]
    label_header = header(np.dtype(np.uint8))

    def target(pattern: str) -> Path:
        return folder / pattern.format(number=case.number)

    write_volume(target(image_pattern), phantom.image, header(np.dtype(np.int16)))
    if case.split == "labeled":
        write_volume(target(label_pattern), _stored_labels(phantom, annotated, layout.values), label_header)
    if case.split == "validation":
        write_volume(target(label_pattern), truth, label_header)
    else:
        write_volume(target(layout.truth), truth, label_header)
    log.debug("wrote %s", target(image_pattern))


def write_cohort(
    folder: Path,
    cases: int = 32,
    validation: int = 6,
    seed: int = 0,
    coarseness: float = 1.0,
    layout: PhantomLayout | None = None,
    processes: int = 1,
    variation: Variation = VARIATION,
) -> None:
    """Write a cohort of phantoms.

    A case depends only on the seed, its place in its split, the coarseness and the variation: the same call gives the
    same bytes, whatever the number of processes, and a larger cohort holds the smaller one.

    Args:
        folder: where the layout's folders are made.
        cases: training cases, labeled and unlabeled (see `plan_cohort`).
        validation: validation cases.
        seed: not negative.
        coarseness: factor on the voxel size; 1 gives voxels of 4 to 6 mm by 3 to 4.2 mm.
        layout: names, label values and annotations; None for FLARE23's.
        processes: how many cases are drawn at a time.
        variation: how much bodies and scans differ.

    Raises:
        CohortError: the cohort cannot be planned (see `plan_cohort`), or its voxels would be too coarse to draw.
    """
    if not 0 < coarseness <= MOST_COARSE:
        raise CohortError(f"phantoms of coarseness {coarseness:g}: it lies above 0 and up to {MOST_COARSE}")
    layout = layout or PhantomLayout()
    plan = plan_cohort(cases, validation, layout)
    write = partial(
        _write_case, folder=Path(folder), seed=seed, coarseness=coarseness, layout=layout, variation=variation
    )
    if processes == 1:
        for case in plan:
            write(case)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            list(pool.map(write, plan))
    log.info("wrote %d training and %d validation phantoms to %s", cases, validation, folder)
