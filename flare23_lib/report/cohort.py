"""The cohort as a figure: the categories, how many cases each has, and which labels are present in them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flare23_lib.cohort.summary import ALL
from flare23_lib.report.colors import label_colors
from flare23_lib.report.style import INK, PALE_INK, STYLE, save_figure, words

SETS_SHOWN = 5
"""Label sets of a category that get a row of their own, the most frequent ones; one row sums up the others."""

NO_LABELS = "no label"
"""Stands beside the set without labels, and in a category that has no others."""

VALIDATION = "validation"
"""Name of the group of validation cases; categories.csv does not list their label sets."""

_PALE, _BAR = "#d5dbe1", "#9aa7b5"
_ROW, _HEAD, _APART = 0.24, 0.62, 0.18
"""Inches: height of a label set, of a category's head, and between categories."""
_COLUMN, _BARS, _FOOT = 0.46, 1.7, 0.42
_LETTER_INCHES = 0.078
_NOTE = (
    "Heads of categories: cases that hold the label, as a number and as a share. Rows: cases with just these labels."
)
_NOTE_LETTER_INCHES, _NOTE_LINE = 0.064, 0.15


@dataclass(frozen=True)
class LabelSet:
    """A set of label values, sorted, and how many cases hold just these."""

    values: tuple[int, ...]
    cases: int


@dataclass(frozen=True)
class Group:
    """A category.

    Attributes:
        name: as in categories.csv.
        cases: all of its cases.
        quarantined: those of them that are left out.
        sets: label sets, the most frequent first; none for a category without labels.
    """

    name: str
    cases: int
    quarantined: int
    sets: tuple[LabelSet, ...]

    def with_label(self, value: int) -> int:
        """Return how many cases hold a label."""
        return sum(found.cases for found in self.sets if value in found.values)

    @property
    def shown(self) -> tuple[LabelSet, ...]:
        """The sets with a row of their own: all, or if there are too many, the first ones."""
        return self.sets if len(self.sets) <= SETS_SHOWN + 1 else self.sets[:SETS_SHOWN]

    @property
    def others(self) -> tuple[LabelSet, ...]:
        """The sets that one row sums up."""
        return self.sets[len(self.shown) :]


def read_groups(rows: Sequence[Mapping[str, str]]) -> list[Group]:
    """Return the training categories of categories.csv, in its order, and the validation cases as the last group."""
    groups: list[Group] = []
    sets: dict[str, list[LabelSet]] = {}
    for row in rows:
        name = row["category"] if row["split"] == "training" else VALIDATION
        if row["labels_present"] == ALL:
            groups.append(Group(name, int(row["cases"]), int(row["quarantined"]), ()))
        else:
            values = tuple(map(int, row["labels_present"].split()))
            sets.setdefault(name, []).append(LabelSet(values, int(row["cases"])))
    return [
        Group(group.name, group.cases, group.quarantined, tuple(sorted(sets.get(group.name, []), key=_frequency)))
        for group in groups
    ]


def _frequency(found: LabelSet) -> tuple[int, tuple[int, ...]]:
    return -found.cases, found.values


