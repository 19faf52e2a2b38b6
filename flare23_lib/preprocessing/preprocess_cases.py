"""Preprocessed images and labels of a model's training cases."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flare23_lib import versions
from flare23_lib.cache.entries import Entry, Metadata, Shard
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import LabelSets, PreprocessingSettings, TrainingSet
from flare23_lib.dataset.cases import Case, annotated_of, refuse_changed, usable_cases
from flare23_lib.errors import CohortError, TrainingError
from flare23_lib.io.atomic import read_json
from flare23_lib.io.label_maps import LabelFiles
from flare23_lib.io.tables import read_csv
from flare23_lib.labels import soft_file
from flare23_lib.preprocessing.intensity import Intensity
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

COLUMNS = ["case", "image", "label", "labels_present"]

ANNOTATED = "annotated"
"""The column of the label values that are annotated in a case, for trainings that must know it."""


@dataclass(frozen=True)
class TrainingCase:
    """A case of a training set.

    Attributes:
        label: the label to learn from, as its source keeps it; or a completed one.
        label_id: identity of the label: a manual one's content, or a completed one's place in the cache.
        completion: name of the completion that the label is from; None for a manual one.
        present: values of the labels that are present in the label file.
    """

    case: Case
    label: LabelFiles | Path
    label_id: str
    completion: str | None = None
    present: tuple[int, ...] = ()


def training_set(results: Results, settings: TrainingSet) -> list[TrainingCase]:
    """Return a model's training cases, sorted; without validation cases.

    Raises:
        CohortError: a completed case is not a training case of the cohort.
        StoreError: a completion's record is missing.
    """
    completed = {name: read_csv(results.collected("completed_labels", name)) for name in settings.label_completions}
    return select_cases(results, usable_cases(results.cases, "training"), settings, completed)


def select_cases(
    results: Results,
    cases: Iterable[Case],
    settings: TrainingSet,
    completed: Mapping[str, Iterable[Mapping[str, Any]]],
) -> list[TrainingCase]:
    """Return a model's training cases out of the cohort's usable training cases; as `training_set`.

    `completed` has, by completion, rows with `case`, `file` and `labels_present`.
    """
    usable = {case.case: case for case in cases}
    chosen = [
        TrainingCase(case, label, case.label_id, present=tuple(case.labels_present))
        for case in usable.values()
        if case.category in settings.manual_labels and (label := case.label_files) is not None
    ]
    for completion in settings.label_completions:
        for row in completed[completion]:
            if row["case"] not in usable:
                raise CohortError(
                    f"{row['case']} of completion {completion} is no usable training case; make {results.cases} again"
                )
            present = tuple(map(int, row["labels_present"].split()))
            label = results.root / row["file"]
            chosen.append(TrainingCase(usable[row["case"]], label, row["file"], completion, present))
    return sorted(chosen, key=lambda item: item.case.case)


def no_case(model: str, results: Results) -> TrainingError:
    """Return the error of a model whose training set is empty."""
    return TrainingError(
        f"{model}: no case to train on: {results.cases} lists the category of each case, quarantine.csv beside it "
        "the excluded cases"
    )


def label_file(results: Results, case: TrainingCase) -> LabelFiles | Path:
    """Return the label file to read; StoreError if it is a completed one and missing."""
    return results.file(case.label_id) if case.label_id.startswith("store/") else case.label


def image_entry(results: Results, settings: PreprocessingSettings, case: Case) -> Entry:
    """Return the entry of a case's preprocessed image."""
    key = _key(settings, versions.PREPROCESSED_IMAGE, ("spacing", "orientation", "intensity"))
    return results.cache("preprocessed_images", key).entry(case.case, {"image": case.image_id})


def label_entry(results: Results, settings: PreprocessingSettings, case: TrainingCase) -> Entry:
    """Return the entry of a case's preprocessed label."""
    key = _key(settings, versions.PREPROCESSED_LABEL, ("spacing", "orientation", "label_values", "label_factor"))
    inputs = {"label": case.label_id, "image_spacing": list(case.case.spacing or ())}
    return results.cache("preprocessed_labels", key).entry(case.case.case, inputs)


def _key(settings: PreprocessingSettings, version: int, names: Sequence[str]) -> dict[str, Any]:
    shaping = settings.to_json()
    return {"version": version, **{name: shaping[name] for name in names if name in shaping}}


def shard_entries(results: Results, settings: PreprocessingSettings, shard: Shard) -> list[Entry]:
    """Return all entries of a shard of `preprocess`; settings with the intensity as numbers."""
    cases = [case for case in training_set(results, settings) if case.case.case in shard]
    images = [image_entry(results, settings, case.case) for case in cases]
    return images + [label_entry(results, settings, case) for case in cases]


def record_row(results: Results, settings: PreprocessingSettings, case: TrainingCase) -> dict[str, str]:
    """Return the part of a case's record that is known before it is made."""
    row = {
        "case": case.case.case,
        "image": results.relative(image_entry(results, settings, case.case).file(".b2nd")),
        "label": results.relative(label_entry(results, settings, case).file(".b2nd")),
    }
    if settings.label_sets is not None:
        row[ANNOTATED] = " ".join(map(str, annotated_in(results, settings, settings.label_sets, case)))
    return row


