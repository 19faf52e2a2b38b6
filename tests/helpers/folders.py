"""Folders as users have them: a few small CTs with labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from cohorts import write
from places import RECIPE

from flare23_lib.starter.init import init

SHAPE = (10, 24, 30)
AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])
LIVER, RIGHT, LEFT = np.s_[2:8, 4:14, 1:12], np.s_[2:6, 15:19, 4:8], np.s_[2:6, 15:19, 22:26]


def ct(seed):
    image = np.random.default_rng(seed).normal(30, 20, SHAPE)
    image[0], image[-1, -1, -1] = -1000, 900
    return image.astype(np.int16)


def labels(**boxes):
    array = np.zeros(SHAPE, np.uint8)
    for value, box in boxes.items():
        array[box] = int(value.removeprefix("v"))
    return array


def write_pairs(image, label, numbers, **boxes):
    """Write CTs and label maps; `#` in their paths stands for the number."""
    for number in numbers:
        write(Path(str(image).replace("#", str(number))), ct(number), AFFINE)
        write(Path(str(label).replace("#", str(number))), labels(**boxes), AFFINE)


def decathlon(folder, cases=6):
    """A folder in the form of the Medical Segmentation Decathlon."""
    for number in range(cases):
        write(folder / f"imagesTr/own_{number:03d}.nii.gz", ct(number), AFFINE)
        write(folder / f"labelsTr/own_{number:03d}.nii.gz", labels(v1=LIVER, v2=RIGHT), AFFINE)
    table = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "kidney_right"}}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def configured(root, *folders):
    """The configuration that `flare23 init` makes of folders in a folder, where it is m.yaml."""
    return init([root / folder for folder in folders], RECIPE, root / "m.yaml", 8)
