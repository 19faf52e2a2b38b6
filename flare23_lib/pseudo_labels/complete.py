"""Stage: partial labels completed by a teacher's pseudo-labels."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.collect import complete_rows, link_cases
from flare23_lib.cache.entries import Item, Shard, StageFolder
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.models import OLD_NAMES
from flare23_lib.config.settings import CompletionSettings
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.errors import MergeError, StoreError
from flare23_lib.inference.segment_cases import LABELS, NEXT_CLASS, VOTES
from flare23_lib.io.nifti import Volume, read_labels, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.pseudo_labels import selection, small_components
from flare23_lib.pseudo_labels.base_labels import annotated_labels, base_of, base_rows
from flare23_lib.pseudo_labels.merge import OUTCOMES, Rules, Votes, check_geometry, merge
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)


def completion_folder(results: Results, settings: CompletionSettings) -> StageFolder:
    """Return the folder of labels merged by these rules."""
    key = {"version": [versions.MERGE, versions.SPECKS], **settings.to_json()}
    del key["category"], key[OLD_NAMES["exclude_most_changed"]]  # which cases there are, and are learned from
    return results.folder("completed_labels", key)


def completed_item(
    folder: StageFolder, case: Case, prediction: str, bases: Mapping[str, Mapping[str, str]]
) -> tuple[Item, dict[str, Any]]:
    """Return where a case's completed label belongs, and what it is made from.

    Args:
        folder: of the rules.
        case: the case.
        prediction: the pseudo-label's place in the store.
        bases: records of the completion that this one builds on; empty if on none.

    Raises:
        StoreError: the case is not among them.
    """
    original = base_of(case, bases)["file"] if bases else case.label_id
    inputs = {"image": case.image_id, "original": original, "prediction": prediction}
    return folder.item(case.case, inputs), inputs


def complete(
    results: Results,
    completion: str,
    base: str | None,
    settings: CompletionSettings,
    label_names: Sequence[str],
    shard: Shard,
    output: Path,
) -> None:
    """Merge originals and pseudo-labels of a shard's cases, and write its record.

    Args:
        results: the results folder.
        completion: its name.
        base: completion that this one builds on, or None.
        settings: what shapes its labels.
        label_names: names of the labels in order.
        shard: which cases.
        output: the record.

    Raises:
        CasesFailedError: the other cases are done, and the record is not written.
        StoreError: a pseudo-label is in no record.
    """
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    pseudo_labels = results.shard("pseudo_labels", completion, shard)
    predictions = {row["case"]: row for row in read_csv(pseudo_labels)}
    bases = base_rows(results, base)
    compared = compared_rows(results, settings)
    names = dict(zip(settings.label_values, label_names, strict=True))
    folder = completion_folder(results, settings).create()
    rows = []
    made = 0
    with folder.lock(f"{completion}-{shard}", lambda: log.info("another job completes these cases; waiting for it")):
        failures = CaseFailures(len(cases))
        for case in progress(cases):
            if case.case not in predictions:
                raise StoreError(f"{case.case} is not in {pseudo_labels}; run `flare23 store verify` and start again")
            prediction = predictions[case.case]
            with failures.case(case.case, case.label or case.image):
                item, inputs = completed_item(folder, case, prediction["file"], bases)
                note = item.read()
                if note is None:
                    original = results.file(bases[case.case]["file"]) if bases else case.label
                    annotated = annotated_labels(settings.annotated, case, bases)
                    note = _complete_case(results, settings, case, original, annotated, item, inputs)
                    made += 1
                row = _row(results, case, item, note["results"], names)
                agreement = {name: _number(prediction.get(f"agreement_{name}", "")) for name in label_names}
                row["agreement"] = _mean_agreement(agreement)
                row["change"] = _change(results, settings, case, row["file"], agreement, compared)
                rows.append(row)
    failures.raise_any()
    log.info("%s: %d cases, %d of them merged now", completion, len(cases), made)
    write_record(output, columns_of(label_names), rows)


def compared_rows(results: Results, settings: CompletionSettings) -> dict[str, dict[str, str]] | None:
    """Return the records, by case, of the completion that cases are compared with to leave some out; None if none."""
    name = settings.exclude_most_changed.compared_completion if settings.exclude_most_changed else None
    if name is None:
        return None
    return {row["case"]: row for row in read_csv(results.gathered("completed_labels", name))}


def _number(text: str) -> float | None:
    return float(text) if text else None


def _mean_agreement(agreement: Mapping[str, float | None]) -> float | None:
    scores = [score for score in agreement.values() if score is not None]
    return round(sum(scores) / len(scores), 4) if scores else None


def change_item(
    results: Results, settings: CompletionSettings, case: str, file: str, other: str
) -> tuple[StageFolder, Item, dict[str, str]]:
    """Return where the change between two completed labels of a case belongs, and what it is made from."""
    folder = results.folder(
        "label_changes", {"version": versions.CHANGE, "label_values": list(settings.label_values)}
    )
    inputs = {"labels": file, "other": other}
    return folder, folder.item(case, inputs), inputs


def _change(
    results: Results,
    settings: CompletionSettings,
    case: Case,
    file: str,
    agreement: Mapping[str, float | None],
    compared: Mapping[str, Mapping[str, str]] | None,
) -> float | None:
    """Return how much a case's labels changed, as the settings want it measured; None if they do not."""
    if settings.exclude_most_changed is None:
        return None
    if compared is None:
        return selection.change_between_passes(agreement)
    other = compared[case.case]["file"]
    folder, item, inputs = change_item(results, settings, case.case, file, other)
    note = item.read()
    if note is None:
        folder.create()
        one, two = (read_labels(results.file(path)).array for path in (file, other))
        note = item.finish([], inputs, {"change": selection.change_between(one, two, settings.label_values)})
    return note["results"]["change"]


