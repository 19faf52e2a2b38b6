"""Evaluation: of a model in the workflow, and of two folders whose files have the same names."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import pandas as pd

from flare23_lib.cache.results import REMEDY, Results
from flare23_lib.config.cohort_models import Source, label_map
from flare23_lib.config.settings import EvaluationSettings
from flare23_lib.dataset.cases import refuse_changed, usable_cases
from flare23_lib.dataset.discover import labels_in
from flare23_lib.dataset.sources import SourceLabels
from flare23_lib.errors import EvaluationError, StoreError, listed
from flare23_lib.evaluation.cases import OK, Pair, Scoring, score_cases
from flare23_lib.evaluation.details import write_details
from flare23_lib.evaluation.tables import DECIMALS, format_summary, score_table, summarize, write_table
from flare23_lib.io.atomic import read_json
from flare23_lib.io.label_maps import LabelFiles
from flare23_lib.io.nifti import SUFFIXES, stem
from flare23_lib.io.patterns import check_utf8
from flare23_lib.io.tables import read_csv

log = logging.getLogger(__name__)


def evaluate(
    results: Results,
    model: str,
    settings: EvaluationSettings,
    output: Path,
    processes: int = 1,
    memory_mb: float | None = None,
) -> None:
    """Score a model on the validation cases that have labels; the tables are those of `evaluate_cases`.

    Raises:
        EvaluationError: no validation case has a label, or as `score_cases`.
        StoreError: a prediction is in no record, or is missing or damaged, which is no fault of the model.
        CohortError, ImageError: a label is not the one that the scan saw, or it cannot be read.
    """
    collected = results.collected("predictions", model)
    files = {row["case"]: row["file"] for row in read_csv(collected)}
    pairs = []
    for case in usable_cases(results.cases, "validation"):
        if (label := case.label_files) is None:
            continue
        refuse_changed(case, label=True)
        if case.case not in files:
            raise StoreError(f"{case.case} is not in {collected}; {REMEDY}")
        results.metadata(files[case.case])  # refuses a damaged file
        pairs.append(Pair(case.case, label, results.root / files[case.case], case.annotated))
    if not pairs:
        raise EvaluationError(f"no validation case has a label (see {results.cases}); {model} needs evaluate: false")
    unseen = read_json(results.training(model))["labels_unseen"]
    scoring = Scoring.from_settings(settings, label_map(settings.labels), unseen)
    scoring = replace(scoring, processes=processes, memory_mb=memory_mb, stored_predictions=True)
    evaluate_cases(pairs, scoring, output)
    log.info("%s on %d validation cases\n%s", model, len(pairs), format_summary(output / "summary.csv"))


def evaluate_cases(pairs: Sequence[Pair], scoring: Scoring, output: Path) -> pd.DataFrame:
    """Score cases, write metrics.csv, summary.csv and the tables of details, and return the scores; log every fault.

    The scores are a `tables.score_table`, in the order of the pairs. Raises EvaluationError as
    `score_cases`.
    """
    cases = score_cases(pairs, scoring)
    for case in cases:
        if case.status != OK:
            log.warning("%s: %s", case.case, case.status)
    table = score_table(cases, scoring.labels)
    write_table(output / "metrics.csv", table.round(DECIMALS))
    write_table(output / "summary.csv", summarize(table, scoring.labels, scoring.unseen))
    details = [case.details for case in cases if case.details is not None]
    write_details(output, details if scoring.with_details else None, scoring.labels, scoring.seen)
    return table


def evaluate_folders(
    predictions: Path,
    references: Path,
    output: Path,
    scoring: Scoring,
    reference_suffix: str | None = None,
    source: tuple[str, Source] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Score every reference against the prediction of the same name, as `evaluate_cases`.

    Returns the scores, and the names of predictions without a reference, which are left out.

    Files are named after their cases: X.nii.gz or X.nii. `reference_suffix` is another suffix of
    references, such as `_seg.nii.gz`, which is used if a file has it and a prediction the name before it. With a
    source (and its name), references have its names and values instead, and only what was looked for in it is scored;
    predictions have the names of its cases, with its prefix or without.

    Raises:
        EvaluationError: a folder is missing or holds no file of its kind, no prediction has the name of a
            reference, or as `score_cases`.
    """
    found = _files(predictions, "prediction")
    if source is None:
        read, truth = SourceLabels(), _files(references, "reference", reference_suffix)
    else:
        read, truth = SourceLabels.of(source[1], scoring.labels), _of_source(references, *source, found)
    if not set(found) & set(truth):
        truth = {normalize("NFC", stem(path) or case): path for case, path in truth.items()}
    if not set(found) & set(truth):
        one, other = (next(iter(files.values())).name for files in (found, truth))
        hint = (
            "; the first source's pattern of labels in the configuration tells what follows a case's name; with "
            "--source NAME another's, and its values, count"
        )
        raise EvaluationError(
            f"{predictions}: no prediction has the name of a reference ({one} here, {other} in {references})"
            + hint * (source is None)
        )
    if read.annotated == "present":
        read, scoring = replace(read, annotated=None), replace(scoring, partial_references=True)
    pairs = []
    for case, path in truth.items():
        label = LabelFiles(path, read.mapping)
        masks = label.mask_files() if label.has_masks else None
        pairs.append(Pair(case, label, found.get(case), read.annotated_in((), masks)))
    table = evaluate_cases(pairs, scoring, output)
    extra = [path.name for case, path in found.items() if case not in truth]
    for name in extra:
        log.warning("%s: has no reference and was left out", name)
    return table, extra


def _of_source(folder: Path, name: str, source: Source, predictions: Collection[str]) -> dict[str, Path]:
    """Return the labels of a source in a folder by case, without its prefix where no prediction has it.

    Raises:
        EvaluationError: the folder is missing or holds none, or a case has two files.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder of references")
    found = labels_in(folder, name, source)
    if not found:
        raise EvaluationError(f"{folder}: no file is named as the labels of sources.{name}")
    if not set(found) & set(predictions):
        found = labels_in(folder, name, Source.of(source, prefix=""))
    for one, *others in found.values():
        if others:
            raise EvaluationError(f"{one}: {others[0].name} is a reference of the same case; keep one of the two")
    return {case: paths[0] for case, paths in found.items()}


def _files(folder: Path, kind: str, suffix: str | None = None) -> dict[str, Path]:
    """Return the label files of a folder by case, sorted; where some end in the suffix, only those.

    Raises:
        EvaluationError: the folder is missing or holds none, a case has two files, or the name of one is not UTF-8.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder of {kind}s")
    named: dict[Path, str | None] = {
        path: stem(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")
    }
    if suffix is not None and suffix not in SUFFIXES:
        own: dict[Path, str | None] = {
            path: path.name.removesuffix(suffix) for path in named if path.name.endswith(suffix)
        }
        others = [path.name for path, case in named.items() if case and path not in own]
        if own and others:
            log.warning(
                "%s: %d files do not end in %s and are no %ss: %s", folder, len(others), suffix, kind, listed(others)
            )
        named = own or named
    files: dict[str, Path] = {}
    for path, case in named.items():
        if not case:
            continue
        check_utf8(path, EvaluationError)
        case = normalize("NFC", case)  # the same name in composed or decomposed letters
        if case in files:
            raise EvaluationError(f"{path}: {files[case].name} is a {kind} of the same case; keep one of the two")
        files[case] = path
    if not files:
        raise EvaluationError(f"{folder}: holds no {kind}s (*{' or *'.join(SUFFIXES)})")
    return dict(sorted(files.items()))
