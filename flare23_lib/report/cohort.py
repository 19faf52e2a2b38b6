"""The cohort as a figure: the categories, how many cases each has, and which labels are present in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flare23_lib.colors import label_colors
from flare23_lib.dataset.summary import ALL
from flare23_lib.report.style import GRID, INK, PALE_INK, STYLE, dress, save_figure, words

SETS_SHOWN = 5
"""Label sets of a category that get a row of their own, the most frequent ones; one row sums up the others."""

NO_LABELS = "no label"
"""Stands beside the set without labels, and in a category that has no others."""

VALIDATION = "validation"
"""Name of the group of validation cases; categories.csv does not list their label sets."""

HEAD, APART = 2.8, 0.8
"""Height of a category's head and distance of categories, in rows."""

ROW, COLUMN, BARS, HEADING, LETTER = 0.24, 0.46, 2.2, 1.9, 0.078
"""Inches: height of a row, width of a label's column and of the bars, height of labels' names, width of a letter."""

BAR = "#9aa7b5"
SMALL = {"fontsize": 8.5, "color": PALE_INK}
ASIDE = SMALL | {"fontstyle": "italic"}
NOTE = (
    "Heads of categories: cases that hold the label, as a number and as a share. Rows: cases with just these labels."
)


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
    groups = read_groups(rows)
    columns = COLUMN * len(labels)
    letters = max((len(text) for group in groups for text in (group.name, _count(group))), default=0)
    body = sum(map(_height, groups)) + APART * (len(groups) - 1)
    with matplotlib.rc_context(STYLE):
        size = (0.4 + LETTER * letters + columns + BARS, HEADING + ROW * body)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        matrix, bars = figure.subplots(1, 2, sharey=True, width_ratios=(columns, BARS))
        dress(matrix, grid=None)
        dress(bars, "cases", grid=None)
        matrix.set_xticks(range(len(labels)), map(words, labels), rotation=50, ha="left", rotation_mode="anchor")
        matrix.xaxis.tick_top()
        ticks: list[tuple[float, str, dict]] = []
        start = 0.0
        for group in groups:
            ticks += _draw_group(matrix, bars, group, start, labels)
            start += _height(group) + APART
        matrix.set_yticks([height for height, *_ in ticks], [text for _, text, _ in ticks])
        for label, (*_, style) in zip(matrix.get_yticklabels(), ticks, strict=True):
            label.set(**style)
        matrix.set(xlim=(-0.5, len(labels) - 0.5), ylim=(body, 0))
        bars.set_xticks([])
        bars.margins(x=0.25)
        bars.tick_params(labelleft=False)
        figure.supxlabel(NOTE, fontsize=8, color=PALE_INK)
        save_figure(path, figure)


def _height(group: Group) -> float:
    return HEAD + len(group.shown) + bool(group.others)


def _count(group: Group) -> str:
    cases = f"{group.cases:,} case{'s' * (group.cases != 1)}"
    return f"{cases}, {group.quarantined:,} quarantined" if group.quarantined else cases


def _draw_group(
    matrix: Axes, bars: Axes, group: Group, start: float, labels: Mapping[str, int]
) -> list[tuple[float, str, dict]]:
    """Draw a category from a height on: its head, then its label sets; return heights, texts and styles of ticks."""
    name_style = {"fontsize": 11, "fontweight": "bold"}
    ticks = [(start + 0.8, words(group.name), name_style), (start + 1.8, _count(group), SMALL)]
    _draw_head(matrix, group, start, labels)
    colors = label_colors(list(labels))
    for height, found in enumerate(group.shown, start=1):
        y = start + HEAD + height - 0.5
        for column, (name, value) in enumerate(labels.items()):
            size, face, edge = (56, colors[name], INK) if value in found.values else (6, GRID, GRID)
            matrix.scatter(column, y, size, color=face, edgecolors=edge, linewidths=0.4)
        _draw_bar(bars, y, found.cases, BAR)
        if not found.values:
            ticks.append((y, NO_LABELS, ASIDE))
    if group.others:
        y = start + _height(group) - 0.5
        _draw_bar(bars, y, sum(found.cases for found in group.others), GRID)
        ticks.append((y, f"{len(group.others)} other label sets", ASIDE))
    return ticks


def _draw_head(matrix: Axes, group: Group, start: float, labels: Mapping[str, int]) -> None:
    """Draw how many cases of a category hold each label, as a number and as a share."""
    matrix.axhspan(start, start + HEAD - 0.2, color="#eef1f5", linewidth=0, zorder=0)
    if not group.sets:
        matrix.text(-0.4, start + 1.8, NO_LABELS if group.name != VALIDATION else "", va="center", **ASIDE)
        return
    colors, foot = label_colors(list(labels)), start + HEAD - 0.4
    for column, (name, value) in enumerate(labels.items()):
        cases = group.with_label(value)
        matrix.text(
            column, start + 0.5, f"{cases:,}" if cases else "–", ha="center", va="center", fontsize=7.5, color=INK
        )
        matrix.hlines(foot, column - 0.33, column + 0.33, color=GRID, linewidth=1)
        if cases:
            share = cases / group.cases
            matrix.bar(column, -1.1 * share, 0.56, foot, color=colors[name], edgecolor=INK, linewidth=0.4)


def _draw_bar(bars: Axes, y: float, cases: int, color: str) -> None:
    bars.bar_label(bars.barh(y, cases, 0.6, color=color), fmt="{:,.0f}", padding=4, fontsize=8.5, color=INK)
