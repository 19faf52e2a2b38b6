"""A tiny training for tests: its preprocessed cases, and the command that runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from cohorts import changed
from places import RECIPE

from flare23_lib.cache.entries import Shard, fingerprint
from flare23_lib.cache.results import Results, read_shards
from flare23_lib.config import Config
from flare23_lib.config.load import merge
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.io import nifti
from flare23_lib.io.atomic import write_json
from flare23_lib.io.identity import file_identity
from flare23_lib.nnunet import plans
from flare23_lib.nnunet.launch import TrainingRun, make_trainer
from flare23_lib.nnunet.trainer import FlareTrainer
from flare23_lib.preprocessing.preprocess import annotated_classes, link_dataset
from flare23_lib.preprocessing.preprocess_cases import preprocess

MODEL = "student"
NAMES = ["one", "two", "rare", "absent"]
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
SHAPE = (12, 24, 24)
CHANGES = {
    "labels": [{"name": name, "value": value, "tolerance_mm": 1} for value, name in enumerate(NAMES, start=1)],
    "categories": [{"name": "all", "contains_any": ["one"]}],
    "completions": dict.fromkeys(["tumor", "all_organs", "five_organs", "unlabeled"]),
    "evaluation": {"compare": []},
    "models": {
        **dict.fromkeys(["organ_teacher", "tumor_teacher", "student_2200"]),
        MODEL: {
            "network": {"depth": [1, 1, 1], "widths": [4, 8, 8]},
            "train_on": {"manual_labels": ["all"], "label_completions": []},
            "patch_size": [8, 16, 16],
            "spacing": [3, 2, 2],
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        },
    },
}
PROTOCOL = {
    "epochs": 4, "iterations_per_epoch": 3, "validation_iterations": 1, "optimizer": "adamw", "learning_rate": 0.01,
    "elastic_deformation": False, "precision": "float32",
}  # fmt: skip


def write_case(folder: Path, number: int, healthy: bool = False) -> Case:
    """Write an image of noise with brighter boxes, and their labels; the rare one is in the first case only.

    In a healthy case nothing is labeled.
    """
    random = np.random.default_rng(number)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 4:12, 4:20] = 1
    labels[3:8, 14:20, 6:18] = 2
    if number == 0:
        labels[5, 1, 1:3] = 3
    image = (random.normal(0, 40, SHAPE) + 150.0 * labels - 100).astype(np.int16)
    if healthy:
        labels[:] = 0
    paths = [folder / "cohort" / f"{kind}{number}.nii.gz" for kind in ("image", "label")]
    for path, array in zip(paths, (image, labels), strict=True):
        nifti.write_volume(path, array, nifti.header_for(array.shape, AFFINE, array.dtype))
    present = {int(value): int(np.sum(labels == value)) for value in np.unique(labels) if value}
    return Case(
        case=f"case{number}", image=str(paths[0]), label=str(paths[1]), split="training", voxels=present,
        category="all", shape=SHAPE, spacing=(3.0, 2.0, 2.0), image_id=file_identity(paths[0]),
        label_id=file_identity(paths[1]),
    )  # fmt: skip


def prepare(folder: Path, cases: int = 3, healthy: int = 0, **training) -> Results:
    """Write a few cases, the last ones healthy, preprocessed for a protocol; return the results folder."""
    results = Results(folder / "results")
    made = [write_case(folder, number, number >= cases - healthy) for number in range(cases)]
    write_cases(results.cases, made)
    protocol = {"model_defaults": {"training": training}}
    settings = Config.load([RECIPE], merge(CHANGES, protocol)).preprocessing_settings(MODEL)
    shard = Shard(0, 1)
    preprocess(results, settings, [8, 16, 16], shard, results.shard("preprocessed", MODEL, shard))
    return results


def settings(**training) -> TrainingSettings:
    """Return the training's settings, with changes to its protocol."""
    made = Config.load([RECIPE], CHANGES).training_settings(MODEL)
    return changed(made, training={**PROTOCOL, **training})


def trainer_of(results: Results, folder: Path, chosen: TrainingSettings | None = None, rows=None) -> FlareTrainer:
    """Make a trainer of the prepared cases, in a folder of its own."""
    chosen, rows = chosen or settings(), rows or read_shards(results, "preprocessed", MODEL, 1)
    data = folder / "preprocessed" / plans.DATASET_NAME
    link_dataset(data / plans.DATA_IDENTIFIER, results.root, rows)
    write_json(data / "dataset_fingerprint.json", {"cases": len(rows)})
    dataset = plans.dataset_json(NAMES, chosen.ignore_label, rows)
    if "annotated" in rows[0]:
        dataset["annotated"] = annotated_classes(chosen.label_values, rows)
    return make_trainer(TrainingRun(folder, plans.plans(chosen), dataset, torch.device("cpu")))


def command(
    results: Results,
    attempt: int = 1,
    checkpoint_minutes: float = 10,
    gpus: int = 1,
    names: Sequence[str] = NAMES,
    **training,
) -> list[str]:
    """Return the command that runs the training."""
    told = results.root / "settings" / f"{fingerprint([training, list(names)])}.json"
    write_json(told, {"settings": settings(**training).to_json(), "label_names": list(names)})
    return [
        sys.executable, "-m", "flare23_lib.cli", "stage", "train", "--results", str(results.root), "--model", MODEL,
        "--settings", str(told), "--shards", "1", "--device", "cpu",
        "--threads", "1", "--gpus", str(gpus), "--checkpoint-minutes", str(checkpoint_minutes),
        "--attempt", str(attempt), "--history", str(results.training(MODEL).with_name("training.csv")),
        "--output", str(results.training(MODEL)),
    ]  # fmt: skip
