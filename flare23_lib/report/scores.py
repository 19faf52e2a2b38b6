"""The scores of models as a figure: DSC and NSD by class, all models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flare23_lib.colors import model_colors
from flare23_lib.evaluation.tables import METRICS, ORGANS
from flare23_lib.report.style import INK, PALE_INK, STYLE, dress, save_figure, words

NO_VALUE = "no value"
"""What stands in place of the score of a class that no case gave a number for."""

_MARKS = "osD^vPX"
_WORDS = {"textcoords": "offset points", "va": "center_baseline", "fontsize": 8.5, "fontstyle": "italic"}
_ROW_INCHES, _MODEL_INCHES, _LETTER_INCHES = 0.11, 0.165, 0.083
_APART = 0.45
_ORDER = {"organ": 0, ORGANS: 1}


@dataclass(frozen=True)
class Score:
    """A model's mean score of a class by one measure: the value, or None, and what the table notes about it."""

    value: float | None
    note: str


@dataclass(frozen=True)
class _Row:
    """A class's place in the figure: its name as shown, its kind and its height (downwards, in rows)."""

    name: str
    kind: str
    label: str
    height: float


def draw_scores(path: Path, summaries: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Write the figure as SVG and PNG; the same summaries give the same bytes.

    Args:
        path: the file to write.
        summaries: for each model, in the order of the figure, the rows of its summary.csv.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure(summaries)
        save_figure(path, figure)


def read_scores(rows: Sequence[Mapping[str, str]], measure: str) -> dict[str, Score]:
    """Return the scores of a summary's classes by DSC or NSD; an empty cell and NaN are no value."""
    scores = {}
    for row in rows:
        cell = row[f"{measure}_mean"]
        value = float(cell) if cell else math.nan
        scores[row["class"]] = Score(None if math.isnan(value) else value, row["note"] or "")
    return scores


def _rows(summaries: Mapping[str, Sequence[Mapping[str, str]]]) -> list[_Row]:
    """Return the classes of all summaries: organs, their mean, then the other kinds, set apart from each other."""
    kinds = {row["class"]: row["kind"] for summary in summaries.values() for row in summary}
    rows: list[_Row] = []
    height = 0.0
    for name, kind in sorted(kinds.items(), key=lambda item: _ORDER.get(item[1], 2)):
        if rows:
            height += 1 + (_APART if kind != rows[-1].kind else 0)
        rows.append(_Row(name, kind, "organs, mean" if kind == ORGANS else words(name), height))
    return rows


def _figure(summaries: Mapping[str, Sequence[Mapping[str, str]]]) -> Figure:
    rows = _rows(summaries)
    lowest = rows[-1].height + 0.5 if rows else 0.5
    longest = max(map(len, summaries), default=0)
    width = 9 + _LETTER_INCHES * max((len(row.label) for row in rows), default=0)
    legend_columns = max(1, int((width - 1) / (0.55 + _LETTER_INCHES * longest)))
    head = 0.9 + 0.23 * math.ceil(len(summaries) / legend_columns)
    body = (lowest + 0.5) * (_ROW_INCHES + _MODEL_INCHES * max(len(summaries), 1))
    figure = Figure(figsize=(width, head + body), facecolor="white", layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), METRICS, strict=True):
        scores = {model: read_scores(summary, measure) for model, summary in summaries.items()}
        _draw_panel(axes, measure, rows, scores)
        axes.set_ylim(lowest, -0.5)
    colors = model_colors(list(summaries))
    handles = [
        Line2D([], [], linestyle="", marker=_mark(index), color=colors[model], label=words(model))
        for index, model in enumerate(summaries)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns, frameon=False, labelcolor=INK)
    return figure


def _mark(index: int) -> str:
    return _MARKS[index % len(_MARKS)]


def _draw_panel(axes: Axes, measure: str, rows: Sequence[_Row], scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Draw the scores by one measure: a mark per model and class, its value at the right."""
    colors = model_colors(list(scores))
    start = _start([score.value for table in scores.values() for score in table.values()])
    axes.set_xlim(start, 1)
    for index, row in enumerate(rows):
        shade = "#e9eef4" if row.kind == ORGANS else "#f6f7f9" if index % 2 == 0 else "#ffffff"
        axes.axhspan(row.height - 0.5, row.height + 0.5, color=shade, linewidth=0, zorder=0)
        for number, (model, table) in enumerate(scores.items()):
            if row.name in table:
                height = row.height + ((number + 0.5) / len(scores) - 0.5) * 0.8
                _draw_score(axes, table[row.name], height, start, colors[model], _mark(number))
    dress(axes, measure, ticks=PALE_INK)
    axes.set_yticks([row.height for row in rows], [row.label for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=False):  # the first panel alone has labels
        label.set(color=INK, fontweight="bold" if row.kind == ORGANS else "normal")


def _draw_score(axes: Axes, score: Score, height: float, start: float, color: str, mark: str) -> None:
    """Draw one score: a mark and its value, or in words why there is none; a note goes beside the mark."""
    if score.value is None:
        axes.annotate(score.note or NO_VALUE, (start, height), xytext=(4, 0), **_WORDS, ha="left", color=color)
        return
    axes.plot([score.value], [height], linestyle="", marker=mark, markersize=6, color=color, clip_on=False, zorder=3)
    axes.annotate(
        f"{score.value:.3f}",
        (1, height),
        xytext=(10, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9,
        color=color,
        annotation_clip=False,
    )
    if score.note:
        leftwards = score.value > (start + 1) / 2
        axes.annotate(
            score.note,
            (score.value, height),
            xytext=(-7 if leftwards else 7, 0),
            **_WORDS,
            ha="right" if leftwards else "left",
            color=PALE_INK,
        )


def _start(values: Sequence[float | None]) -> float:
    """Return where the axis begins: at a tenth that leaves room below the lowest value, at most at 0.5."""
    lowest = min((value for value in values if value is not None), default=0.0)
    return max(0.0, min(0.5, math.floor(lowest * 10 - 0.5) / 10))
