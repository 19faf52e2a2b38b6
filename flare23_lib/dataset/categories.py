"""Which category a case belongs to: the first row of the configuration that fits it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flare23_lib.config.cohort_models import Category, subset_of


def part_key(case: str) -> str:
    """Return what the part of a case is drawn by: not its name alone, or each part would be shards of its own."""
    return f"part of the cohort: {case}"


def fits(
    category: Category,
    case: str,
    present: Collection[str] | None,
    folders: Collection[str] = (),
    source: str = "",
) -> bool:
    """Return whether a case fits a category's conditions.

    `present` names the labels in it, None for a case without a label file; `folders` are the configuration's names
    for the folder in which its image was found.
    """
    if category.subset is not None and part_key(case) not in subset_of(category.subset):
        return False
    if category.folders is not None and not set(category.folders) & set(folders):
        return False
    if category.sources is not None and source not in category.sources:
        return False
    if present is None:
        return bool(category.no_labels)
    any_holds = category.contains_any is None or bool(set(category.contains_any) & set(present))
    return not category.no_labels and any_holds and set(category.contains_all or ()) <= set(present)


def categorise(
    case: str,
    present: Collection[str] | None,
    categories: Sequence[Category],
    folders: Collection[str] = (),
    source: str = "",
) -> Category | None:
    """Return the first category that fits, or None; arguments as `fits`."""
    return next((category for category in categories if fits(category, case, present, folders, source)), None)
