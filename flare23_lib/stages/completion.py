"""Stage: partial labels completed by a teacher's pseudo-labels."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.cohort.table import Case, usable_cases
from flare23_lib.errors import MergeError, StoreError
from flare23_lib.images import read_labels, write_volume
from flare23_lib.progress import progress
from flare23_lib.pseudo_labels.merge import OUTCOMES, VERSION, check_geometry, merge
from flare23_lib.stages.gathering import complete_rows, link_cases
from flare23_lib.stages.results import Results, write_record
from flare23_lib.store import Item, Shard, StageFolder, read_csv, write_csv

log = logging.getLogger(__name__)

LABELS = ".nii.gz"


def completion_folder(results: Results, settings: Mapping[str, Any]) -> StageFolder:
    """Return the folder of labels merged by these rules."""
    rules = ("annotated", "dropped_to", "tumor_inside_organs", "tumor_values", "label_values")
    return results.folder("completed_labels", {"version": VERSION, **{name: settings[name] for name in rules}})


def completed_item(
    folder: StageFolder, case: Case, prediction: str, bases: Mapping[str, Mapping[str, str]]
) -> tuple[Item, dict[str, Any]]:
    """Return where a case's completed label belongs, and what it is made from.

    Args:
        folder: of the rules.
        case: the case.
        prediction: the pseudo-label's place in the store.
        bases: records of the completion that this one builds on; empty if on none.
    """
    original = bases[case.case]["file"] if bases else case.label_id
    inputs = {"image": case.image_id, "original": original, "prediction": prediction}
    return folder.item(case.case, inputs), inputs


def base_rows(results: Results, base: str | None) -> dict[str, dict[str, str]]:
    """Return the records of the completion that another builds on, by case; empty without one."""
    if base is None:
        return {}
    return {row["case"]: row for row in read_csv(results.gathered("completed_labels", base))}


def annotated_labels(settings: Mapping[str, Any], case: Case, bases: Mapping[str, Mapping[str, str]]) -> list[int]:
    """Return the label values that count as annotated in a case."""
    if settings["annotated"] != "present":
        return list(settings["annotated"])
    if bases:
        return [int(value) for value in bases[case.case]["labels_present"].split()]
    return case.labels_present


def complete(
    results: Results,
    completion: str,
    base: str | None,
    settings: Mapping[str, Any],
    label_names: Sequence[str],
    shard: Shard,
    output: Path,
) -> None:
    """Merge originals and pseudo-labels of a shard's cases, and write its record.

    Args:
        results: the results folder.
        completion: its name.
        base: completion that this one builds on, or None.
        settings: `Config.completion_settings`.
        label_names: names of the labels in order.
        shard: which cases.
        output: the record.

    Raises:
        MergeError: label and prediction are of different geometry.
        StoreError: a pseudo-label is in no record, or gone.
    """
    cases = [case for case in usable_cases(results.cases, "training", settings["category"]) if case.case in shard]
    pseudo_labels = results.shard("pseudo_labels", completion, shard)
    predictions = {row["case"]: row["file"] for row in read_csv(pseudo_labels)}
    bases = base_rows(results, base)
    names = dict(zip(settings["label_values"], label_names, strict=True))
    folder = completion_folder(results, settings).create()
    rows = []
    made = 0
    with folder.lock(f"{completion}-{shard}", lambda: log.info("another job completes these cases; waiting for it")):
        for case in progress(cases):
            if case.case not in predictions:
                raise StoreError(f"{case.case} is not in {pseudo_labels}; run `flare23 store verify` and start again")
            item, inputs = completed_item(folder, case, predictions[case.case], bases)
            note = item.read()
            if note is None:
                original = results.file(bases[case.case]["file"]) if bases else case.label
                annotated = annotated_labels(settings, case, bases)
                note = _complete_case(results, settings, case, original, annotated, item, inputs)
                made += 1
            rows.append(_row(results, case, item, note["results"], names))
    log.info("%s: %d cases, %d of them merged now", completion, len(cases), made)
    write_record(output, columns_of(label_names), rows)


def _complete_case(
    results: Results,
    settings: Mapping[str, Any],
    case: Case,
    original: str | Path | None,
    annotated: Sequence[int],
    item: Item,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    started = time.process_time()
    prediction = results.file(inputs["prediction"])
    predicted = read_labels(prediction)
    if original is None:
        originals = np.zeros_like(predicted.array, dtype=np.uint8)
    else:
        volume = read_labels(original)
        try:
            check_geometry(volume.geometry, predicted.geometry)
        except MergeError as error:
            raise MergeError(f"{case.case}: {original} and {prediction}: {error}") from error
        originals = volume.array
    next_class = None
    if settings["dropped_to"] == "next_class":
        name = prediction.name.removesuffix(LABELS) + ".next.nii.gz"
        next_class = read_labels(prediction.with_name(name)).array
    merged = merge(
        originals,
        predicted.array,
        annotated,
        tumors=settings["tumor_values"],
        dropped_to=settings["dropped_to"],
        tumor_inside_organs=settings["tumor_inside_organs"],
        next_class=next_class,
    )
    # The prediction carries the image's header; the original's may differ from it within the tolerance.
    write_volume(item.file(LABELS), merged.labels, predicted.header)
    known = set(settings["label_values"])
    present = [int(value) for value in np.flatnonzero(np.bincount(merged.labels.ravel())) if int(value) in known]
    measures = {
        "voxels": int(merged.labels.size),
        "background": merged.background,
        "counts": {
            outcome: {str(value): count for value, count in counts.items()}
            for outcome, counts in merged.counts.items()
        },
        "labels_present": present,
        "core_seconds": time.process_time() - started,
    }
    return item.finish([LABELS], inputs, measures)


def columns_of(label_names: Sequence[str]) -> list[str]:
    """Return the columns of a completion's records: counts of voxels by outcome and class add up to `voxels`."""
    counts = [f"{outcome}_{name}" for outcome in OUTCOMES for name in [*label_names, "ignore"]]
    return ["case", "file", "labels_present", "voxels", "background", *counts]


def _row(results: Results, case: Case, item: Item, measures: Mapping[str, Any], names: Mapping[int, str]) -> dict:
    names = {**names, 255: "ignore"}
    row = {
        "case": case.case,
        "file": results.relative(item.file(LABELS)),
        "labels_present": " ".join(map(str, measures["labels_present"])),
        "voxels": measures["voxels"],
        "background": measures["background"],
    }
    for outcome in OUTCOMES:
        counts = measures["counts"][outcome]
        row |= {f"{outcome}_{name}": counts.get(str(value), 0) for value, name in names.items()}
    return row


def gather(
    results: Results,
    completion: str,
    settings: Mapping[str, Any],
    label_names: Sequence[str],
    shards: int,
    output: Path,
) -> None:
    """Check that every case of the category is completed, count the conflicts and link the labels by plain names.

    Raises:
        StoreError: a case is in no shard's record, or its file is gone.
    """
    cases = usable_cases(results.cases, "training", settings["category"])
    rows = complete_rows(results, "completed_labels", completion, shards, cases)
    link_cases(results, output.parent, rows)
    write_csv(output, columns_of(label_names), rows)
    for outcome in ("kept", "dropped", "taken", "tumor_inside"):
        total = sum(int(row[f"{outcome}_{name}"]) for row in rows for name in label_names)
        log.info("%s: %s %d voxels in %d cases", completion, outcome, total, len(rows))
