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
from flare23_lib.dataset.cases import Case, refuse_changed, usable_cases
from flare23_lib.errors import MergeError, StoreError
from flare23_lib.inference.segmentations import LABELS, TTA_VOTE_COUNT
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.label_tables import label_table, write_label_tables
from flare23_lib.io.nifti import Volume, read_labels, read_volume, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import IGNORE_VALUE, SOFT_LABELS, soft_file
from flare23_lib.pseudo_labels.components import Votes, remove_small_components
from flare23_lib.pseudo_labels.merge import OUTCOMES, Merged, MergeRules, merge, merge_soft
from flare23_lib.pseudo_labels.pseudo_label import annotated_labels, base_of, base_rows
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompletionJob:
    """A completion, the one that it builds on (`base`) if any, and what its jobs share; label names are in order."""

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
    speck_votes = [versions.SPECK_VOTES] if settings.min_component_ml and settings.min_agreement else []
    key = {"version": [versions.MERGE, versions.SPECKS, *speck_votes], **settings.to_json()}
    del key["category"], key["leave_out"]
    return results.cache("completed_labels", key)


def completed_entry(
    folder: CacheFolder, case: Case, prediction: str, bases: Mapping[str, Mapping[str, str]]
) -> Entry:
    """Return the entry of a case's completed label; `bases` as `base_rows`, StoreError if the case is not among them.

    The folder is that of the settings; `prediction` is the pseudo-label's place in the cache.
    """
    original = base_of(case, bases)["file"] if bases else case.label_id
    inputs: dict[str, Any] = {"image": case.image_id, "original": original, "prediction": prediction}
    if case.annotated is not None:
        inputs["annotated"] = list(case.annotated)
    if bases and case.label_id and folder.key["unmarked_tumors"] != "keep_original":
        inputs["annotation"] = case.label_id  # what it marks to be ignored
    return folder.entry(case.case, inputs)


def shard_entries(
    job: CompletionJob, shard: Shard, bases: Mapping[str, Mapping[str, str]]
) -> list[tuple[Case, Entry, dict[str, str]]]:
    """Return the cases of a shard with the entries of their labels and the records of their pseudo-labels; `bases` as
    `base_rows`; StoreError if a pseudo-label is in no record."""
    results, settings = job.results, job.settings
    record = results.shard("pseudo_labels", job.name, shard)
    predictions = {row["case"]: row for row in read_csv(record)}
    folder = completion_folder(results, settings)
    found = []
    for case in usable_cases(results.cases, "training", settings.category):
        if case.case not in shard:
            continue
        if case.case not in predictions:
            raise StoreError(f"{case.case} is not in {record}; {REMEDY}")
        prediction = predictions[case.case]
        found.append((case, completed_entry(folder, case, prediction["file"], bases), prediction))
    return found


def all_entries(job: CompletionJob, shard: Shard) -> list[Entry]:
    """Return all entries of a shard of `complete`."""
    return [entry for _, entry, _ in shard_entries(job, shard, base_rows(job.results, job.base))]


def complete(job: CompletionJob, shard: Shard, output: Path) -> None:
    """Merge manual labels and pseudo-labels of a shard's cases, and write its record.

    Raises:
        CasesFailedError: the other cases are done, and the record is not written.
        StoreError: a pseudo-label is in no record.
    """
    bases = base_rows(job.results, job.base)
    entries = shard_entries(job, shard, bases)
    rows = []
    made = 0
    failures = CaseFailures(len(entries))
    for case, entry, prediction in progress(entries):
        with failures.case(case.case, case.label or case.image):
            metadata, new = entry.load_or_make(f"{job.name}-{shard}", partial(_complete_case, job, case, bases))
            made += new
            texts = [prediction.get(f"agreement_{name}") for name in job.label_names]
            scores = [float(text) for text in texts if text]
            mean = round(sum(scores) / len(scores), 4) if scores else None
            rows.append({**_row(job, case, entry, metadata["results"]), "agreement": mean})
    failures.raise_any()
    log.info("%s: %d cases, %d of them merged now", job.name, len(entries), made)
    write_record(output, columns_of(job.label_names), rows)


def _complete_case(job: CompletionJob, case: Case, bases: Mapping[str, Mapping[str, str]], entry: Entry) -> Metadata:
    results, settings = job.results, job.settings
    annotated = annotated_labels(settings.annotated, case, bases)
    prediction = results.file(entry.inputs["prediction"])
    predicted = read_labels(prediction)
    original, sealed = _original(job, case, bases, prediction, predicted)
    least = {int(value): volume for value, volume in settings.min_component_ml.items()}
    labels, specks = remove_small_components(predicted.array, least, predicted.geometry.spacing)
    rules = MergeRules.of(settings, tumors=settings.tumor_values)
    votes = None
    if rules.asking_for_votes:
        passes = results.metadata(entry.inputs["prediction"])["passes"]
        count = _beside(prediction, TTA_VOTE_COUNT)
        count[labels != predicted.array] = passes  # a component that was dropped is background for certain
        votes = Votes(count, passes)
    merged = merge(original, labels, annotated, rules, votes, sealed)
    # The prediction carries the image's header; the original's may differ from it within the tolerance.
    write_volume(entry.file(LABELS), merged.labels, predicted.header)
    suffixes = [LABELS]
    if settings.soft:
        soft = read_volume(soft_file(prediction)).array
        soft = merge_soft(soft, original, predicted.array, merged.labels, annotated)
        write_volume(entry.file(SOFT_LABELS), soft, predicted.header)
        suffixes.append(SOFT_LABELS)
    return entry.save(suffixes, _measures(merged, specks, settings.label_values))


