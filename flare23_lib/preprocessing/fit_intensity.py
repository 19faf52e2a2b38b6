"""Intensities of a model's training set, for `intensity: measure`."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry, Metadata, fingerprint
from flare23_lib.cache.results import Results
from flare23_lib.config.models import Intensity
from flare23_lib.config.settings import PreprocessingSettings, TrainingSet, TrainingSettings
from flare23_lib.errors import ConfigError, TrainingError, one_line
from flare23_lib.io.atomic import atomic_path, read_json, write_json
from flare23_lib.io.label_maps import LabelFiles, read_label_map
from flare23_lib.io.nifti import read_volume
from flare23_lib.preprocessing.intensity import SAMPLES, draw_foreground, pool
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, label_file, no_case, training_set
from flare23_lib.runtime.failures import CaseFailures, concerns_all
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

DRAWN = ".npy"

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

    Args:
        results: the results folder.
        model: its name.
        settings: its training set.
        processes: how many cases are read at once.
        output: the record: `intensity` (low, high, mean, std in HU) and the cases without foreground.

    Raises:
        TrainingError: there is no case, or none has foreground.
    """
    cases = training_set(results, settings)
    if not cases:
        raise no_case(model, results)
    folder = intensity_folder(results)

    def make(pooled: Entry) -> Metadata:
        entries = [case_entry(folder, case) for case in cases]
        missing = [pair for pair in zip(cases, entries, strict=True) if pair[1].load() is None]
        log.info("%d cases, %d of them to be measured", len(cases), len(missing))
        _draw_all(results, missing, processes)
        results.require_whole([results.relative(entry.file(DRAWN)) for entry in entries], processes)
        return pooled.save([], _pool(model, cases, entries))

    metadata, _ = pooled_entry(folder, cases).load_or_make(model, make)
    log.info("%s: %s", model, metadata["results"]["intensity"])
    write_json(output, {"model": model, **metadata["results"]})


def _draw_all(results: Results, cases: Sequence[tuple[TrainingCase, Entry]], processes: int) -> None:
    """Draw from cases; CasesFailedError if one fails, TrainingError if a process is killed."""
    tasks = [(Path(case.case.image), label_file(results, case), entry) for case, entry in cases]
    failures = CaseFailures(len(tasks))
    with contextlib.ExitStack() as stack:
        drawn: Iterable[str | None] = map(_draw_case, tasks)
        if processes > 1 and len(tasks) > 1:
            context = multiprocessing.get_context("spawn")
            pool_of_processes = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context)
            drawn = stack.enter_context(pool_of_processes).map(_draw_case, tasks)
        try:
            for (case, _), line in zip(cases, progress(drawn, total=len(tasks)), strict=True):
                if line:
                    failures.add(case.case.case, line)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a measuring process was killed, probably because memory ran out; what was measured is kept, "
                "use fewer processes"
            ) from error
    failures.raise_any()


def _draw_case(task: tuple[Path, LabelFiles | Path, Entry]) -> str | None:
    """Draw from a case and return None, or one line why it failed."""
    try:
        _draw(task)
    except Exception as error:
        if concerns_all(error):
            raise
        return one_line(task[0], error)
    return None


def _draw(task: tuple[Path, LabelFiles | Path, Entry]) -> None:
    image, label, entry = task
    drawn = draw_foreground(read_volume(image).array, read_label_map(label).array)
    with atomic_path(entry.file(DRAWN)) as temporary, temporary.open("wb") as handle:
        np.save(handle, drawn)
    entry.save([DRAWN], {"voxels": len(drawn)})


def _pool(model: str, cases: Sequence[TrainingCase], entries: Sequence[Entry]) -> dict[str, Any]:
    drawn = [np.load(entry.file(DRAWN)) for entry in entries]
    empty = [case.case.case for case, values in zip(cases, drawn, strict=True) if not len(values)]
    if len(empty) == len(cases):
        raise TrainingError(f"{model}: no case has a labeled voxel to measure; give its intensity as four numbers")
    return {"intensity": pool(drawn), "cases": len(cases), "cases_without_foreground": empty}


def with_intensity(settings: WithIntensity, record: Path | None) -> WithIntensity:
    """Return a stage's settings with the measured numbers in the place of `measure`.

    Args:
        settings: of the stage.
        record: what `measure` wrote; only looked at where the settings ask for it.

    Raises:
        ConfigError: it is needed and not given.
        StoreError: it is missing.
    """
    if settings.intensity != "measure":
        return settings
    if record is None:
        raise ConfigError("--intensity: the settings say `measure`; name the record of the measurement")
    return type(settings).of(settings, intensity=Intensity.from_json(read_json(record)["intensity"]))
