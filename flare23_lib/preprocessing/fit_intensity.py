"""Stage: the intensities of a model's training set, where the configuration says `intensity: measure`."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.entries import Item, StageFolder, fingerprint
from flare23_lib.cache.results import Results
from flare23_lib.config.models import Intensity
from flare23_lib.config.settings import PreprocessingSettings, TrainingSet, TrainingSettings
from flare23_lib.errors import ConfigError, TrainingError, one_line
from flare23_lib.io.atomic import atomic_path, read_json, write_json
from flare23_lib.io.nifti import read_labels, read_volume
from flare23_lib.preprocessing.intensity import SAMPLES, draw_foreground, pool
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, label_file, no_case, training_set
from flare23_lib.runtime.failures import CaseFailures, concerns_all
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

DRAWN = ".npy"

WithIntensity = TypeVar("WithIntensity", PreprocessingSettings, TrainingSettings)


def intensity_folder(results: Results) -> StageFolder:
    """Return the folder of what is drawn from cases; all models share it."""
    return results.folder("intensities", {"version": versions.INTENSITY, "samples": SAMPLES})


def case_item(folder: StageFolder, case: TrainingCase) -> tuple[Item, dict[str, Any]]:
    """Return where what is drawn from a case belongs, and what it is made from."""
    inputs = {"image": case.case.image_id, "label": case.label_id}
    return folder.item(case.case.case, inputs), inputs


def pooled_item(folder: StageFolder, cases: Sequence[TrainingCase]) -> tuple[Item, dict[str, Any]]:
    """Return the note that keeps the result of a training set, and what it is made from."""
    inputs = {"cases": fingerprint(sorted(case_item(folder, case)[0].name for case in cases))}
    return folder.item("training_set", inputs), inputs


class _Task(NamedTuple):
    case: str
    image: Path
    label: Path
    item: Item
    inputs: dict[str, Any]


def measure(results: Results, model: str, settings: TrainingSet, processes: int, output: Path) -> None:
    """Measure the intensities of a model's training set and write them down.

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
    folder = intensity_folder(results).create()
    items = [case_item(folder, case) for case in cases]
    with folder.lock(model, lambda: log.info("another job measures this model's cases; waiting for it")):
        pooled, inputs = pooled_item(folder, cases)
        note = pooled.read()
        if note is None:
            tasks = [
                _Task(case.case.case, Path(case.case.image), label_file(results, case), *item)
                for case, item in zip(cases, items, strict=True)
                if item[0].read() is None
            ]
            log.info("%d cases, %d of them to be measured", len(cases), len(tasks))
            _run(tasks, processes)
            note = pooled.finish([], inputs, _pool(model, cases, [item for item, _ in items]))
    log.info("%s: %s", model, note["results"]["intensity"])
    write_json(output, {"model": model, **note["results"]})


def _run(tasks: Sequence[_Task], processes: int) -> None:
    """Draw from the cases of the tasks; CasesFailedError if one fails, TrainingError if a process is killed."""
    failures = CaseFailures(len(tasks))
    with contextlib.ExitStack() as stack:
        results: Iterable[str | None] = map(_draw_case, tasks)
        if processes > 1 and len(tasks) > 1:
            context = multiprocessing.get_context("spawn")
            pool_of_processes = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context)
            results = stack.enter_context(pool_of_processes).map(_draw_case, tasks)
        try:
            for task, line in zip(tasks, progress(results, total=len(tasks)), strict=True):
                if line:
                    failures.add(task.case, line)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a measuring process was killed, probably because memory ran out; what was measured is kept, "
                "use fewer processes"
            ) from error
    failures.raise_any()


def _draw_case(task: _Task) -> str | None:
    """Draw from a case and return None, or one line why it failed."""
    try:
        _draw(task)
    except Exception as error:
        if concerns_all(error):
            raise
        return one_line(task.image, error)
    return None


def _draw(task: _Task) -> None:
    started = time.process_time()
    drawn = draw_foreground(read_volume(task.image).array, read_labels(task.label).array)
    with atomic_path(task.item.file(DRAWN)) as temporary, temporary.open("wb") as handle:
        np.save(handle, drawn)
    task.item.finish([DRAWN], task.inputs, {"voxels": len(drawn), "core_seconds": time.process_time() - started})


def _pool(model: str, cases: Sequence[TrainingCase], items: Sequence[Item]) -> dict[str, Any]:
    drawn = [np.load(item.file(DRAWN)) for item in items]
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
        raise ConfigError("--intensity: the settings say `measure`; name the record of what was measured")
    return type(settings).of(settings, intensity=Intensity.from_json(read_json(record)["intensity"]))
