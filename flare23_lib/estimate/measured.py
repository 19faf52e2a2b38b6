"""The figures that an earlier run allows to measure, from the notes in its store.

Notes are written when a case is really computed, and once; so they hold what the work took however often the run was
started. Snakemake's own benchmark files do not: a job that found its work done leaves one too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from flare23_lib.cohort.table import read_cases
from flare23_lib.config import Config
from flare23_lib.config.settings import InferenceSettings, TrainingSettings
from flare23_lib.estimate.extents import Extent
from flare23_lib.estimate.throughputs import CORE, GPU, Figure, Figures, own_figure
from flare23_lib.estimate.work import SEGMENTATION_CORES, Part, epoch_macs, image_macs
from flare23_lib.resampling import resampled_shape
from flare23_lib.stages.results import Results
from flare23_lib.stages.segmentation import model_digest
from flare23_lib.store import read_json

USAGE = ("step", "tta")
"""How a model is used may differ from the earlier run in these: their work is counted."""


@dataclass(frozen=True)
class Note:
    """A case's note in the store.

    Attributes:
        extent: of its image.
        about: the key of its folder.
        files: bytes by suffix.
        results: what the stage wrote down.
    """

    extent: Extent
    about: Mapping[str, Any]
    files: Mapping[str, int]
    results: Mapping[str, Any]

    @property
    def resampled(self) -> int:
        """Voxels at the folder's target spacing."""
        return prod(resampled_shape(self.extent.shape, self.extent.spacing, self.about["spacing"]))


def measured_figures(root: Path, config: Config, figures: Figures) -> dict[str, Figure]:
    """Return the figures, those replaced that an earlier run measured.

    CPU work and disk are compared with what the given figures foretell for the very cases of the run, and the figures
    scaled. How fast a network works is measured for a model whose network, patch, batch and precision the earlier
    run had under the same name, on the same kind of device.

    Args:
        root: results folder of the earlier run.
        config: the configuration of the estimate.
        figures: what is assumed.

    Raises:
        StoreError: the folder holds no cohort/cases.csv.
    """
    run = _Run(root)
    found = dict(figures)
    scaled = _Scaled(run, found)
    scaled.core("preprocessed_images", _image_parts)
    scaled.core("preprocessed_labels", _label_parts)
    scaled.core("completed_labels", lambda note: [Part("complete", note.extent.voxels)])
    scaled.disk("preprocessed_images", ".b2nd", lambda note: [Part("preprocessed_images", note.resampled)])
    scaled.disk("preprocessed_labels", ".b2nd", lambda note: [Part("preprocessed_labels", note.resampled)])
    scaled.disk("preprocessed_labels", ".pkl", _location_parts)
    scaled.disk("completed_labels", ".nii.gz", lambda note: [Part("written_labels", note.extent.voxels)])
    for model in config.models:
        for figure in (_training(run, config, model), _inference(run, config, model)):
            if figure is not None:
                found[figure.name] = figure
    return found


class _Run:
    """An earlier run's results."""

    def __init__(self, root: Path) -> None:
        self.results = Results(root)
        self.extents = {
            case.case: Extent(case.shape, case.spacing) for case in read_cases(self.results.cases) if case.shape
        }

    def notes(self, stage: str) -> Iterator[Note]:
        """Yield the notes of a stage's cases that are in cases.csv; one that is cut off is passed over."""
        for folder in sorted((self.results.root / "store" / stage).glob("*/about.json")):
            key = read_json(folder)["key"]
            for path in sorted(folder.parent.glob("*.*.json")):
                extent = self.extents.get(path.name.rsplit(".", 2)[0])
                if extent is None:
                    continue
                try:
                    note = json.loads(path.read_text(encoding="utf-8"))
                except ValueError:
                    continue
                sizes = {suffix: mark[0] for suffix, mark in note["files"].items()}
                yield Note(extent, key, sizes, note["results"])

    def training(self, model: str) -> dict[str, Any]:
        """Return the record of a training; empty without one."""
        path = self.results.training(model)
        return read_json(path) if path.exists() else {}