def _original(
    job: CompletionJob, case: Case, bases: Mapping[str, Mapping[str, str]], prediction: Path, predicted: Volume
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the labels to complete, and `sealed` as `merge` takes it; MergeError if the prediction has another
    geometry."""
    original = np.zeros_like(predicted.array, dtype=np.uint8)
    if (source := job.results.file(bases[case.case]["file"]) if bases else case.label_files) is not None:
        volume = read_label_map(source)
        if difference := volume.geometry.difference(predicted.geometry):
            text = "labels of different geometry cannot be merged"
            raise MergeError(f"{case.case}: {case.label} and {prediction}: {text}: {difference}")
        original = volume.array
    sealed = None
    if bases and "unmarked_tumors" in job.settings.chosen:
        annotation = np.zeros_like(original) if case.label_files is None else read_label_map(case.label_files).array
        sealed = annotation == IGNORE_VALUE
    if not bases or sealed is not None:
        refuse_changed(case, label=True)
    return original, sealed


def _measures(merged: Merged, specks: Mapping[int, int], values: Sequence[int]) -> dict[str, Any]:
    """Return what an entry keeps of a merged case: counts of voxels, and which of the label values are present."""
    there = np.flatnonzero(np.bincount(merged.labels.ravel()))
    return {
        "voxels": int(merged.labels.size),
        "background": merged.background,
        "counts": {outcome: _by_text(found) for outcome, found in merged.counts.items()},
        "pairs": [[*pair, count] for pair, count in merged.pairs.items()],
        "specks": _by_text(specks),
        "labels_present": [int(value) for value in there if value in values],
    }


def _by_text(counts: Mapping[int, int]) -> dict[str, int]:
    """Return counts by label value as JSON has them."""
    return {str(value): count for value, count in counts.items()}


def _beside(prediction: Path, suffix: str) -> np.ndarray:
    """Read what a teacher left beside its labels."""
    return read_labels(prediction.with_name(prediction.name.removesuffix(LABELS) + suffix)).array


def columns_of(label_names: Sequence[str]) -> list[str]:
    """Return the columns of a completion's records: counts of voxels by outcome and class add up to `voxels`."""
    counted = _counted(dict(enumerate(label_names, start=1)))
    return ["case", "file", "labels_present", "agreement", "voxels", "background", *counted]


def _counted(names: Mapping[int, str]) -> dict[str, tuple[str, int]]:
    """Return the columns of counted voxels, each with what is counted and by which label value."""
    columns = []
    for outcome in OUTCOMES:
        background = {0: "background"} if outcome == "unsure" else {}
        labels = {**background, **names, IGNORE_VALUE: "ignore"}
        columns += [(outcome, value, name) for value, name in labels.items()]
    columns += [("specks", value, name) for value, name in names.items()]
    return {f"{what}_{name}": (what, value) for what, value, name in columns}


def _row(job: CompletionJob, case: Case, entry: Entry, measures: Mapping[str, Any]) -> dict[str, Any]:
    counts = {**measures["counts"], "specks": measures["specks"]}
    return {
        "case": case.case,
        "file": job.results.relative(entry.file(LABELS)),
        "labels_present": " ".join(map(str, measures["labels_present"])),
        "voxels": measures["voxels"],
        "background": measures["background"],
        **{column: counts[what].get(str(value), 0) for column, (what, value) in _counted(job.names).items()},
    }


def collect_completed(job: CompletionJob, shards: int, output: Path, confusion: Path) -> None:
    """Check that every case of the category is completed, count the conflicts and link the labels by plain names.

    `output` is the table of cases with their conflicts, `confusion` that of voxels by manual and predicted class of
    all cases together.

    Raises:
        StoreError: a case is in no shard's record, or its file is missing.
    """
    results, settings = job.results, job.settings
    cases = [case.case for case in usable_cases(results.cases, "training", settings.category)]
    rows = collect(results, "completed_labels", job.name, shards, cases)
    totals: Counter[tuple[int, int]] = Counter()
    for row in rows:
        for original, predicted, count in results.metadata(row["file"])["pairs"]:
            totals[original, predicted] += count
    names = {0: "background", **job.names, IGNORE_VALUE: "ignore"}
    table = [
        {"original": names[original], "predicted": names[predicted], "voxels": count}
        for (original, predicted), count in sorted(totals.items())
    ]
    write_csv(confusion, ["original", "predicted", "voxels"], table)
    tumors = [job.names[value] for value in settings.tumor_values]
    write_label_tables(output.parent, label_table(job.label_names, settings.label_values, tumors))
    columns = columns_of(job.label_names)  # records of earlier versions have more
    write_csv(output, columns, [{column: row[column] for column in columns} for row in rows])
    for outcome in [*OUTCOMES][1:]:
        total = sum(int(value) for row in rows for name, value in row.items() if name.startswith(f"{outcome}_"))
        log.info("%s: %s %d voxels in %d cases", job.name, outcome, total, len(rows))
