"""Stage: a trained model, its record and its bundle."""

from __future__ import annotations

import contextlib
import logging
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from flare23_lib import __version__, versions
from flare23_lib.cache.entries import Item, StageFolder
from flare23_lib.cache.results import Results, read_shards, read_training
from flare23_lib.choices import WEIGHTS_FILE
from flare23_lib.config.settings import InferenceSettings, TrainingSettings
from flare23_lib.dataset.cases import read_cases
from flare23_lib.errors import TrainingError
from flare23_lib.inference.bundle import (
    InferenceDefaults,
    Model,
    ModelLabel,
    Weights,
    file_sha256,
    write_bundle,
)
from flare23_lib.io.atomic import atomic_path, link_to, remove_partial, write_json
from flare23_lib.io.locks import lock
from flare23_lib.nnunet import history as epochs
from flare23_lib.nnunet.initial_weights import TABLE, InitialWeights, publish
from flare23_lib.nnunet.plans import CONFIGURATION, DATASET_NAME, PLANS_NAME
from flare23_lib.nnunet.retry_state import attempt
from flare23_lib.preprocessing.preprocess_cases import no_case
from flare23_lib.preprocessing.resampling import Intensity
from flare23_lib.runtime.signals import StoppedError

log = logging.getLogger(__name__)

WEIGHTS = ".safetensors"
HISTORY = ".csv"
CHECKPOINTS = f"results/{DATASET_NAME}/FlareTrainer__{PLANS_NAME}__{CONFIGURATION}/fold_all"
"""nnU-Net's folder of the checkpoints in a training's folder."""


@dataclass(frozen=True)
class Way:
    """How a training is done; it shapes no result.

    Attributes:
        device: as `devices.choose`.
        threads: threads and processes to use.
        gpus: GPUs (on a processor: processes) that share each batch.
        checkpoint_minutes: the longest time of training between two checkpoints.
        attempt: which attempt of this run of the workflow it is, from 1.
    """

    device: str = "auto"
    threads: int = 1
    gpus: int = 1
    checkpoint_minutes: float = 10.0
    attempt: int = 1


def training_folder(results: Results, settings: TrainingSettings, rows: Sequence[Mapping[str, str]]) -> StageFolder:
    """Return the folder of a training: its fingerprint holds the settings and every case of the training set.

    Args:
        results: the results folder.
        settings: what shapes its weights, with the intensity as numbers.
        rows: `case`, `image` and `label` of the preprocessed cases.
    """
    cases = sorted([row["case"], row["image"], row["label"]] for row in rows)
    return results.folder("training", {"version": versions.TRAINING, "settings": settings.to_json(), "cases": cases})


def weights_item(folder: StageFolder) -> Item:
    """Return the item that holds a training's final weights."""
    return Item(folder.path, "model")


def train(
    results: Results,
    model: str,
    settings: TrainingSettings,
    label_names: Sequence[str],
    shards: int,
    way: Way,
    output: Path,
    history: Path,
    pretrained: Path | None = None,
) -> None:
    """Train a model to the end, from its newest checkpoint if there is one, and write the record.

    Args:
        results: the results folder.
        model: its name.
        settings: what shapes its weights, with the intensity as numbers.
        label_names: names of the labels in order.
        shards: shards of the preprocessing.
        way: how it is done.
        output: the record.
        history: table of the epochs.
        pretrained: file of weights to start from; its digest is among the settings.

    Raises:
        TrainingError: there is nothing to train on, or the training cannot go on.
        StoppedError: a signal asked for it; the state is saved.
    """
    rows = read_shards(results, "preprocessed", model, shards)
    names = dict(zip(settings.label_values, label_names, strict=True))
    seen = sorted({int(value) for row in rows for value in row["labels_present"].split()})
    unseen = [name for value, name in names.items() if value not in seen]
    folder = training_folder(results, settings, rows).create()
    with lock(folder.path / ".lock", lambda: log.info("another job trains this model; waiting for it")):
        item = weights_item(folder)
        note = item.read()
        if note:
            log.info("%s is trained already (%s)", model, results.relative(folder.path))
        else:
            log.info("%s learns from %d cases", model, len(rows))
            left_out = [case.case for case in read_cases(results.cases) if not case.usable]
            if left_out:
                log.info("left out, quarantine.csv says why: %s", ", ".join(left_out))
            from flare23_lib.nnunet import checkpoints

            where = folder.path / CHECKPOINTS
            remove_partial(where)
            with attempt(folder.path, way.attempt, lambda: checkpoints.mark(where), StoppedError):
                if not rows:
                    raise no_case(model, results)
                if not seen:
                    raise TrainingError(f"{model}: none of its {len(rows)} cases holds a label")
                initial = None if pretrained is None else InitialWeights(pretrained, folder.path / TABLE)
                note = _train(results, settings, names, unseen, rows, folder, way, initial)
    publish(folder.path, output)
    epochs.write_named(history, item.file(HISTORY), {str(value): name for value, name in names.items()})
    write_json(
        output,
        {
            "model": model,
            "fingerprint": folder.fingerprint,
            "weights": results.relative(item.file(WEIGHTS)),
            "cases": len(rows),
            "labels_seen": [names[value] for value in seen],
            "labels_unseen": unseen,
            **note["results"],
            "settings": settings.to_json(),
        },
    )


