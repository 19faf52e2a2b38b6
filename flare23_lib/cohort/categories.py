"""Which category a case belongs to: the first row of the configuration that fits it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flare23_lib.labels import LabelMap
from flare23_lib.store import Shard


def parse_part(text: str) -> Shard:
    """Read a category's `part`, `0/2` or `1/2` for halves; ValueError if it is none."""
    try:
        index, total = text.split("/")
        return Shard.parse(f"{index}-of-{total}")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a part such as 0/2 or 1/2, counted from 0") from error


def part_key(case: str) -> str:
    """Return what the part of a case is drawn by: not its name alone, or each part would be shards of its own."""
    return f"part of the cohort: {case}"


@dataclass(frozen=True)
class Category:
    """Conditions on a case; all that are given must hold.

    Attributes:
        name: as completions and models refer to it.
        contains_any: label values of which at least one is present.
        contains_all: label values that are all present.
        no_labels: the case has no label file.
        folders: folders of the layout, in one of which its image lies.
        part: one of several parts of all cases, drawn by name, so that a model can be kept from cases that another
            one learned from.
    """

    name: str
    contains_any: frozenset[int] | None = None
    contains_all: frozenset[int] | None = None
    no_labels: bool = False
    folders: frozenset[str] | None = None
    part: Shard | None = None

    @classmethod
    def from_config(cls, row: Mapping, labels: LabelMap) -> Category:
        """Make a category from a row of the configuration's `categories`; ValueError if its part is none."""

        def values(key: str) -> frozenset[int] | None:
            return frozenset(map(labels.value_of, row[key])) if key in row else None

        return cls(
            row["name"],
            values("contains_any"),
            values("contains_all"),
            row.get("no_labels", False),
            frozenset(row["folders"]) if "folders" in row else None,
            parse_part(row["part"]) if "part" in row else None,
        )

    def fits(self, case: str, present: Collection[int] | None, folders: Collection[str] = ()) -> bool:
        """Say whether a case fits.

        Args:
            case: its name.
            present: its label values; None for a case without a label file.
            folders: the names in the layout of the folder in which its image lies.
        """
        if self.part is not None and part_key(case) not in self.part:
            return False
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
        if self.part is not None and (other.part is None or not _within(other.part, self.part)):
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


def _within(part: Shard, other: Shard) -> bool:
    """Say whether all cases of a part are of another part, as those of 1/4 and of 3/4 are of 1/2."""
    return part.total % other.total == 0 and part.index % other.total == other.index


def categorise(
    case: str, present: Collection[int] | None, categories: Sequence[Category], folders: Collection[str] = ()
) -> Category | None:
    """Return the first category that fits, or None; arguments as `Category.fits`."""
    return next((category for category in categories if category.fits(case, present, folders)), None)
