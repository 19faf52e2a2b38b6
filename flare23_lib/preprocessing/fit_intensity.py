"""Intensities of a model's training set, for `intensity: measure`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry, Metadata, fingerprint
from flare23_lib.cache.results import Results
from flare23_lib.config.settings import PreprocessingSettings, TrainingSet, TrainingSettings
from flare23_lib.config.training_models import IntensityValues
from flare23_lib.dataset.cases import refuse_changed
from flare23_lib.errors import ConfigError, TrainingError, one_line
from flare23_lib.io.atomic import atomic_path, read_json, write_json
from flare23_lib.io.label_maps import LabelFiles, read_label_map
from flare23_lib.io.nifti import read_volume
from flare23_lib.preprocessing.intensity import SAMPLES, draw_foreground, pool
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, label_file, no_case, training_set
from flare23_lib.runtime.failures import CaseFailures, concerns_all
from flare23_lib.runtime.processes import in_processes

log = logging.getLogger(__name__)

DRAWN = ".npy"

Task = tuple[TrainingCase, LabelFiles | Path, Entry]
"""A case to draw from, its label, and where the result is kept."""

WithIntensity = TypeVar("WithIntensity", PreprocessingSettings, TrainingSettings)


def intensity_folder(results: Results) -> CacheFolder:
    """Return the folder of intensities drawn from cases; all models share it."""
    return results.cache("intensities", {"version": versions.INTENSITY, "samples": SAMPLES})


def case_entry(folder: CacheFolder, case: TrainingCase) -> Entry:
    """Return the entry of the intensities drawn from a case."""
    return folder.entry(case.case.case, {"image": case.case.image_id, "label": case.label_id})


def pooled_entry(folder: CacheFolder, cases: Sequence[TrainingCase]) -> Entry:
    """Return the entry of a training set's result."""
    names = sorted(case_entry(folder, case).name for case in cases)
    return folder.entry("training_set", {"cases": fingerprint(names)})


def measure(results: Results, model: str, settings: TrainingSet, processes: int, output: Path) -> None:
    """Measure the intensities of a model's training set and write its record.

    The record holds `intensity` (low, high, mean, std in HU) and the cases without foreground.

    Raises:
        TrainingError: there is no case, or none has foreground.
        KilledError: a process was killed, or lacked memory; what was measured is kept.
    """
    cases = training_set(results, settings)
    if not cases:
        raise no_case(model, results)
    folder = intensity_folder(results)
    entries = [case_entry(folder, case) for case in cases]

    def make(pooled: Entry) -> Metadata:
        missing = [
            (case, label_file(results, case), entry)
            for case, entry in zip(cases, entries, strict=True)
            if entry.load() is None
        ]
        log.info("%d cases, %d of them to be measured", len(cases), len(missing))
        _draw_all(missing, processes)
        results.require_whole([results.relative(entry.file(DRAWN)) for entry in entries], processes)
        drawn = [np.load(entry.file(DRAWN)) for entry in entries]
        empty = [case.case.case for case, values in zip(cases, drawn, strict=True) if not len(values)]
        if len(empty) == len(cases):
            raise TrainingError(
                f"{model}: no case has a labeled voxel to measure; give its intensity as four numbers"
            )
        found = {"intensity": pool(drawn), "cases": len(cases), "cases_without_foreground": empty}
        return pooled.save([], found)

    metadata, _ = pooled_entry(folder, cases).load_or_make(model, make)
    log.info("%s: %s", model, metadata["results"]["intensity"])
    write_json(output, {"model": model, **metadata["results"]})


def _draw_all(tasks: Sequence[Task], processes: int) -> None:
    """Draw from cases; CasesFailedError if one fails, KilledError as `in_processes`."""
    failures = CaseFailures(len(tasks))
    for task, line in zip(tasks, in_processes(_draw, tasks, processes, name=_name), strict=True):
        if line:
            failures.add(_name(task), line)
    failures.raise_any()


def _name(task: Task) -> str:
    return task[0].case.case


def _draw(task: Task) -> str | None:
    """Draw from a case and return None, or one line why it failed."""
    case, label, entry = task
    image = Path(case.case.image)
    try:
        drawn = draw_foreground(read_volume(image).array, read_label_map(label).array)
        with atomic_path(entry.file(DRAWN)) as temporary, temporary.open("wb") as handle:
            np.save(handle, drawn)
        refuse_changed(case.case, image=True, label=case.completion is None)
        entry.save([DRAWN], {"voxels": len(drawn)})
    except Exception as error:
        if concerns_all(error) or isinstance(error, MemoryError):
            raise
        return one_line(image, error)
    return None


def with_intensity(settings: WithIntensity, record: Path | None) -> WithIntensity:
    """Return a stage's settings with the numbers of the record of `measure` in the place of `measure`.

    Raises:
        ConfigError: it is needed and not given.
        StoreError: it is missing.
    """
    if settings.intensity != "measure":
        return settings
    if record is None:
        raise ConfigError("--intensity: the settings say `measure`; name the record of the measurement")
    return type(settings).of(settings, intensity=IntensityValues.from_json(read_json(record)["intensity"]))
