"""Partial labels completed by a teacher's pseudo-labels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry, Metadata, Shard
from flare23_lib.cache.results import REMEDY, Results, collect, write_record
from flare23_lib.config.settings import CompletionSettings
from flare23_lib.config.tables import OLD_NAMES
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.errors import MergeError, StoreError
from flare23_lib.inference.segmentations import LABELS, RUNNER_UP_LABELS, TTA_VOTE_COUNT
from flare23_lib.io.label_maps import LabelFiles, read_label_map
from flare23_lib.io.label_tables import label_table, write_label_tables
from flare23_lib.io.nifti import Volume, read_labels, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.pseudo_labels import selection, small_components
from flare23_lib.pseudo_labels.base_labels import annotated_labels, base_of, base_rows
from flare23_lib.pseudo_labels.merge import OUTCOMES, MergeRules, Votes, check_geometry, merge
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompletionJob:
    """A completion and what its jobs share.

    Attributes:
        results: the results folder.
        name: of the completion.
        base: completion that this one builds on, or None.
        settings: what shapes its labels.
        label_names: names of the labels in order.
    """

    results: Results
    name: str
    base: str | None
    settings: CompletionSettings
    label_names: Sequence[str]

    @property
    def names(self) -> dict[int, str]:
        """Names of the labels by value."""
        return dict(zip(self.settings.label_values, self.label_names, strict=True))


def completion_folder(results: Results, settings: CompletionSettings) -> CacheFolder:
    """Return the folder of labels merged with these settings."""
    key = {"version": [versions.MERGE, versions.SPECKS], **settings.to_json()}
    del key["category"], key[OLD_NAMES["exclude_most_changed"]]  # which cases there are, and are learned from
    return results.cache("completed_labels", key)


def completed_entry(
    folder: CacheFolder, case: Case, prediction: str, bases: Mapping[str, Mapping[str, str]]
) -> Entry:
    """Return the entry of a case's completed label.

    Args:
        folder: of the settings.
        case: the case.
        prediction: the pseudo-label's place in the cache.
        bases: records of the completion that this one builds on; empty if on none.

    Raises:
        StoreError: the case is not among them.
    """
    original = base_of(case, bases)["file"] if bases else case.label_id
    inputs: dict[str, Any] = {"image": case.image_id, "original": original, "prediction": prediction}
    if case.annotated is not None:
        inputs["annotated"] = list(case.annotated)
    return folder.entry(case.case, inputs)


def shard_entries(job: CompletionJob, shard: Shard) -> list[tuple[Case, Entry]]:
    """Return the cases of a shard with the entries of their labels; StoreError if a pseudo-label is in no record."""
    results, settings = job.results, job.settings
    record = results.shard("pseudo_labels", job.name, shard)
    predictions = {row["case"]: row["file"] for row in read_csv(record)}
    bases = base_rows(results, job.base)
    folder = completion_folder(results, settings)
    found = []
    for case in usable_cases(results.cases, "training", settings.category):
        if case.case not in shard:
            continue
        if case.case not in predictions:
            raise StoreError(f"{case.case} is not in {record}; {REMEDY}")
        found.append((case, completed_entry(folder, case, predictions[case.case], bases)))
    return found


def all_entries(job: CompletionJob, shard: Shard) -> list[Entry]:
    """Return all entries of a shard of `complete`, the changes that are compared included."""
    entries = [entry for _, entry in shard_entries(job, shard)]
    compared = compared_rows(job.results, job.settings)
    if compared is None:
        return entries
    changes = []
    for case, entry in shard_entries(job, shard):
        file = job.results.relative(entry.file(LABELS))
        changes.append(change_entry(job.results, job.settings, case.case, file, compared[case.case]["file"]))
    return entries + changes


def complete(job: CompletionJob, shard: Shard, output: Path) -> None:
    """Merge manual labels and pseudo-labels of a shard's cases, and write its record.

    Raises:
        CasesFailedError: the other cases are done, and the record is not written.
        StoreError: a pseudo-label is in no record.
    """
    results, settings = job.results, job.settings
    entries = shard_entries(job, shard)
    agreements = {row["case"]: row for row in read_csv(results.shard("pseudo_labels", job.name, shard))}
    bases = base_rows(results, job.base)
    compared = compared_rows(results, settings)
    rows = []
    made = 0
    failures = CaseFailures(len(entries))
    for case, entry in progress(entries):
        with failures.case(case.case, case.label or case.image):
            metadata, new = entry.load_or_make(f"{job.name}-{shard}", partial(_complete_case, job, case, bases))
            made += new
            row = _row(job, case, entry, metadata["results"])
            agreement = {
                name: _number(agreements[case.case].get(f"agreement_{name}", "")) for name in job.label_names
            }
            row["agreement"] = _mean_agreement(agreement)
            row["change"] = _change(job, case, row["file"], agreement, compared)
            rows.append(row)
    failures.raise_any()
    log.info("%s: %d cases, %d of them merged now", job.name, len(entries), made)
    write_record(output, columns_of(job.label_names), rows)


def compared_rows(results: Results, settings: CompletionSettings) -> dict[str, dict[str, str]] | None:
    """Return the records, by case, of the completion with which changes are measured; None without one."""
    name = settings.exclude_most_changed.compared_completion if settings.exclude_most_changed else None
    if name is None:
        return None
    return {row["case"]: row for row in read_csv(results.collected("completed_labels", name))}


def _number(text: str) -> float | None:
    return float(text) if text else None


def _mean_agreement(agreement: Mapping[str, float | None]) -> float | None:
    scores = [score for score in agreement.values() if score is not None]
    return round(sum(scores) / len(scores), 4) if scores else None


def change_entry(results: Results, settings: CompletionSettings, case: str, file: str, other: str) -> Entry:
    """Return the entry of the change between two completed labels of a case."""
    key = {"version": versions.CHANGE, "label_values": list(settings.label_values)}
    return results.cache("label_changes", key).entry(case, {"labels": file, "other": other})


def _change(
    job: CompletionJob,
    case: Case,
    file: str,
    agreement: Mapping[str, float | None],
    compared: Mapping[str, Mapping[str, str]] | None,
) -> float | None:
    """Return how much a case's labels changed, as the settings measure it; None if they do not."""
    if job.settings.exclude_most_changed is None:
        return None
    if compared is None:
        return selection.change_between_passes(agreement)

    def make(entry: Entry) -> Metadata:
        one, two = (read_labels(job.results.file(entry.inputs[name])).array for name in ("labels", "other"))
        return entry.save([], {"change": selection.change_between(one, two, job.settings.label_values)})

    entry = change_entry(job.results, job.settings, case.case, file, compared[case.case]["file"])
    return entry.load_or_make(job.name, make)[0]["results"]["change"]