def annotated_in(results: Results, settings: PreprocessingSettings, sets: LabelSets, case: TrainingCase) -> list[int]:
    """Return the values of the labels that are annotated in a case: a voxel without them is known to have none.

    In a manual label these are those that its category or source states, else those that are present. In a completed
    label those of the original (or those that the completion states), the classes that one of its teachers has
    learned, and those that are present.

    Raises:
        StoreError: the bundle of a teacher is missing.
    """
    if case.completion is None:
        return annotated_of(case.case)
    known = {*case.present, *annotated_of(case.case, sets.stated.get(case.completion, "present"))}
    for teacher in sets.label_completions[case.completion]:
        description = read_json(results.model_file(teacher))
        known |= {label["value"] for label in description["labels"] if label["name"] not in description["unseen"]}
    return [value for value in settings.label_values if value in known]


def preprocess(
    results: Results,
    settings: PreprocessingSettings,
    patch_size: Sequence[int],
    shard: Shard,
    output: Path,
) -> None:
    """Make the preprocessed cases of a shard that are missing, and its record.

    The settings have the intensity as numbers; the patch size (z, y, x) determines the chunks of the files.

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
            image, label = image_entry(results, settings, case.case), label_entry(results, settings, case)
            _, new_image = image.load_or_make(shard, partial(_make_image, settings, patch_size, case))
            metadata, new_label = label.load_or_make(shard, partial(_make_label, results, settings, patch_size, case))
            made += new_image + new_label
            present = " ".join(map(str, metadata["results"]["labels_present"]))
            rows.append({**record_row(results, settings, case), "labels_present": present})
    failures.raise_any()
    log.info("%d cases, %d files made, the others existed", len(cases), made)
    write_record(output, COLUMNS if settings.label_sets is None else [*COLUMNS, ANNOTATED], rows)


def check_training_set(
    results: Results,
    model: str,
    settings: PreprocessingSettings,
    label_names: Sequence[str],
    organs: Mapping[str, int] | None,
) -> None:
    """Refuse a training set from which a model cannot learn, by the table of cases, before anything is made of it.

    `organs` are those that the loss takes for background where they are not labeled (`Config.background_organs`).

    Raises:
        TrainingError: there is no case; not all was looked for in some cases, which the loss would take for
            background; or a label was looked for in none, and the loss must know it.
    """
    cases = training_set(results, settings)
    if not cases:
        raise no_case(model, results)
    if organs is not None:
        _refuse_partial_labels(cases, organs)
    elif settings.label_sets is not None:
        held = {value for case in cases for value in case.present}
        known = {value for case in cases for value in annotated_in(results, settings, settings.label_sets, case)}
        names = dict(zip(settings.label_values, label_names, strict=True))
        if unknown := [name for value, name in names.items() if value in held - known]:
            raise TrainingError(
                f"{model}: {', '.join(unknown)}: labeled in cases, but annotated in none by `annotated` of their "
                "categories and sources; nothing could be learned about it"
            )


def _refuse_partial_labels(cases: Sequence[TrainingCase], organs: Mapping[str, int]) -> None:
    """Refuse manual labels if different labels were looked for in their cases.

    Where nothing is stated, an organ of the training set was not looked for in all cases of a source if clearly fewer
    than half of them have it: by two standard deviations of as many tosses of a coin, which takes 5 cases or more.
    """
    manual = [case.case for case in cases if case.completion is None]
    remedy = (
        "the loss nnunet treats what was not annotated as background: set training.loss to label_sets, or complete "
        "the labels of the category (`completions`)"
    )
    examples = {case.annotated: case.case for case in reversed(manual) if case.annotated is not None}
    if len(examples) > 1:
        one, two = sorted(examples.values())[:2]
        raise TrainingError(f"{one} and {two} have different labels annotated (a mask may be missing), and {remedy}")
    held = {value for case in cases for value in case.present}
    unstated: dict[str, list[Case]] = defaultdict(list)
    for case in manual:
        if case.annotated is None:
            unstated[case.source].append(case)
    for source, members in unstated.items():
        for name, value in organs.items():
            count, total = sum(value in case.voxels for case in members), len(members)
            if value in held and count + math.sqrt(total) < total / 2:
                raise TrainingError(
                    f"{name} is in {count} of {total} cases of {source}, and nothing states that it was annotated: "
                    f"if it was, in all, list the labels in `annotated` of the category; if not, {remedy}"
                )


# These two import torch and nnU-Net, which a job that finds all files made does not wait for.


def _make_image(
    settings: PreprocessingSettings, patch_size: Sequence[int], case: TrainingCase, entry: Entry
) -> Metadata:
    from flare23_lib.preprocessing.preprocess import TrainingGrid, preprocess_image

    grid = TrainingGrid(settings.spacing, settings.orientation, patch_size)
    intensity = Intensity.of(settings.intensity)
    results = preprocess_image(Path(case.case.image), entry.file(".b2nd"), grid, intensity)
    refuse_changed(case.case, image=True)
    return entry.save([".b2nd"], results)


def _make_label(
    results: Results, settings: PreprocessingSettings, patch_size: Sequence[int], case: TrainingCase, entry: Entry
) -> Metadata:
    from flare23_lib.preprocessing.preprocess import TrainingGrid, preprocess_labels

    grid = TrainingGrid(settings.spacing, settings.orientation, patch_size, settings.label_factor or (1, 1, 1))
    source, values = label_file(results, case), settings.label_values
    soft = soft_file(results.file(case.label_id)) if case.completion in (settings.soft or ()) else None
    indices = preprocess_labels(source, entry.file(".b2nd"), grid, values, case.case.spacing, soft)
    if case.completion is None:
        refuse_changed(case.case, label=True)
    present = [values[index - 1] for index in indices if index <= len(values)]
    return entry.save([".b2nd", ".pkl"], {"labels_present": present, "ignored": len(present) < len(indices)})