class _Scaled:
    """Replaces figures by themselves times measured over foretold."""

    def __init__(self, run: _Run, figures: dict[str, Figure]) -> None:
        self.run = run
        self.figures = figures

    def core(self, stage: str, parts: Callable[[Note], list[Part]]) -> None:
        """Scale the figures of a stage's CPU work by the seconds in its notes; older notes have none."""
        notes = [note for note in self.run.notes(stage) if note.results.get("core_seconds")]
        ratio = self._ratio(notes, parts, lambda note: note.results["core_seconds"])
        self._replace(notes, parts, lambda figure: figure.value / ratio)

    def disk(self, stage: str, suffix: str, parts: Callable[[Note], list[Part]]) -> None:
        """Scale the figures of a stage's files by their bytes."""
        notes = [note for note in self.run.notes(stage) if suffix in note.files]
        ratio = self._ratio(notes, parts, lambda note: note.files[suffix])
        self._replace(notes, parts, lambda figure: figure.value * ratio)

    def _ratio(self, notes: list[Note], parts: Callable, measure: Callable[[Note], float]) -> float:
        foretold = sum(self.figures[part.figure].use(part.amount) for note in notes for part in parts(note))
        return sum(map(measure, notes)) / foretold if foretold else 1.0

    def _replace(self, notes: list[Note], parts: Callable, value: Callable[[Figure], float]) -> None:
        if not notes:
            return
        for name in {part.figure for note in notes for part in parts(note)}:
            figure = self.figures[name]
            self.figures[name] = figure.replaced(value(figure), _source(self.run, [note.extent for note in notes]))


def _image_parts(note: Note) -> list[Part]:
    return [
        Part("preprocess_images_stored", note.extent.voxels),
        Part("preprocess_images_resampled", note.resampled),
    ]


def _label_parts(note: Note) -> list[Part]:
    return [
        Part("preprocess_labels_stored", note.extent.voxels),
        Part("preprocess_labels_resampled", note.resampled),
    ]


def _location_parts(note: Note) -> list[Part]:
    return [Part("locations", len(note.about["label_values"]) + 1)]


def _source(run: _Run, extents: list[Extent]) -> str:
    mean = sum(extent.voxels for extent in extents) / len(extents) / 1e6
    return f"{run.results.root}: {len(extents)} cases of {mean:.3g} Mvoxel"


def _resource(config: Config, device: str) -> str | None:
    """Return what a device of an earlier run is a figure of; None if the estimate is for another kind."""
    on_cpu = device.startswith("cpu")
    if on_cpu != (config.device == "cpu"):
        return None
    return CORE if on_cpu else GPU


def _training(run: _Run, config: Config, model: str) -> Figure | None:
    """Return how fast a model was trained, by the median epoch; of one core, where it was trained on cores."""
    record = run.training(model)
    settings = config.training_settings(model)
    if "epoch_seconds" not in record:
        return None
    then = TrainingSettings.from_json(record["settings"])
    resource = _resource(config, record["device"])
    same = (then.training.batch_size, then.training.precision) == (
        settings.training.batch_size,
        settings.training.precision,
    )
    if resource is None or not same or not _same_network(then, settings):
        return None
    seconds = record["epoch_seconds"] * record["threads" if resource == CORE else "gpus"]
    source = f"{run.results.root}: the median of {record['epochs']} epochs"
    value = epoch_macs(then) / seconds / 1e12
    return Figure(own_figure("training", model), value, "TMAC/s", resource, source, True)


def _inference(run: _Run, config: Config, model: str) -> Figure | None:
    """Return how fast a model segments, by all phases of its cases; of one core, where it ran on cores."""
    record = run.training(model)
    description = run.results.model_file(model)
    settings, inference = config.training_settings(model), config.inference_settings(model)
    if "threads" not in record or not description.exists():
        return None
    then = TrainingSettings.from_json(record["settings"])
    if not _same_network(then, settings):
        return None
    resource = _resource(config, record["device"])
    if resource is None:
        return None
    digest = model_digest(read_json(description))
    notes = [
        note
        for note in run.notes("segmentations")
        if note.about["model"] == digest and _lasting(note.about["inference"]) == _lasting(inference.to_json())
    ]
    seconds = sum(sum(note.results["timings"].values()) for note in notes)
    if not seconds:
        return None
    if resource == CORE:
        seconds *= min(SEGMENTATION_CORES, record["threads"])
    macs = sum(image_macs(then, InferenceSettings.from_json(note.about["inference"]), note.extent) for note in notes)
    source = _source(run, [note.extent for note in notes])
    return Figure(own_figure("inference", model), macs / seconds / 1e12, "TMAC/s", resource, source, True)


def _lasting(inference: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inference.items() if name not in USAGE}


def _same_network(then: TrainingSettings, now: TrainingSettings) -> bool:
    same = (then.network, then.patch_size) == (now.network, now.patch_size)
    return same and len(then.label_values) == len(now.label_values)
