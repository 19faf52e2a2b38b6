"""Whether a case fits a category; it belongs to the first row of the configuration that it fits."""

from __future__ import annotations

from collections.abc import Collection

from flare23_lib.config.cohort_models import Category, subset_of


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
    if category.subset is not None and f"part of the cohort: {case}" not in subset_of(category.subset):
        return False
    if category.folders is not None and not set(category.folders) & set(folders):
        return False
    if category.sources is not None and source not in category.sources:
        return False
    if present is None:
        return bool(category.no_labels)
    any_holds = category.contains_any is None or bool(set(category.contains_any) & set(present))
    return not category.no_labels and any_holds and set(category.contains_all or ()) <= set(present)
