"""What inference takes, as figures: memory over time case by case, and the seconds of its phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from flare23_lib.report.style import INK, PALE_INK, STYLE, dress, save_figure, words

PHASE_COLORS = ("#0072b2", "#d55e00", "#4f8a76", "#9aa7b5", "#3b1620", "#ccaa33", "#cc79a7")

Curves = Mapping[str, Sequence[Mapping[str, str]]]
"""Rows of the curve of each case: seconds, gpu_mb, ram_mb, cpu_seconds."""


def draw_memory(path: Path, model: str, curves: Curves) -> None:
    """Write memory over time as SVG and PNG: a line per case; GPU memory only if any was measured.

    Args:
        path: the SVG.
        model: its name.
        curves: of the measured cases.
    """
    kinds = {"ram_mb": "RAM", "gpu_mb": "GPU memory"}
    measured = [column for column in kinds if any(row.get(column) for rows in curves.values() for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.75 * max(len(measured), 1.4), 3.2), facecolor="white", layout="constrained")
        for axes, column in zip(figure.subplots(1, max(len(measured), 1), squeeze=False)[0], measured, strict=False):
            for rows in curves.values():
                points = [(float(row["seconds"]), float(row[column])) for row in rows if row.get(column)]
                axes.plot(*zip(*points, strict=True), color=PHASE_COLORS[0], alpha=0.6, linewidth=1.1)
            dress(axes, f"{words(model)}: {kinds[column]}, MB")
            axes.set_xlabel("seconds", color=PALE_INK)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        save_figure(path, figure)


def draw_phases(path: Path, timings: Mapping[str, Mapping[str, float]]) -> None:
    """Write the seconds of each phase of a case as stacked bars, SVG and PNG.

    Args:
        path: the SVG.
        timings: bar -> phase -> seconds of a case, mean over cases where there are several.
    """
    phases = list(dict.fromkeys(phase for table in timings.values() for phase in table))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.5 + 0.4 * len(timings)), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        starts = [0.0] * len(timings)
        for index, phase in enumerate(phases):
            seconds = [table.get(phase, 0.0) for table in timings.values()]
            color = PHASE_COLORS[index % len(PHASE_COLORS)]
            axes.barh(range(len(timings)), seconds, left=starts, height=0.6, color=color, label=phase)
            starts = [start + more for start, more in zip(starts, seconds, strict=True)]
        axes.set_yticks(range(len(timings)), [words(name) for name in timings])
        axes.set_ylim(len(timings) - 0.5, -0.5)
        axes.set_xlabel("seconds a case", color=PALE_INK)
        axes.legend(frameon=False, ncols=max(len(phases), 1), loc="lower left", bbox_to_anchor=(0, 1), labelcolor=INK)
        dress(axes)
        save_figure(path, figure)
