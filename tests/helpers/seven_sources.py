"""Seven small cohorts in the layouts and numbers of seven presets of `presets/sources`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from cohorts import write
from places import RECIPE, REPOSITORY

from flare23_lib.config import Config

PRESETS = REPOSITORY / "presets" / "sources"
NAMES = ("btcv", "amos", "kits", "lits", "msd_pancreas", "abdomenct1k", "totalsegmentator")
SHAPE = (10, 24, 30)
AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])  # x falls towards the right side: its voxels come first
LABELS = Config.load([RECIPE]).label_map
BOXES = {
    "liver": np.s_[2:8, 4:14, 1:12],
    "right_kidney": np.s_[2:6, 15:19, 4:8],
    "left_kidney": np.s_[2:6, 15:19, 22:26],
    "spleen": np.s_[3:7, 8:14, 24:29],
    "pancreas": np.s_[3:5, 10:12, 13:20],
    "tumor": np.s_[4:6, 6:9, 3:6],
}
HU = {"liver": 110, "right_kidney": 190, "left_kidney": 190, "spleen": 130, "pancreas": 100, "tumor": 60}
FILES = {
    "btcv": ("RawData/Training/img/img{}.nii.gz", "RawData/Training/label/label{}.nii.gz"),
    "amos": ("amos22/imagesTr/amos_0{}.nii.gz", "amos22/labelsTr/amos_0{}.nii.gz"),
    "kits": ("kits23/dataset/case_{}/imaging.nii.gz", "kits23/dataset/case_{}/segmentation.nii.gz"),
    "lits": ("Task03_Liver/imagesTr/liver_{}.nii.gz", "Task03_Liver/labelsTr/liver_{}.nii.gz"),
    "msd_pancreas": ("Task07_Pancreas/imagesTr/pancreas_{}.nii.gz", "Task07_Pancreas/labelsTr/pancreas_{}.nii.gz"),
    "abdomenct1k": ("AbdomenCT-1K-ImagePart1/Case_{}_0000.nii.gz", "Mask/Case_{}.nii.gz"),
    "totalsegmentator": (
        "Totalsegmentator_dataset_v201/s{}/ct.nii.gz",
        "Totalsegmentator_dataset_v201/s{}/segmentations/{{mask}}.nii.gz",
    ),
}


USED = ("liver", "right_kidney", "left_kidney", "spleen", "pancreas", "tumor", "aorta", "inferior_vena_cava",
        "right_adrenal_gland", "left_adrenal_gland", "gallbladder", "esophagus", "stomach", "duodenum")  # fmt: skip


def overrides() -> dict:
    """Return the seven presets in one configuration, with a category for each source and one model."""
    return {
        "sources": {"flare23": None, **{name: preset(name) for name in NAMES}},
        "categories": [{"name": name, "sources": [name]} for name in NAMES],
        "labels": [label for label in yaml.safe_load(RECIPE.read_text())["labels"] if label["name"] in USED],
        "completions": None,
        "models": {name: None for name in ("organ_teacher", "tumor_teacher", "student_2200")}
        | {"student": {"train_on": {"label_completions": [], "manual_labels": list(NAMES)}}},
        "model_defaults": {"training": {"loss": "label_sets"}},
        "evaluation": {"compare": []},
    }


def preset(name: str) -> dict:
    return yaml.safe_load((PRESETS / f"{name}.yaml").read_text())["sources"][name]


def truth(seed: int) -> np.ndarray:
    """Return a body in our values."""
    array = np.zeros(SHAPE, np.uint8)
    for name, box in BOXES.items():
        array[box] = LABELS.value_of(name)
    array[1, seed % 5, :] = 0
    return array


def ct(array: np.ndarray, seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).normal(30, 20, SHAPE)
    for name, value in HU.items():
        image[array == LABELS.value_of(name)] += value - 30
    image[0] = -1000
    image[-1, -1, -1] = 900
    return image.astype(np.int16)


def in_numbers_of(source: dict, array: np.ndarray) -> np.ndarray:
    """Return a body in a source's numbers; what it does not label is background."""
    stored = np.zeros(SHAPE, np.uint8)
    for value, target in source["values"].items():
        for name in target["sides"] if isinstance(target, dict) else [target]:
            if name in LABELS.names:
                stored[array == LABELS.value_of(name)] = value
    return stored


def write_case(root, name: str, number: int, seed: int) -> None:
    """Write a case of a source in its layout and numbers."""
    image, label = (root / pattern.format(f"{number:03d}") for pattern in FILES[name])
    array, source = truth(seed), preset(name)
    write(image, ct(array, seed), AFFINE)
    if "masks" not in source:
        write(label, in_numbers_of(source, array), AFFINE)
        return
    for mask, target in source["values"].items():
        marked = (array == LABELS.value_of(target)).astype(np.uint8)
        write(label.with_name(label.name.replace("{mask}", mask)), marked, AFFINE)
    write(label.with_name("skull.nii.gz"), np.ones(SHAPE, np.uint8), AFFINE)


def expected(name: str, seed: int) -> np.ndarray:
    """Return what of a body a source has labeled, in our values."""
    source, array = preset(name), truth(seed)
    held = {target for value in source["values"].values() for target in
            (value["sides"] if isinstance(value, dict) else [value])}  # fmt: skip
    return np.where(np.isin(array, [LABELS.value_of(one) for one in held & set(LABELS.names)]), array, 0)


def write_cohort(root: Path) -> None:
    """Write three cases of each source, and an MR scan among the CTs of amos."""
    for index, name in enumerate(NAMES):
        for number in range(1, 4):
            write_case(root, name, number, 10 * index + number)
    write(root / FILES["amos"][0].format("510"), ct(truth(0), 99), AFFINE)
