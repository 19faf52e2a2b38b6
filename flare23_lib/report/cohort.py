"""The cohort as a figure: the categories, how many cases each has, and which labels are present in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flare23_lib.colors import label_colors
from flare23_lib.dataset.summary import ALL
from flare23_lib.report.style import GRID, INK, PALE_INK, count, display_name, dress, new_figure

MAX_SETS = 5
"""Label sets of a category with a row of their own, the most frequent ones; one row sums up the others."""

NO_LABELS = "no label"
VALIDATION = "validation"
"""Name of the group of validation cases; categories.csv does not list their label sets."""

HEAD, GAP = 2.8, 0.8
"""Height of a category's head and distance of categories, in rows."""

ROW, COLUMN, BARS, HEADING, LETTER = 0.24, 0.46, 2.2, 1.9, 0.078
"""Inches: height of a row, width of a label's column and of the bars, height of labels' names, width of a letter."""

SMALL_LETTER = 0.066
"""The same in the note below."""

SMALL: dict[str, Any] = {"fontsize": 8.5, "color": PALE_INK}
ASIDE = SMALL | {"fontstyle": "italic"}
NOTE = "Heads of categories: number and share of cases that hold the label. Rows: cases with just these labels."


@dataclass(frozen=True)
class Group:
    """A category, or the validation cases."""

    name: str
    cases: int  # quarantined ones included
    quarantined: int
    sets: Mapping[tuple[int, ...], int]  # label values -> cases with just these, the most frequent set first

    @property
    def title(self) -> str:
        """The number of its cases."""
        cases = count(self.cases, "case")
        return f"{cases}, {self.quarantined:,} quarantined" if self.quarantined else cases

    @property
    def rows(self) -> list[tuple[tuple[int, ...] | str, int]]:
        """Its label sets with their cases; if there are too many, a text that counts the last ones."""
        rows: list[tuple[tuple[int, ...] | str, int]] = list(self.sets.items())
        if len(rows) <= MAX_SETS + 1:
            return rows
        rest = rows[MAX_SETS:]
        return [*rows[:MAX_SETS], (f"{len(rest)} other label sets", sum(cases for _, cases in rest))]


def read_groups(categories: pd.DataFrame) -> list[Group]:
    """Return the training categories of categories.csv, in its order, and the validation cases as the last group."""
    groups = []
    names = categories["category"].where(categories["split"] == "training", VALIDATION)
    for name, table in categories.groupby(names, sort=False):
        whole = table["labels_present"] == ALL
        cases, quarantined = table.loc[whole, ["cases", "quarantined"]].astype(int).iloc[0]
        sets = {tuple(map(int, row.labels_present.split())): int(row.cases) for row in table[~whole].itertuples()}
        sets = dict(sorted(sets.items(), key=lambda item: (-item[1], item[0])))
        groups.append(Group(str(name), int(cases), int(quarantined), sets))
    return groups


def draw_cohort(path: Path, categories: pd.DataFrame, labels: Mapping[str, int]) -> None:
    """Write the figure of categories.csv as SVG and PNG; `labels` has the values in the order of the label map."""
    groups = read_groups(categories)
    columns = COLUMN * len(labels)
    letters = max(len(text) for group in groups for text in (group.name, group.title))
    rows = sum(HEAD + len(group.rows) for group in groups) + GAP * (len(groups) - 1)
    width = max(0.4 + LETTER * letters + columns + BARS, 0.4 + SMALL_LETTER * len(NOTE))
    with new_figure(path, width, HEADING + ROW * rows) as figure:
        matrix, bars = figure.subplots(1, 2, sharey=True, width_ratios=(columns, BARS))
        dress(matrix, grid=None)
        dress(bars, "cases", grid=None)
        names = [display_name(name) for name in labels]
        matrix.set_xticks(range(len(labels)), names, rotation=50, ha="left", rotation_mode="anchor")
        matrix.xaxis.tick_top()
        ticks: list[tuple[float, str, dict]] = []
        top = 0.0
        for group in groups:
            ticks.append((top + 0.8, display_name(group.name), {"fontsize": 11, "fontweight": "bold"}))
            ticks.append((top + 1.8, group.title, SMALL))
            _draw_head(matrix, group, top, labels)
            top += HEAD
            for row, (present, cases) in enumerate(group.rows):
                text = _draw_row(matrix, present, top + row + 0.5, labels)
                bar = bars.barh(top + row + 0.5, cases, 0.6, color=GRID if isinstance(present, str) else "#9aa7b5")
                bars.bar_label(bar, fmt="{:,.0f}", padding=4, fontsize=8.5, color=INK)
                ticks += [(top + row + 0.5, text, ASIDE)] if text else []
            top += len(group.rows) + GAP
        matrix.set_yticks([height for height, *_ in ticks], [text for _, text, _ in ticks])
        for label, (*_, style) in zip(matrix.get_yticklabels(), ticks, strict=True):
            label.set(**style)
        matrix.set(xlim=(-0.5, len(labels) - 0.5), ylim=(rows, 0))
        bars.set_xticks([])
        bars.margins(x=0.25)
        bars.tick_params(labelleft=False)
        figure.supxlabel(NOTE, fontsize=8, color=PALE_INK)


def _draw_head(matrix: Axes, group: Group, top: float, labels: Mapping[str, int]) -> None:
    """Draw how many cases of a category hold each label, as a number and as a share."""
    matrix.axhspan(top, top + HEAD - 0.2, color="#eef1f5", linewidth=0, zorder=0)
    if not group.sets:
        matrix.text(-0.4, top + 1.8, NO_LABELS if group.name != VALIDATION else "", va="center", **ASIDE)
        return
    foot = top + HEAD - 0.4
    for column, (name, color) in enumerate(label_colors(list(labels)).items()):
        cases = sum(number for present, number in group.sets.items() if labels[name] in present)
        number = f"{cases:,}" if cases else "–"
        matrix.text(column, top + 0.5, number, ha="center", va="center", fontsize=7.5, color=INK)
        matrix.hlines(foot, column - 0.33, column + 0.33, color=GRID, linewidth=1)
        if cases:
            share = cases / group.cases
            matrix.bar(column, -1.1 * share, 0.56, foot, color=color, edgecolor=INK, linewidth=0.4)


def _draw_row(matrix: Axes, present: tuple[int, ...] | str, height: float, labels: Mapping[str, int]) -> str:
    """Draw a dot for each label of a set; return the text at its side."""
    if isinstance(present, str):
        return present
    for column, (name, color) in enumerate(label_colors(list(labels)).items()):
        size, face, edge = (56, color, INK) if labels[name] in present else (6, GRID, GRID)
        matrix.scatter(column, height, size, color=face, edgecolors=edge, linewidths=0.4)
    return "" if present else NO_LABELS