def draw_cohort(path: Path, rows: Sequence[Mapping[str, str]], labels: Mapping[str, int]) -> None:
    """Write the figure as SVG and PNG; the same rows give the same bytes.

    Args:
        path: the file to write.
        rows: of categories.csv.
        labels: value of each label, by name, in the order of the label map.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure(read_groups(rows), labels)
        save_figure(path, figure)


def _figure(groups: Sequence[Group], labels: Mapping[str, int]) -> Figure:
    names = [words(name) for name in labels]
    texts = [group.name for group in groups] + [_count(group) for group in groups] + ["000 other label sets"]
    left = 0.3 + _LETTER_INCHES * max(map(len, texts))
    matrix = _COLUMN * len(names)
    top = 0.3 + 0.062 * max(map(len, names), default=0)
    body = sum(map(_height, groups)) + _APART * max(0, len(groups) - 1)
    width = left + matrix + 0.2 + _BARS + 0.5
    note = textwrap.wrap(_NOTE, int((width - left) / _NOTE_LETTER_INCHES))
    height = top + body + _FOOT + _NOTE_LINE * (len(note) - 1)
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    sheet = _Sheet(axes, labels, left, left + matrix + 0.2, _most(groups))
    for index, name in enumerate(names):
        place = (sheet.column(index) - 0.06, top - 0.1)
        axes.text(*place, name, rotation=50, rotation_mode="anchor", ha="left", va="bottom", fontsize=9, color=INK)
    axes.text(sheet.bars, top - 0.1, "cases", ha="left", va="bottom", fontsize=9, color=INK)
    y = top
    for group in groups:
        sheet.group(group, y)
        y += _height(group) + _APART
    for line, text in enumerate(reversed(note)):
        axes.text(left, height - 0.14 - _NOTE_LINE * line, text, fontsize=8, color=PALE_INK)
    return figure


def _height(group: Group) -> float:
    return _HEAD + _ROW * (len(group.shown) + bool(group.others))


def _most(groups: Sequence[Group]) -> int:
    rows = [found.cases for group in groups for found in group.shown]
    rows += [sum(found.cases for found in group.others) for group in groups]
    return max([*rows, 1])


def _count(group: Group) -> str:
    cases = f"{group.cases:,} case{'s' * (group.cases != 1)}"
    return f"{cases}, {group.quarantined:,} quarantined" if group.quarantined else cases


@dataclass(frozen=True)
class _Sheet:
    """Where things are drawn, in inches from the upper left corner.

    Attributes:
        axes: covers the figure.
        labels: value of each label.
        left: edge of the matrix.
        bars: where bars begin.
        most: cases that the longest bar stands for.
    """

    axes: Axes
    labels: Mapping[str, int]
    left: float
    bars: float
    most: int

    def column(self, index: int) -> float:
        """Return the middle of a label's column."""
        return self.left + _COLUMN * (index + 0.5)

    def group(self, group: Group, y: float) -> None:
        """Draw a category with its upper edge at y: its head, then its label sets."""
        self._head(group, y)
        y += _HEAD
        for found in group.shown:
            self._set(found, y + _ROW / 2)
            y += _ROW
        if group.others:
            middle, cases = y + _ROW / 2, sum(found.cases for found in group.others)
            text = f"{len(group.others)} other label sets"
            self._text(self.left - 0.12, middle, text, ha="right", fontstyle="italic", color=PALE_INK)
            self._bar(cases, middle, pale=True)

    def _head(self, group: Group, y: float) -> None:
        right = self.left + _COLUMN * len(self.labels)
        self.axes.fill_between([0.12, right + 0.05], y, y + _HEAD - 0.06, color="#eef1f5", linewidth=0, zorder=0)
        self._text(0.22, y + 0.19, words(group.name), fontsize=11, fontweight="bold", color=INK)
        self._text(0.22, y + 0.4, _count(group), color=PALE_INK)
        if not group.sets:
            if group.name != VALIDATION:
                self._text(self.column(0) - 0.15, y + 0.4, NO_LABELS, fontstyle="italic", color=PALE_INK)
            return
        colors = label_colors(list(self.labels))
        foot, tall = y + _HEAD - 0.1, 0.26
        for index, (name, value) in enumerate(self.labels.items()):
            cases, x = group.with_label(value), self.column(index)
            self.axes.plot([x - 0.15, x + 0.15], [foot, foot], color=_PALE, linewidth=1, zorder=1)
            if cases:
                share = tall * cases / group.cases
                self.axes.fill_between([x - 0.13, x + 0.13], foot - share, foot, facecolor=colors[name],
                                       edgecolor=INK, linewidth=0.4, zorder=2)  # fmt: skip
            self._text(x, y + 0.12, f"{cases:,}" if cases else "–", ha="center", fontsize=7.5,
                       color=INK if cases else PALE_INK)  # fmt: skip

    def _set(self, found: LabelSet, y: float) -> None:
        colors = label_colors(list(self.labels))
        if not found.values:
            self._text(self.left - 0.12, y, NO_LABELS, ha="right", fontstyle="italic", color=PALE_INK)
        for index, (name, value) in enumerate(self.labels.items()):
            present = value in found.values
            self.axes.plot(
                [self.column(index)], [y], linestyle="", marker="o", markersize=7.5 if present else 2.5,
                markerfacecolor=colors[name] if present else _PALE, markeredgecolor=INK if present else _PALE,
                markeredgewidth=0.4, zorder=2,
            )  # fmt: skip
        self._bar(found.cases, y)

    def _bar(self, cases: int, y: float, pale: bool = False) -> None:
        end = self.bars + _BARS * cases / self.most
        self.axes.fill_between([self.bars, end], y - 0.07, y + 0.07, color=_PALE if pale else _BAR, linewidth=0)
        self._text(end + 0.06, y, f"{cases:,}", fontsize=8.5, color=INK)

    def _text(self, x: float, y: float, text: str, **style) -> None:
        self.axes.text(x, y, text, **{"va": "center_baseline", "fontsize": 8.5, **style})