def _complete_case(
    results: Results,
    settings: CompletionSettings,
    case: Case,
    original: str | Path | None,
    annotated: Sequence[int],
    item: Item,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    started = time.process_time()
    prediction = results.file(inputs["prediction"])
    predicted = read_labels(prediction)
    originals = _originals(case, original, predicted, prediction)
    least = {int(value): volume for value, volume in settings.min_component_ml.items()}
    labels, specks = small_components.drop_specks(predicted.array, least, predicted.geometry.spacing)
    rules = Rules.of(settings, tumors=settings.tumor_values)
    next_class = None
    if rules.conflict_policy == "next_class":  # where no class is annotated none is dropped
        next_class = labels
        if annotated:
            next_class, _ = small_components.drop_specks(
                _beside(prediction, NEXT_CLASS), least, predicted.geometry.spacing
            )
    votes = None
    if rules.need_votes:
        passes = results.measures(inputs["prediction"])["passes"]
        votes = Votes(_beside(prediction, VOTES), passes)
    merged = merge(originals, labels, annotated, rules, next_class, votes)
    # The prediction carries the image's header; the original's may differ from it within the tolerance.
    write_volume(item.file(LABELS), merged.labels, predicted.header)
    known = set(settings.label_values)
    present = [int(value) for value in np.flatnonzero(np.bincount(merged.labels.ravel())) if int(value) in known]
    measures = {
        "voxels": int(merged.labels.size),
        "background": merged.background,
        "counts": {
            outcome: {str(value): count for value, count in counts.items()}
            for outcome, counts in merged.counts.items()
        },
        "pairs": [[*pair, count] for pair, count in merged.pairs.items()],
        "specks": {str(value): count for value, count in specks.items()},
        "labels_present": present,
        "core_seconds": time.process_time() - started,
    }
    return item.finish([LABELS], inputs, measures)


def _originals(case: Case, original: str | Path | None, predicted: Volume, prediction: Path) -> np.ndarray:
    """Read the original labels; none where there is no file. MergeError if they do not lie on the prediction."""
    if original is None:
        return np.zeros_like(predicted.array, dtype=np.uint8)
    volume = read_labels(original)
    try:
        check_geometry(volume.geometry, predicted.geometry)
    except MergeError as error:
        raise MergeError(f"{case.case}: {original} and {prediction}: {error}") from error
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


def _row(results: Results, case: Case, item: Item, measures: Mapping[str, Any], names: Mapping[int, str]) -> dict:
    row = {
        "case": case.case,
        "file": results.relative(item.file(LABELS)),
        "labels_present": " ".join(map(str, measures["labels_present"])),
        "voxels": measures["voxels"],
        "background": measures["background"],
    }
    for outcome in OUTCOMES:
        counts = measures["counts"][outcome]
        for value, name in _counted(names, outcome).items():
            row[f"{outcome}_{name}"] = counts.get(str(value), 0)
    return row | {f"specks_{name}": measures["specks"].get(str(value), 0) for value, name in names.items()}


def left_out(settings: CompletionSettings, changes: Mapping[str, float]) -> set[str]:
    """Return the cases of a completion that are not learned from.

    Args:
        settings: what shapes its labels.
        changes: case -> how much its labels changed; not looked at if none is to be left out.
    """
    excluded = settings.exclude_most_changed
    return set() if excluded is None else selection.most_changed(changes, excluded.share)


def gather(
    results: Results,
    completion: str,
    settings: CompletionSettings,
    label_names: Sequence[str],
    shards: int,
    output: Path,
    confusion: Path,
) -> None:
    """Check that every case of the category is completed, count the conflicts and link the labels by plain names.

    Args:
        results: the results folder.
        completion: its name.
        settings: what shapes its labels.
        label_names: names of the labels in order.
        shards: how many there are.
        output: the table of cases with their conflicts.
        confusion: the table of voxels by original and predicted class, all cases together.

    Raises:
        StoreError: a case is in no shard's record, or its file is gone.
    """
    cases = [case.case for case in usable_cases(results.cases, "training", settings.category)]
    rows = complete_rows(results, "completed_labels", completion, shards, cases)
    link_cases(results, output.parent, rows)
    excluded = left_out(settings, {row["case"]: float(row["change"] or 0) for row in rows})
    for row in rows:
        row["left_out"] = "yes" if row["case"] in excluded else ""
    _write_confusion(results, rows, dict(zip(settings.label_values, label_names, strict=True)), confusion)
    write_csv(output, ["case", "file", "left_out", *columns_of(label_names)[2:]], rows)
    for outcome in OUTCOMES[1:]:
        total = sum(int(value) for row in rows for name, value in row.items() if name.startswith(f"{outcome}_"))
        log.info("%s: %s %d voxels in %d cases", completion, outcome, total, len(rows))
    if excluded:
        log.info("%s: %d of %d cases changed most and are left out", completion, len(excluded), len(rows))


def _write_confusion(results: Results, rows: Sequence[Mapping], names: Mapping[int, str], output: Path) -> None:
    totals: Counter[tuple[int, int]] = Counter()
    for row in rows:
        for original, predicted, count in results.measures(row["file"])["pairs"]:
            totals[original, predicted] += count
    names = {0: "background", **names, IGNORE_VALUE: "ignore"}
    table = [
        {"original": names[original], "predicted": names[predicted], "voxels": count}
        for (original, predicted), count in sorted(totals.items())
    ]
    write_csv(output, ["original", "predicted", "voxels"], table)
