"""A trained model, its record and its bundle."""

from __future__ import annotations

import contextlib
import logging
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib import __version__
from flare23_lib.cache.entries import Metadata
from flare23_lib.cache.results import DEEP_REMEDY, Results
from flare23_lib.choices import WEIGHTS_FILE
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset.cases import read_cases
from flare23_lib.dataset.read_files import remembered
from flare23_lib.errors import StoreError, TrainingError
from flare23_lib.inference.bundle import file_sha256, write_bundle
from flare23_lib.inference.model import InferenceDefaults, Model, ModelLabel, Weights
from flare23_lib.inference.training_images import TrainingImages, summarize
from flare23_lib.io.atomic import about_path, atomic_path, link_to, read_json, remove_partial, write_json
from flare23_lib.io.locks import lock
from flare23_lib.labels import Label
from flare23_lib.networks.weight_files import save_weights
from flare23_lib.nnunet import history as epochs
from flare23_lib.nnunet.pretrained import load_initial_weights, read_weights
from flare23_lib.nnunet.retry_state import READ, attempt, forget
from flare23_lib.nnunet.training_job import WEIGHTS, TrainingJob
from flare23_lib.preprocessing.intensity import Intensity
from flare23_lib.runtime.signals import raised

if TYPE_CHECKING:
    from flare23_lib.nnunet.trainer import FlareTrainer

log = logging.getLogger(__name__)

HISTORY = ".csv"


@dataclass(frozen=True)
class TrainingRuntime:
    """How a training runs; it shapes no result.

    Attributes:
        device: as `devices.choose`.
        threads: threads and processes to use.
        gpus: GPUs (on a CPU: processes) that share each batch.
        checkpoint_minutes: the longest time of training between two checkpoints.
        attempt: which attempt of this run of the workflow it is, from 1.
    """

    device: str = "auto"
    threads: int = 1
    gpus: int = 1
    checkpoint_minutes: float = 10.0
    attempt: int = 1


def train(job: TrainingJob, runtime: TrainingRuntime, pretrained: Path | None, output: Path, history: Path) -> None:
    """Train a model to the end, from its newest checkpoint if there is one; write its record and table of epochs.

    `pretrained` is the file of weights to start from, whose digest is among the settings.

    Raises:
        TrainingError: there is nothing to train on, or the training cannot continue.
        StoppedError: a signal asked for it; the state is saved.
    """
    folder, weights = job.folder.create(), job.weights
    with lock(folder.path / ".lock", lambda: log.info("waiting for another job that trains this model")):
        metadata = weights.load()
        if metadata:
            log.info("%s is trained already (%s)", job.model, job.results.relative(folder.path))
            forget(folder.path)
        else:
            metadata = _train(job, runtime, pretrained)
    epochs.write_named(history, weights.file(HISTORY), {str(value): name for value, name in job.names.items()})
    learned = {row["case"] for row in job.rows}
    cases = [case for case in read_cases(job.results.cases) if case.case in learned]
    known = remembered(job.results.scan_memory)
    images = summarize(known[path] for case in cases if (path := Path(case.image)) in known)
    write_json(
        output,
        {
            "model": job.model,
            "fingerprint": folder.fingerprint,
            "weights": job.results.relative(weights.file(WEIGHTS)),
            "cases": len(job.rows),
            "labels_seen": [job.names[value] for value in job.seen],
            "labels_unseen": job.unseen,
            "sources": dict(sorted(Counter(case.source for case in cases).items())),
            "training_images": images.to_json() if images else None,
            **metadata["results"],
            "settings": job.settings.to_json(),
        },
    )


def _train(job: TrainingJob, runtime: TrainingRuntime, pretrained: Path | None) -> Metadata:
    """Train as one of several attempts, and save the final weights."""
    from flare23_lib.nnunet import checkpoints

    log.info("%s learns from %d cases", job.model, len(job.rows))
    protocol, hidden = job.settings.training, job.settings.hidden_in or {}
    for value, organs in hidden.items() if protocol.loss == "label_sets" else ():
        if len(organs) * protocol.hidden_weight >= 1:
            log.warning(
                "%s may be hidden in %d labels; with this hidden_weight, 1 by their number or more, a network "
                "tends to call them all so (docs/training.md)",
                job.names[int(value)],
                len(organs),
            )
    quarantined = [case.case for case in read_cases(job.results.cases) if not case.usable]
    if quarantined:
        log.info("excluded (quarantine.csv has the reasons): %s", ", ".join(quarantined))
    remove_partial(job.checkpoints)
    with attempt(job.folder.path, runtime.attempt, lambda: checkpoints.mark(job.checkpoints)):
        if not job.seen:
            raise TrainingError(f"{job.model}: none of its {len(job.rows)} cases holds a label")
        initial = None if pretrained is None else partial(load_initial_weights, pretrained)
        return _run(job, runtime, initial)


