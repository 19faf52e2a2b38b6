"""Which category a case belongs to: the first row of the configuration that fits its labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flare23_lib.labels import LabelMap


@dataclass(frozen=True)
class Category:
    """A condition on the labels present in a case; all conditions given must hold.

    Attributes:
        name: as completions and models refer to it.
        contains_any: label values of which at least one is present.
        contains_all: label values that are all present.
        no_labels: the case has no label file.
    """

    name: str
    contains_any: frozenset[int] | None = None
    contains_all: frozenset[int] | None = None
    no_labels: bool = False

    @classmethod
    def from_config(cls, row: Mapping, labels: LabelMap) -> Category:
        """Make a category from a row of the configuration's `categories`."""

        def values(key: str) -> frozenset[int] | None:
            return frozenset(map(labels.value_of, row[key])) if key in row else None

        return cls(row["name"], values("contains_any"), values("contains_all"), row.get("no_labels", False))

    def fits(self, present: Collection[int] | None) -> bool:
        """Say whether a case with these label values fits; None stands for a case without a label file."""
        if present is None or self.no_labels:
            return self.no_labels and present is None
        any_holds = self.contains_any is None or bool(self.contains_any & set(present))
        return any_holds and (self.contains_all is None or self.contains_all <= set(present))

    def covers(self, other: Category) -> bool:
        """Say whether every case that fits another category fits this one, whatever its labels are."""
        if self.no_labels or other.no_labels:
            return self.no_labels and other.no_labels
        others_any, others_all = other.contains_any or frozenset(), other.contains_all or frozenset()
        any_holds = (
            self.contains_any is None
            or bool(self.contains_any & others_all)
            or (other.contains_any is not None and others_any <= self.contains_any)
        )
        return any_holds and (self.contains_all or frozenset()) <= others_all


def categorise(present: Collection[int] | None, categories: Sequence[Category]) -> Category | None:
    """Return the first category that fits, or None."""
    return next((category for category in categories if category.fits(present)), None)
