"""What a body is made of: structures at anatomical places in the body frame, in mm, and their attenuation in HU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
