"""A teacher's labels of a category's training cases."""

from __future__ import annotations

from pathlib import Path

from flare23_lib.cache.entries import Metadata, Shard
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import PseudoLabelSettings
from flare23_lib.dataset.cases import usable_cases
from flare23_lib.inference.segmentations import ModelUse, Wanted, model_description, segment_missing
from flare23_lib.pseudo_labels import selection
from flare23_lib.pseudo_labels.base_labels import annotated_labels, base_rows


def pseudo_label(
    results: Results,
    teacher: ModelUse,
    settings: PseudoLabelSettings,
    base: str | None,
    shard: Shard,
    output: Path,
) -> None:
    """Segment a category's cases of a shard with a teacher, and write the shard's record.

    Args:
        results: the results folder.
        teacher: the model.
        settings: what the completion needs of its teacher.
        base: completion that this one builds on, or None.
        shard: which cases.
        output: the record.
    """
    wanted = category_shard(results, settings, base, shard)
    lock_name = f"{settings.category}-{shard}"  # other completions of the category share its segmentations
    made = segment_missing(results, teacher, wanted, settings.votes, lock_name)
    labels = model_description(results, teacher.name)["labels"][1:]
    names = {str(label["value"]): label["name"] for label in labels}
    rows = []
    for row, metadata in made:
        agreement = metadata["results"]["agreement"]
        rows.append(row | {f"agreement_{name}": rounded(agreement.get(value)) for value, name in names.items()})
    write_record(output, ["case", "file", *(f"agreement_{name}" for name in names.values())], rows)


def category_shard(results: Results, settings: PseudoLabelSettings, base: str | None, shard: Shard) -> Wanted:
    """Return a category's cases of a shard, with their annotated classes if runner-up labels are made."""
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    if settings.annotated is None:
        return [(case, ()) for case in cases]
    bases = base_rows(results, base)
    return [(case, annotated_labels(settings.annotated, case, bases)) for case in cases]


def pass_change(metadata: Metadata) -> float:
    """Return how much a segmentation's labels change between its passes, from the agreement as records hold it."""
    agreement = metadata["results"]["agreement"]
    return selection.change_between_passes({value: rounded(score) for value, score in agreement.items()})


def rounded(value: float | None) -> float | None:
    """Return an agreement as records hold it."""
    return None if value is None else round(value, 4)