def _run(job: TrainingJob, runtime: TrainingRuntime, initial: Callable[[FlareTrainer], None] | None) -> Metadata:
    import torch

    from flare23_lib.nnunet import plans as nnunet_plans
    from flare23_lib.nnunet.launch import TrainingRun
    from flare23_lib.nnunet.launch import train as run
    from flare23_lib.preprocessing.preprocess import annotated_classes, link_dataset
    from flare23_lib.runtime.devices import choose

    folder, rows = job.folder.path, job.rows
    if not (folder / READ).exists():
        with raised():
            job.results.require_whole([row[name] for row in rows for name in ("image", "label")], runtime.threads)
        write_json(folder / READ, {})
    preprocessed = folder / "preprocessed" / nnunet_plans.DATASET_NAME
    link_dataset(preprocessed / nnunet_plans.DATA_IDENTIFIER, job.results.root, rows)
    write_json(preprocessed / "dataset_fingerprint.json", {"cases": len(rows)})
    plans = nnunet_plans.plans(job.settings)
    # Labels of users may hold voxels to ignore without a word of it in the configuration.
    ignored = any(job.results.metadata(row["label"]).get("ignored") for row in rows)
    has_ignore_label = job.settings.ignore_label or ignored
    dataset = nnunet_plans.dataset_json(list(job.names.values()), has_ignore_label, rows, job.unseen)
    if job.settings.training.needs_annotated:
        dataset["annotated"] = annotated_classes(job.settings.label_values, rows)
    device = choose(runtime.device, claimed=runtime.gpus)
    with about_path(folder), quiet(folder / "nnunet.log"):  # nnU-Net reads and writes there, too
        what = TrainingRun(folder, plans, dataset, device, runtime.gpus, runtime.threads, runtime.checkpoint_minutes)
        trainer = run(what, initial)
    entry = job.weights
    with atomic_path(entry.file(WEIGHTS)) as temporary:
        save_weights(temporary, trainer.bare_network.state_dict())
    epochs.write(entry.file(HISTORY), [str(value) for value in job.settings.label_values], trainer.history)
    return entry.save(
        [WEIGHTS, HISTORY],
        {
            "checkpoint": job.results.relative(Path(trainer.output_folder) / "checkpoint_final.pth"),
            "weights_sha256": file_sha256(entry.file(WEIGHTS)),
            "epochs": trainer.num_epochs,
            "seconds": round(sum(row["seconds"] for row in trainer.history), 1),
            "epoch_seconds": statistics.median(row["seconds"] for row in trainer.history),
            "threads": runtime.threads,
            "device": str(device),
            "gpus": runtime.gpus,
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
    labels: Sequence[Label],
    weights_sha256: str,
) -> Model:
    """Return the description of a trained model: all of model.json that shapes results."""
    return Model(
        name=model,
        network=settings.network,
        patch_size=settings.patch_size,
        spacing=settings.spacing,
        intensity=Intensity.of(settings.intensity),
        orientation=settings.orientation,
        labels=(ModelLabel("background", 0), *(ModelLabel(**asdict(label)) for label in labels)),
        mirror_axes=settings.training.mirror_axes,
        inference=InferenceDefaults(**inference.to_json()),
        weights=Weights(WEIGHTS_FILE, weights_sha256),
    )


def export(
    results: Results,
    model: str,
    inference: InferenceSettings,
    labels: Sequence[Label],
    output: Path,
) -> None:
    """Write a trained model's bundle, model.safetensors and model.json; StoreError if the weights are damaged."""
    record = read_json(results.training(model))
    provenance = {
        "trained_on_cases": record["cases"],
        "training": record["settings"]["training"],
        "fingerprint": record["fingerprint"],
        "versions": record["versions"],
    }
    settings, images = TrainingSettings.from_json(record["settings"]), record.get("training_images")
    description = replace(
        describe(model, settings, inference, labels, record["weights_sha256"]),
        unseen=tuple(record["labels_unseen"]),
        provenance=provenance,
        training_images=TrainingImages.from_json(images) if images else None,
    )
    path = results.file(record["weights"])
    weights = read_weights(path)
    if file_sha256(path) != record["weights_sha256"]:
        raise StoreError(f"{path} is damaged (its SHA-256 differs from the record's); {DEEP_REMEDY}")
    write_bundle(output, description, weights)
    # For use with nnU-Net: a link to its model folder, in the record's folder.
    try:
        link_to(results.training(model).with_name("nnunet"), (results.root / record["checkpoint"]).parent.parent)
    except StoreError as error:  # no job reads it
        log.warning("%s", error)
