"""The cases that an estimate counts: how large they are and how many there are, by category."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path

from flare23_lib.cohort.table import Case
from flare23_lib.errors import CohortError, ConfigError
from flare23_lib.store import read_csv

VALIDATION = "validation"
"""Stands for the validation cases where categories are counted."""

GEOMETRY_COLUMNS = ("slices", "rows", "columns", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm")
"""Columns of a geometry table."""


@dataclass(frozen=True)
class Extent:
    """The size of an image: shape (z, y, x) in voxels and spacing (z, y, x) in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        """Voxels as stored."""
        return prod(self.shape)


@dataclass(frozen=True)
class Members:
    """The cases of a category, or a sample that stands for them.

    Attributes:
        extents: of the cases, or of the sample.
        cases: how many cases there are; each is worth the mean of the extents.
    """

    extents: Sequence[Extent]
    cases: int

    def total(self, amount: Callable[[Extent], float]) -> float:
        """Return the sum of an amount over the cases."""
        if not self.cases:
            return 0.0
        return sum(map(amount, self.extents)) * (self.cases / len(self.extents))


@dataclass(frozen=True)
class Sizes:
    """A cohort's cases that take part in a run.

    Attributes:
        categories: the training cases of each category.
        validation: all validation cases.
        labeled_validation: those of them that have a label.
    """

    categories: Mapping[str, Members]
    validation: Members
    labeled_validation: Members

    @classmethod
    def of_cases(cls, cases: Sequence[Case], categories: Sequence[str]) -> Sizes:
        """Sort the cases of cases.csv; quarantined ones are left out.

        Raises:
            ConfigError: a case is of a category that is not among `categories`.
        """
        usable = [case for case in cases if case.usable]
        for case in usable:
            if case.split == "training" and case.category not in categories:
                raise ConfigError(
                    f"categories: {case.case} is of the category {case.category!r}; there are {', '.join(categories)}"
                )
        validation = [case for case in usable if case.split == "validation"]
        return cls(
            {
                name: _members(case for case in usable if case.split == "training" and case.category == name)
                for name in categories
            },
            _members(validation),
            _members(case for case in validation if case.label),
        )

    @classmethod
    def of_sample(cls, extents: Sequence[Extent], counts: Mapping[str, int], categories: Sequence[str]) -> Sizes:
        """Take as many cases of each category as `counts` says, each worth the mean of the extents.

        Args:
            extents: of any cases; categories are taken to be of equal size.
            counts: cases by category and, as `validation`, validation cases (all of them labeled). What is not
                named has none.
            categories: the configuration's.

        Raises:
            ConfigError: nothing is counted, or a name is no category.
        """
        known = [*categories, VALIDATION]
        if not counts:
            raise ConfigError(f"--count: say how many cases there are, as NAME=N, of {', '.join(known)}")
        for name in counts:
            if name not in known:
                raise ConfigError(f"--count: there is no category {name!r}; there are {', '.join(known)}")
        validation = Members(extents, counts.get(VALIDATION, 0))
        return cls({name: Members(extents, counts.get(name, 0)) for name in categories}, validation, validation)


def _members(cases) -> Members:
    extents = [Extent(case.shape, case.spacing) for case in cases]
    return Members(extents, len(extents))


def parse_counts(pairs: Sequence[str]) -> dict[str, int]:
    """Read CATEGORY=N pairs; ConfigError if one is not."""
    counts = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not name or not number.isdecimal():
            raise ConfigError(f"--count {pair!r} is not CATEGORY=N with a whole number")
        counts[name] = int(number)
    return counts


def read_geometry(path: Path) -> list[Extent]:
    """Read a geometry table: a CSV file with `GEOMETRY_COLUMNS`, a row per case.

    Raises:
        CohortError: it is missing or empty, lacks a column, or a row holds something else than positive numbers.
    """
    if not path.is_file():
        raise CohortError(f"{path}: there is no such file")
    rows = read_csv(path)
    if not rows:
        raise CohortError(f"{path}: holds no row; a geometry table has the columns {','.join(GEOMETRY_COLUMNS)}")
    if missing := [name for name in GEOMETRY_COLUMNS if name not in rows[0]]:
        raise CohortError(
            f"{path}: lacks {', '.join(missing)}; a geometry table has the columns {','.join(GEOMETRY_COLUMNS)}"
        )
    return [_extent(path, number, row) for number, row in enumerate(rows, start=2)]


def _extent(path: Path, line: int, row: Mapping[str, str]) -> Extent:
    try:
        extent = Extent(
            tuple(int(row[name]) for name in GEOMETRY_COLUMNS[:3]),
            tuple(float(row[name]) for name in GEOMETRY_COLUMNS[3:]),
        )
        sound = min(*extent.shape, *extent.spacing) > 0 and all(map(isfinite, extent.spacing))
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise CohortError(f"{path}: line {line} does not hold a shape and a spacing in positive numbers")
    return extent
