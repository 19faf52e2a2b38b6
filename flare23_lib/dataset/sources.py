"""What a source's labels mean: its table of values, and which labels were looked for in a case."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flare23_lib.config.cohort_models import BACKGROUND, IGNORE, NameOrSides, Sides, Source, ValidationDraw
from flare23_lib.dataset.discover import SourceFiles
from flare23_lib.io.label_maps import LabelFiles, Target, ValueTable
from flare23_lib.labels import IGNORE_VALUE, LabelMap


@dataclass(frozen=True)
class SourceLabels:
    """How the labels of a source are read, by a table of values or as our own.

    Attributes:
        annotated: our values that were looked for in every case, sorted; "present" if only those that occur in a case
            are known; None if the configuration leaves it open.
        tumors: our values of tumors.
    """

    table: ValueTable | None = None
    annotated: tuple[int, ...] | Literal["present"] | None = None
    tumors: frozenset[int] = frozenset()

    @classmethod
    def of(cls, source: Source, labels: LabelMap) -> SourceLabels:
        """Return how a source of the configuration is read. The order of masks counts, that of values does not."""
        rows = source.values.items() if source.has_masks else sorted(source.values.items())
        targets = {name: _target(target, labels) for name, target in rows}
        stated = source.stated
        annotated = stated if stated is None or stated == "present" else tuple(sorted(map(labels.value_of, stated)))
        tumors = frozenset(label.value for label in labels.tumors)
        return cls(ValueTable(targets) if targets else None, annotated, tumors)

    @property
    def mapping(self) -> str:
        """The table as text (`Case.mapping`); empty for our own values."""
        return self.table.text if self.table else ""

    def mapping_to_read(self, label: Path) -> str:
        """Return what reading a file depends on: the table, where counts of the source's values do not suffice."""
        needed = self.table is not None and (self.table.has_sides or LabelFiles(label).has_masks)
        return self.mapping if needed else ""

    def annotated_in(self, present: Iterable[int], masks: Collection[str] | None) -> tuple[int, ...] | None:
        """Return our values that were looked for in a case; None if the configuration leaves it open.

        `present` occur in it; `masks` are the names of those that are there, None where the label is one file. An
        organ of several masks, such as lobes, was looked for if all are there; a tumor, whose masks are numbered, if
        any is.
        """
        if self.annotated == "present":
            return tuple(sorted(present))
        if self.annotated is None or self.table is None or masks is None:
            return self.annotated
        there: dict[int, list[bool]] = {value: [] for value in self.annotated}
        for name, target in self.table.targets.items():
            for value in target if isinstance(target, tuple) else (target,):
                there.setdefault(value, []).append(name in masks)
        return tuple(
            value for value in self.annotated if there[value] and (any if value in self.tumors else all)(there[value])
        )


def _target(target: NameOrSides, labels: LabelMap) -> Target:
    if isinstance(target, Sides):
        right, left = map(labels.value_of, target.sides)
        return right, left
    others: dict[str, int] = {IGNORE: IGNORE_VALUE, BACKGROUND: 0}
    return others[target] if target in others else labels.value_of(target)


def drawn_for_validation(files: SourceFiles, draw: ValidationDraw | None) -> set[str]:
    """Return the labeled cases of a source that are drawn for validation, by their names alone."""
    if draw is None or (draw.sources and files.name not in draw.sources):
        return set()
    labeled = set(files.images) & set(files.labels)
    drawn = sorted(labeled, key=lambda case: hashlib.sha256(f"validation {draw.seed}: {case}".encode()).hexdigest())
    return set(drawn[: max(1, round(draw.share * len(labeled)))])
