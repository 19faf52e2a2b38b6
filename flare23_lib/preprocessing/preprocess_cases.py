"""Stage: preprocessed images and labels of a model's training cases."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare23_lib import versions
from flare23_lib.cache.entries import Item, Shard, StageFolder
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import PreprocessingSettings, TrainingSet
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.errors import CohortError, TrainingError
from flare23_lib.io.tables import read_csv
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

COLUMNS = ["case", "image", "label", "labels_present"]


@dataclass(frozen=True)
class TrainingCase:
    """A case of a training set.

    Attributes:
        case: the case.
        label: the label file to learn from.
        label_id: what tells that label from another: an original's content, or a completed one's place in the store.
    """

    case: Case
    label: Path
    label_id: str


def training_set(results: Results, settings: TrainingSet) -> list[TrainingCase]:
    """Return a model's training cases, sorted; without validation cases and those that a completion leaves out.

    Args:
        results: the results folder.
        settings: categories and completions.

    Raises:
        CohortError: a completed case is not a training case of the cohort.
        StoreError: a completion's record is missing.
    """
    completed = {name: read_csv(results.gathered("completed_labels", name)) for name in settings.label_completions}
    return selected(results, usable_cases(results.cases, "training"), settings, completed)


def selected(
    results: Results,
    cases: Iterable[Case],
    settings: TrainingSet,
    completed: Mapping[str, Iterable[Mapping[str, Any]]],
) -> list[TrainingCase]:
    """Return a model's training cases out of the usable ones of the cohort; as `training_set`.

    Args:
        results: the results folder.
        cases: the cohort's usable training cases.
        settings: as `training_set`.
        completed: by completion, rows with `case`, `file` and, if the case is not to be learned from, `left_out`.
    """
    usable = {case.case: case for case in cases}
    chosen = [
        TrainingCase(case, Path(case.label), case.label_id)
        for case in usable.values()
        if case.category in settings.manual_labels and case.label
    ]
    for completion in settings.label_completions:
        for row in completed[completion]:
            if row["case"] not in usable:
                raise CohortError(
                    f"{row['case']} of completion {completion} is no usable training case; make {results.cases} again"
                )
            if not row["left_out"]:
                chosen.append(TrainingCase(usable[row["case"]], results.root / row["file"], row["file"]))
    return sorted(chosen, key=lambda item: item.case.case)


def no_case(model: str, results: Results) -> TrainingError:
    """Return the error of a model whose training set is empty."""
    return TrainingError(
        f"{model}: no case to train on: {results.cases} says which category each case is in, and quarantine.csv "
        "beside it which ones are left out"
    )


def label_file(results: Results, case: TrainingCase) -> Path:
    """Return the label file to read; StoreError if it is a completed one and gone."""
    return results.file(case.label_id) if case.label_id.startswith("store/") else case.label


def image_item(results: Results, settings: PreprocessingSettings, case: Case) -> tuple[StageFolder, Item, dict]:
    """Return where a case's preprocessed image belongs, and what it is made from."""
    shaping = settings.to_json()
    key = {name: shaping[name] for name in ("spacing", "orientation", "intensity")}
    folder = results.folder("preprocessed_images", {"version": versions.PREPROCESSED_IMAGE, **key})
    inputs = {"image": case.image_id}
    return folder, folder.item(case.case, inputs), inputs


def label_item(
    results: Results, settings: PreprocessingSettings, case: TrainingCase
) -> tuple[StageFolder, Item, dict]:
    """Return where a case's preprocessed label belongs, and what it is made from."""
    shaping = settings.to_json()
    key = {name: shaping[name] for name in ("spacing", "orientation", "label_values")}
    folder = results.folder("preprocessed_labels", {"version": versions.PREPROCESSED_LABEL, **key})
    inputs = {"label": case.label_id, "image_spacing": list(case.case.spacing)}
    return folder, folder.item(case.case.case, inputs), inputs


def row_of(results: Results, settings: PreprocessingSettings, case: TrainingCase) -> dict[str, str]:
    """Return the part of a case's record that is known before it is made."""
    _, image, _ = image_item(results, settings, case.case)
    _, label, _ = label_item(results, settings, case)
    return {
        "case": case.case.case,
        "image": results.relative(image.file(".b2nd")),
        "label": results.relative(label.file(".b2nd")),
    }


def preprocess(
    results: Results, settings: PreprocessingSettings, patch_size: Sequence[int], shard: Shard, output: Path
) -> None:
    """Make the preprocessed cases of a shard that are not there yet, and its record.

    Args:
        results: the results folder.
        settings: what shapes them, with the intensity as numbers.
        patch_size: (z, y, x); how files are divided into chunks.
        shard: which cases.
        output: the record.

    Raises:
        CasesFailedError: the other cases are done, and the record is not written.
    """
    cases = [case for case in training_set(results, settings) if case.case.case in shard]
    rows = []
    made = 0
    failures = CaseFailures(len(cases))
    for case in progress(cases):
        log.debug("%s", case.case.case)
        with failures.case(case.case.case, case.case.image):
            made += _image(results, settings, patch_size, shard, case.case)
            note, fresh = _labels(results, settings, patch_size, shard, case)
            made += fresh
            present = " ".join(map(str, note["results"]["labels_present"]))
            rows.append({**row_of(results, settings, case), "labels_present": present})
    failures.raise_any()
    log.info("%d cases, %d files made, the rest was there", len(cases), made)
    write_record(output, COLUMNS, rows)


def _image(
    results: Results, settings: PreprocessingSettings, patch_size: Sequence[int], shard: Shard, case: Case
) -> bool:
    folder, item, inputs = image_item(results, settings, case)
    if item.read():
        return False
    with folder.create().lock(shard, lambda: log.info("another job makes these images; waiting for it")):
        if item.read():
            return False
        from flare23_lib.preprocessing.preprocess import preprocess_image
        from flare23_lib.preprocessing.resampling import Intensity

        started = time.process_time()
        facts = preprocess_image(
            Path(case.image),
            item.file(".b2nd"),
            settings.spacing,
            settings.orientation,
            Intensity(**dict(settings.intensity)),
            patch_size,
        )
        item.finish([".b2nd"], inputs, {**facts, "core_seconds": time.process_time() - started})
    return True


def _labels(
    results: Results, settings: PreprocessingSettings, patch_size: Sequence[int], shard: Shard, case: TrainingCase
) -> tuple[dict, bool]:
    folder, item, inputs = label_item(results, settings, case)
    if note := item.read():
        return note, False
    with folder.create().lock(shard, lambda: log.info("another job makes these labels; waiting for it")):
        if note := item.read():
            return note, False
        from flare23_lib.preprocessing.preprocess import preprocess_labels

        started = time.process_time()
        indices = preprocess_labels(
            label_file(results, case),
            item.file(".b2nd"),
            item.file(".pkl"),
            settings.spacing,
            settings.orientation,
            settings.label_values,
            patch_size,
            case.case.spacing,
        )
        values = settings.label_values
        measures = {
            "labels_present": [values[index - 1] for index in indices if index <= len(values)],
            "ignored": indices[-1:] == [len(values) + 1],
            "core_seconds": time.process_time() - started,
        }
        return item.finish([".b2nd", ".pkl"], inputs, measures), True