def _complete_case(job: CompletionJob, case: Case, bases: Mapping[str, Mapping[str, str]], entry: Entry) -> Metadata:
    results, settings = job.results, job.settings
    original = results.file(bases[case.case]["file"]) if bases else case.label_files
    annotated = annotated_labels(settings.annotated, case, bases)
    prediction = results.file(entry.inputs["prediction"])
    predicted = read_labels(prediction)
    originals = _originals(case, original, predicted, prediction)
    spacing = predicted.geometry.spacing
    least = {int(value): volume for value, volume in settings.min_component_ml.items()}
    labels, specks = small_components.remove_small_components(predicted.array, least, spacing)
    rules = MergeRules.of(settings, tumors=settings.tumor_values)
    next_class = None
    if rules.conflict_policy == "next_class":  # where no class is annotated none is dropped
        next_class = labels
        if annotated:
            next_class, _ = small_components.remove_small_components(
                _beside(prediction, RUNNER_UP_LABELS), least, spacing
            )
    votes = None
    if rules.need_votes:
        passes = results.metadata(entry.inputs["prediction"])["passes"]
        votes = Votes(_beside(prediction, TTA_VOTE_COUNT), passes)
    merged = merge(originals, labels, annotated, rules, next_class, votes)
    # The prediction carries the image's header; the original's may differ from it within the tolerance.
    write_volume(entry.file(LABELS), merged.labels, predicted.header)
    known = set(settings.label_values)
    present = [int(value) for value in np.flatnonzero(np.bincount(merged.labels.ravel())) if int(value) in known]
    counts = {
        outcome: {str(value): count for value, count in found.items()} for outcome, found in merged.counts.items()
    }
    measures = {
        "voxels": int(merged.labels.size),
        "background": merged.background,
        "counts": counts,
        "pairs": [[*pair, count] for pair, count in merged.pairs.items()],
        "specks": {str(value): count for value, count in specks.items()},
        "labels_present": present,
    }
    return entry.save([LABELS], measures)


