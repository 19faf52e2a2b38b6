"""A teacher's labels of a category's training cases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import InferenceSettings, PseudoLabelSettings
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.inference.segment_cases import model_description, segment_cases
from flare23_lib.pseudo_labels import selection
from flare23_lib.pseudo_labels.base_labels import annotated_labels, base_rows


def pseudo_label(
    results: Results,
    completion: str,
    teacher: str,
    base: str | None,
    settings: PseudoLabelSettings,
    inference: InferenceSettings,
    device: str,
    threads: int,
    shard: Shard,
    output: Path,
) -> None:
    """Segment a category's cases of a shard with a teacher.

    Args:
        results: the results folder.
        completion: name of the completion.
        teacher: name of the model.
        base: completion that this one builds on, or None.
        settings: what the completion needs of its teacher.
        inference: how the teacher is used.
        device: as `devices.choose`.
        threads: threads to use.
        shard: which cases.
        output: the record.
    """
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    exclude = exclusion(settings, base_rows(results, base))
    wanted = [(case, exclude(case)) for case in cases]
    lock_name = f"{settings.category}-{shard}"  # other completions of the category share its segmentations
    made = segment_cases(results, teacher, inference, wanted, settings.votes, device, threads, lock_name)
    names = {str(label["value"]): label["name"] for label in model_description(results, teacher)["labels"][1:]}
    rows = []
    for row, note in made:
        agreement = note["results"]["agreement"]
        rows.append(row | {f"agreement_{name}": rounded(agreement.get(value)) for value, name in names.items()})
    write_record(output, ["case", "file", *(f"agreement_{name}" for name in names.values())], rows)


def exclusion(settings: PseudoLabelSettings, bases: Mapping[str, Mapping]) -> Callable[[Case], Collection[int]]:
    """Return, for each case, the classes that runner-up labels are made without; none if they are not wanted."""
    if settings.annotated is None:
        return lambda case: ()
    return lambda case: annotated_labels(settings.annotated, case, bases)


def pass_change(note: Mapping[str, Any]) -> float:
    """Return how much a segmentation's labels change between its passes, as a record of it tells it."""
    agreement = note["results"]["agreement"]
    return selection.change_between_passes({value: rounded(score) for value, score in agreement.items()})


def rounded(value: float | None) -> float | None:
    """Return an agreement as records hold it."""
    return None if value is None else round(value, 4)
