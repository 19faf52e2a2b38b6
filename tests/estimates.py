"""A tiny configuration and a tiny cohort whose cost can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import yaml

from flare23_lib.cohort.table import Case
from flare23_lib.config import Config
from flare23_lib.estimate.extents import Extent, Sizes
from flare23_lib.estimate.table import estimate
from flare23_lib.estimate.throughputs import FIGURES

RECIPE = Path(__file__).resolve().parent.parent / "config.yaml"

MODEL = {
    "network": {"depth": [1, 1, 1], "widths": [4, 8, 8]},
    "patch_size": [8, 16, 16],
    "intensity": {"low": -1000, "high": 1000, "mean": 0, "std": 100},
    "spacing": [4, 2, 2],
    "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "training": {
        "epochs": 10, "iterations_per_epoch": 5, "validation_iterations": 1, "batch_size": 2, "mirror_axes": [1, 2],
    },
    "inference": {"step": 0.5, "tta": True, "precision": "float32"},
}  # fmt: skip
MACS = 6_225_920
"""Of MODEL with 15 classes, added up by hand, level by level:
2048 x (544 + 1328 + 60) + 256 x (2624 + 5312 + 32) + 64 x (3520 + 64)."""

TINY = {
    "completions": {"unlabeled": {"category": "unlabeled", "teacher": "teacher"}},
    "models": {
        "teacher": {**MODEL, "train_on": {"originals": ["all_organs"]}},
        "student": {
            **MODEL, "train_on": {"originals": ["all_organs"], "completions": ["unlabeled"]}, "evaluate": True,
        },
    },
}  # fmt: skip

A = Extent((10, 32, 32), (4.0, 2.0, 2.0))  # stays; 2 x 3 x 3 windows
B = Extent((20, 16, 16), (2.0, 2.0, 2.0))  # becomes 10 x 16 x 16; 2 x 1 x 1 windows
C = Extent((4, 64, 64), (4.0, 1.0, 1.0))  # becomes 4 x 32 x 32, padded to 8 slices; 1 x 3 x 3 windows


def tiny_config(**overrides):
    recipe = yaml.safe_load(RECIPE.read_text())
    shared = {key: recipe[key] for key in ("cohort", "results", "labels", "categories")}
    return Config.check(shared | TINY | overrides)


def case(name, extent, category="", split="training", label=None, status="ok"):
    return Case(name, f"{name}_0000.nii.gz", label, split, {1: 1} if label else {}, category,
                extent.shape, extent.spacing, status)  # fmt: skip


CASES = [
    case("a", A, "all_organs", label="a.nii.gz"),
    case("u1", B, "unlabeled"),
    case("u2", C, "unlabeled"),
    case("broken", C, "unlabeled", status="quarantined"),
    case("v1", A, split="validation", label="v1.nii.gz"),
    case("v2", B, split="validation"),
]


def sizes(config, cases=CASES):
    return Sizes.of_cases(cases, [category.name for category in config.categories])


def lines(config, cases=CASES, figures=FIGURES):
    return {(line.stage, line.name): line for line in estimate(config, sizes(config, cases), figures).lines}
