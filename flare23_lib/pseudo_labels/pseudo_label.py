"""A teacher's labels of a category's training cases, and what is annotated in these already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import AnnotatedValues, PseudoLabelSettings
from flare23_lib.dataset.cases import Case, annotated_of, usable_cases
from flare23_lib.errors import StoreError
from flare23_lib.inference.image_files import Extras
from flare23_lib.inference.segmentations import ModelUse, Wanted, segment_missing
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import read_csv


def pseudo_label(
    results: Results,
    teacher: ModelUse,
    settings: PseudoLabelSettings,
    shard: Shard,
    output: Path,
) -> None:
    """Segment a category's cases of a shard with a teacher, and write the shard's record."""
    wanted = category_shard(results, settings, shard)
    lock_name = f"{settings.category}-{shard}"  # other completions of the category share its segmentations
    made = segment_missing(results, teacher, wanted, lock_name)
    labels = read_json(results.model_file(teacher.name))["labels"][1:]
    names = {str(label["value"]): label["name"] for label in labels}
    rows = []
    for row, metadata in made:
        agreement = metadata["results"]["agreement"]
        rows.append(row | {f"agreement_{name}": rounded(agreement.get(value)) for value, name in names.items()})
    write_record(output, ["case", "file", *(f"agreement_{name}" for name in names.values())], rows)


def extras_of(settings: PseudoLabelSettings) -> Extras:
    """Return what a completion needs of its cases in addition to labels."""
    return Extras(settings.votes, settings.soft)


def category_shard(results: Results, settings: PseudoLabelSettings, shard: Shard) -> Wanted:
    """Return a category's cases of a shard, with what is made of them."""
    cases = [case for case in usable_cases(results.cases, "training", settings.category) if case.case in shard]
    return [(case, extras_of(settings)) for case in cases]


def base_rows(results: Results, base: str | None) -> dict[str, dict[str, str]]:
    """Return the records of the completion that another builds on, by case; empty without one."""
    if base is None:
        return {}
    return {row["case"]: row for row in read_csv(results.collected("completed_labels", base))}


def base_of(case: Case, bases: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """Return a case's record of the completion that another builds on; StoreError if it is not among them."""
    if case.case not in bases:
        raise StoreError(f"{case.case} is not in the record of the completion that this one builds on")
    return bases[case.case]


def annotated_labels(annotated: AnnotatedValues, case: Case, bases: Mapping[str, Mapping[str, str]]) -> list[int]:
    """Return the label values that count as annotated in a case; `bases` as `base_rows`.

    `annotated` is what the completion states; of one with a base what is present is that in the base's label.
    StoreError if the case is not among the bases.
    """
    if annotated not in ("present", "only_present") or not bases:
        return annotated_of(case, annotated)
    stated = case.annotated or () if annotated == "present" else ()
    return sorted({*map(int, base_of(case, bases)["labels_present"].split()), *stated})


def rounded(value: float | None) -> float | None:
    """Return an agreement as records hold it."""
    return None if value is None else round(value, 4)
