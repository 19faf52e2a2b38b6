"""What a body is made of: structures at anatomical places, from anatomy.yaml, and how their shapes are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

ORGANS = (
    "liver", "right_kidney", "spleen", "pancreas", "aorta", "inferior_vena_cava", "right_adrenal_gland",
    "left_adrenal_gland", "gallbladder", "esophagus", "stomach", "duodenum", "left_kidney",
)  # fmt: skip
FIVE_ORGANS = ("liver", "right_kidney", "spleen", "pancreas", "left_kidney")

FLARE23_VALUES: Mapping[str, int] = {name: value for value, name in enumerate((*ORGANS, "tumor"), start=1)}
"""Label values of FLARE23; phantoms are always drawn with these."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: center and radii (x, y, z) in mm of the body frame."""

    center: np.ndarray
    radii: np.ndarray

    def moved(self, rng: np.random.Generator, shift: np.ndarray, growth: np.ndarray, wander: float) -> Ellipsoid:
        """Return it at another place (x, y, z), grown per axis."""
        return Ellipsoid(self.center + shift, self.radii * growth)

    def enlarged(self, margin: float) -> Ellipsoid:
        """Return it with radii that are `margin` mm longer."""
        return replace(self, radii=self.radii + margin)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest corner (x, y, z) of a box around it."""
        return self.center - self.radii, self.center + self.radii

    def covers(self, coordinates: Sequence[np.ndarray]) -> np.ndarray:
        """Return which voxels (bool) lie inside, given their float32 coordinates x, y and z."""
        center, radii = self.center.astype(np.float32), self.radii.astype(np.float32)
        return sum(((coordinates[axis] - center[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1


@dataclass(frozen=True)
class Tube:
    """A chain of round segments through points (n, 3) of x, y and z, with a radius, in mm of the body frame."""

    points: np.ndarray
    radius: float

    def moved(self, rng: np.random.Generator, shift: np.ndarray, growth: np.ndarray, wander: float) -> Tube:
        """Return it at another place (x, y, z), grown, each of its points a bit off."""
        points = self.points + shift
        return Tube(points + rng.standard_normal(points.shape) * wander / 4, self.radius * float(growth[0]))

    def enlarged(self, margin: float) -> Tube:
        """Return it with a radius that is `margin` mm longer."""
        return replace(self, radius=self.radius + margin)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest corner (x, y, z) of a box around it."""
        points = self.points.astype(np.float32)
        return points.min(axis=0) - self.radius, points.max(axis=0) + self.radius

    def covers(self, coordinates: Sequence[np.ndarray]) -> np.ndarray:
        """Return which voxels (bool) lie inside, given their float32 coordinates x, y and z."""
        x, y, z = coordinates
        mask = np.zeros(x.shape, dtype=bool)
        for start, end in itertools.pairwise(self.points.astype(np.float32)):
            along = end - start
            place = (x - start[0]) * along[0] + (y - start[1]) * along[1] + (z - start[2]) * along[2]
            place = np.clip(place / np.float32(along @ along), 0, 1)
            square = sum((coordinates[axis] - start[axis] - place * along[axis]) ** 2 for axis in range(3))
            mask |= square <= np.float32(self.radius**2)
        return mask


Part = Ellipsoid | Tube


@dataclass(frozen=True)
class PhantomStructure:
    """What one structure looks like; anatomy.yaml describes the fields."""

    name: str
    portal: float
    arterial: float
    wander: float
    growth: float
    parts: Sequence[Part]
    fat: Mapping[str, float] = field(default_factory=dict)

    def vary(self, rng: np.random.Generator) -> list[Part]:
        """Draw its place and size; all its parts move and grow together."""
        shift = np.clip(rng.standard_normal(3), -2, 2) * self.wander
        growth = np.exp(np.clip(rng.standard_normal(3), -2, 2) * self.growth)
        return [part.moved(rng, shift, growth, self.wander) for part in self.parts]


def _part(row: Mapping) -> Part:
    if "points" in row:
        return Tube(np.array(row["points"], dtype=float), row["radius"])
    return Ellipsoid(np.array(row["center"], dtype=float), np.array(row["radii"], dtype=float))


_TABLES = yaml.safe_load(Path(__file__).with_name("anatomy.yaml").read_text(encoding="utf-8"))

STRUCTURES = [
    PhantomStructure(name, **{**row, "parts": [_part(part) for part in row["parts"]]})
    for table in ("surroundings", "organs")
    for name, row in _TABLES[table].items()
]
"""In the order in which they are painted."""

TUMOR_HOSTS: Mapping[str, float] = _TABLES["tumor_hosts"]
TISSUE_HU: Mapping[str, float] = _TABLES["tissue_hu"]