def _originals(case: Case, original: LabelFiles | Path | None, predicted: Volume, prediction: Path) -> np.ndarray:
    """Read the original labels; none where there is no file. MergeError if they do not lie on the prediction."""
    if original is None:
        return np.zeros_like(predicted.array, dtype=np.uint8)
    volume = read_label_map(original)
    try:
        check_geometry(volume.geometry, predicted.geometry)
    except MergeError as error:
        raise MergeError(f"{case.case}: {case.label} and {prediction}: {error}") from error
    return volume.array


def _beside(prediction: Path, suffix: str) -> np.ndarray:
    """Read what a teacher left beside its labels."""
    return read_labels(prediction.with_name(prediction.name.removesuffix(LABELS) + suffix)).array


def _counted(names: Mapping[int, str], outcome: str) -> dict[int, str]:
    """Return the label values that an outcome is counted by, with the names of their columns."""
    background = {0: "background"} if outcome == "unsure" else {}
    return {**background, **names, IGNORE_VALUE: "ignore"}


def columns_of(label_names: Sequence[str]) -> list[str]:
    """Return the columns of a completion's records: counts of voxels by outcome and class add up to `voxels`."""
    names = dict(enumerate(label_names, start=1))
    counts = [f"{outcome}_{name}" for outcome in OUTCOMES for name in _counted(names, outcome).values()]
    specks = [f"specks_{name}" for name in label_names]
    return ["case", "file", "labels_present", "agreement", "change", "voxels", "background", *counts, *specks]


def _row(job: CompletionJob, case: Case, entry: Entry, measures: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "case": case.case,
        "file": job.results.relative(entry.file(LABELS)),
        "labels_present": " ".join(map(str, measures["labels_present"])),
        "voxels": measures["voxels"],
        "background": measures["background"],
    }
    for outcome in OUTCOMES:
        counts = measures["counts"][outcome]
        for value, name in _counted(job.names, outcome).items():
            row[f"{outcome}_{name}"] = counts.get(str(value), 0)
    return row | {f"specks_{name}": measures["specks"].get(str(value), 0) for value, name in job.names.items()}


def left_out(settings: CompletionSettings, changes: Mapping[str, float]) -> set[str]:
    """Return the cases of a completion that are not learned from.

    Args:
        settings: what shapes its labels.
        changes: case -> how much its labels changed; not looked at if none is to be left out.
    """
    excluded = settings.exclude_most_changed
    return set() if excluded is None else selection.most_changed(changes, excluded.share)


def collect_completed(job: CompletionJob, shards: int, output: Path, confusion: Path) -> None:
    """Check that every case of the category is completed, count the conflicts and link the labels by plain names.

    Args:
        job: the completion.
        shards: how many there are.
        output: the table of cases with their conflicts.
        confusion: the table of voxels by manual and predicted class, all cases together.

    Raises:
        StoreError: a case is in no shard's record, or its file is missing.
    """
    cases = [case.case for case in usable_cases(job.results.cases, "training", job.settings.category)]
    rows = collect(job.results, "completed_labels", job.name, shards, cases)
    excluded = left_out(job.settings, {row["case"]: float(row["change"] or 0) for row in rows})
    for row in rows:
        row["left_out"] = "yes" if row["case"] in excluded else ""
    _write_confusion(job, rows, confusion)
    write_label_tables(output.parent, label_table(job.label_names, job.settings.label_values))
    write_csv(output, ["case", "file", "left_out", *columns_of(job.label_names)[2:]], rows)
    for outcome in OUTCOMES[1:]:
        total = sum(int(value) for row in rows for name, value in row.items() if name.startswith(f"{outcome}_"))
        log.info("%s: %s %d voxels in %d cases", job.name, outcome, total, len(rows))
    if excluded:
        log.info("%s: %d of %d cases changed most and are left out", job.name, len(excluded), len(rows))


def _write_confusion(job: CompletionJob, rows: Sequence[Mapping[str, str]], output: Path) -> None:
    totals: Counter[tuple[int, int]] = Counter()
    for row in rows:
        for original, predicted, count in job.results.metadata(row["file"])["pairs"]:
            totals[original, predicted] += count
    names = {0: "background", **job.names, IGNORE_VALUE: "ignore"}
    table = [
        {"original": names[original], "predicted": names[predicted], "voxels": count}
        for (original, predicted), count in sorted(totals.items())
    ]
    write_csv(output, ["original", "predicted", "voxels"], table)
