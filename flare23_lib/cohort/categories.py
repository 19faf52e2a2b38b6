"""Which category a case belongs to: the first row of the configuration that fits it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flare23_lib.labels import LabelMap


@dataclass(frozen=True)
class Category:
    """Conditions on a case; all that are given must hold.

    Attributes:
        name: as completions and models refer to it.
        contains_any: label values of which at least one is present.
        contains_all: label values that are all present.
        no_labels: the case has no label file.
        folders: folders of the layout, in one of which its image lies.
    """

    name: str
    contains_any: frozenset[int] | None = None
    contains_all: frozenset[int] | None = None
    no_labels: bool = False
    folders: frozenset[str] | None = None

    @classmethod
    def from_config(cls, row: Mapping, labels: LabelMap) -> Category:
        """Make a category from a row of the configuration's `categories`."""

        def values(key: str) -> frozenset[int] | None:
            return frozenset(map(labels.value_of, row[key])) if key in row else None

        return cls(
            row["name"],
            values("contains_any"),
            values("contains_all"),
            row.get("no_labels", False),
            frozenset(row["folders"]) if "folders" in row else None,
        )

    def fits(self, present: Collection[int] | None, folders: Collection[str] = ()) -> bool:
        """Say whether a case fits.

        Args:
            present: its label values; None for a case without a label file.
            folders: the folders of the layout in which its image lies.
        """
        if self.folders is not None and not self.folders & set(folders):
            return False
        if present is None:
            return self.no_labels
        any_holds = self.contains_any is None or bool(self.contains_any & set(present))
        return not self.no_labels and any_holds and (self.contains_all is None or self.contains_all <= set(present))

    def covers(self, other: Category) -> bool:
        """Say whether every case that fits another category fits this one, whatever its labels are."""
        if self.folders is not None and not (other.folders is not None and other.folders <= self.folders):
            return False
        if self.no_labels or other.no_labels:
            return self.no_labels and other.no_labels
        others_any, others_all = other.contains_any or frozenset(), other.contains_all or frozenset()
        if len(others_any) == 1:  # any of one is all of it
            others_all |= others_any
        any_holds = (
            self.contains_any is None
            or bool(self.contains_any & others_all)
            or (other.contains_any is not None and others_any <= self.contains_any)
        )
        return any_holds and (self.contains_all or frozenset()) <= others_all


def categorise(
    present: Collection[int] | None, categories: Sequence[Category], folders: Collection[str] = ()
) -> Category | None:
    """Return the first category that fits, or None; arguments as `Category.fits`."""
    return next((category for category in categories if category.fits(present, folders)), None)