def _train(
    results: Results,
    settings: TrainingSettings,
    names: Mapping[int, str],
    unseen: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    folder: StageFolder,
    way: Way,
    initial: InitialWeights | None,
) -> dict[str, Any]:
    import torch

    from flare23_lib.nnunet import plans as nnunet_plans
    from flare23_lib.nnunet.launch import Run
    from flare23_lib.nnunet.launch import train as run
    from flare23_lib.preprocessing.preprocess import link_dataset
    from flare23_lib.runtime.devices import choose

    preprocessed = folder.path / "preprocessed" / nnunet_plans.DATASET_NAME
    link_dataset(preprocessed / nnunet_plans.DATA_IDENTIFIER, results.root, rows)
    write_json(preprocessed / "dataset_fingerprint.json", {"cases": len(rows)})
    plans = nnunet_plans.plans(settings)
    # Labels of users may hold voxels to ignore without a word of it in the configuration.
    ignored = settings.ignore_label or any(results.measures(row["label"]).get("ignored") for row in rows)
    dataset = nnunet_plans.dataset_json(list(names.values()), ignored, rows, unseen)
    chosen = choose(way.device, claimed=way.gpus)
    with quiet(folder.path / "nnunet.log"):
        what = Run(folder.path, plans, dataset, chosen, way.gpus, way.threads, way.checkpoint_minutes)
        trainer = run(what, initial)
    state = trainer.bare_network.state_dict()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    item = weights_item(folder)
    with atomic_path(item.file(WEIGHTS)) as temporary:
        save_file(weights, temporary)
    epochs.write(item.file(HISTORY), [str(value) for value in settings.label_values], trainer.history)
    return item.finish(
        [WEIGHTS, HISTORY],
        {"cases": len(rows)},
        {
            "checkpoint": results.relative(Path(trainer.output_folder) / "checkpoint_final.pth"),
            "weights_sha256": file_sha256(item.file(WEIGHTS)),
            "epochs": trainer.num_epochs,
            "seconds": round(sum(row["seconds"] for row in trainer.history), 1),
            "epoch_seconds": statistics.median(row["seconds"] for row in trainer.history),
            "threads": way.threads,
            "device": str(chosen),
            "gpus": way.gpus,
            "used": trainer.used(),
            "machine": platform.machine(),
            "versions": {"flare23_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
        },
    )


@contextlib.contextmanager
def quiet(path: Path):
    """Send what nnU-Net prints to a file, so that a job's log stays readable."""
    with path.open("a", encoding="utf-8") as handle, contextlib.redirect_stdout(handle):
        yield


def describe(
    model: str,
    settings: TrainingSettings,
    inference: InferenceSettings,
    label_names: Sequence[str],
    unseen: Sequence[str],
    weights_sha256: str,
    provenance: Mapping[str, Any],
) -> Model:
    """Return the description of a trained model, as model.json holds it."""
    return Model(
        name=model,
        network=settings.network,
        patch_size=settings.patch_size,
        spacing=settings.spacing,
        intensity=Intensity(**dict(settings.intensity)),
        orientation=settings.orientation,
        labels=(
            ModelLabel("background", 0),
            *(ModelLabel(*pair) for pair in zip(label_names, settings.label_values, strict=True)),
        ),
        unseen=tuple(unseen),
        mirror_axes=settings.training.mirror_axes,
        inference=InferenceDefaults(**inference.to_json()),
        weights=Weights(WEIGHTS_FILE, weights_sha256),
        provenance=provenance,
    )


def export(
    results: Results,
    model: str,
    inference: InferenceSettings,
    label_names: Sequence[str],
    output: Path,
) -> None:
    """Write a trained model's bundle: model.safetensors and model.json.

    Args:
        results: the results folder.
        model: its name.
        inference: how the model is used by default.
        label_names: names of the labels in order.
        output: the bundle's folder.
    """
    record = read_training(results, model)
    provenance = {
        "trained_on_cases": record["cases"],
        "training": record["settings"]["training"],
        "fingerprint": record["fingerprint"],
        "versions": record["versions"],
    }
    description = describe(
        model,
        TrainingSettings.from_json(record["settings"]),
        inference,
        label_names,
        record["labels_unseen"],
        record["weights_sha256"],
        provenance,
    )
    write_bundle(output, description, load_file(results.file(record["weights"])))
    # For people who go on with nnU-Net: its model folder beside the record.
    link_to(results.training(model).with_name("nnunet"), (results.root / record["checkpoint"]).parent.parent)
