"""What inference takes, as figures: memory over time case by case, and the seconds of its phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from flare23_lib.report.style import INK, PALE_INK, display_name, dress, new_figure

PHASE_COLORS = ("#0072b2", "#d55e00", "#4f8a76", "#9aa7b5", "#3b1620", "#ccaa33", "#cc79a7")


def draw_memory(path: Path, model: str, curves: Sequence[pd.DataFrame]) -> None:
    """Write memory over time as SVG and PNG: a line per case; GPU memory only if any was measured.

    The curves have the columns seconds, gpu_mb, ram_mb.
    """
    curves = [curve.apply(pd.to_numeric).set_index("seconds") for curve in curves]
    kinds = {"ram_mb": "RAM", "gpu_mb": "GPU memory"}
    measured = [column for column in kinds if any(curve[column].notna().any() for curve in curves)]
    with new_figure(path, 4.75 * max(len(measured), 1.4), 3.2) as figure:
        for index, column in enumerate(measured, start=1):
            axes = figure.add_subplot(1, len(measured), index)
            for curve in curves:
                axes.plot(curve[column].dropna(), color=PHASE_COLORS[0], alpha=0.6, linewidth=1.1)
            dress(axes, f"{display_name(model)}: {kinds[column]}, MB")
            axes.set_xlabel("seconds", color=PALE_INK)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)


def draw_phases(path: Path, timings: Mapping[str, Mapping[str, float]]) -> None:
    """Write the seconds that a case takes, by bar and phase, as stacked bars, SVG and PNG."""
    phases = pd.DataFrame(timings).fillna(0)
    with new_figure(path, 9.5, 1.5 + 0.4 * len(timings)) as figure:
        axes = figure.add_subplot()
        starts = phases.cumsum() - phases
        for index, phase in enumerate(phases.index):
            color = PHASE_COLORS[index % len(PHASE_COLORS)]
            axes.barh(range(len(timings)), phases.loc[phase], 0.6, starts.loc[phase], color=color, label=phase)
        axes.set_yticks(range(len(timings)), [display_name(name) for name in timings])
        axes.set_ylim(len(timings) - 0.5, -0.5)
        axes.set_xlabel("seconds a case", color=PALE_INK)
        axes.legend(frameon=False, ncols=max(len(phases), 1), loc="lower left", bbox_to_anchor=(0, 1), labelcolor=INK)
        dress(axes)
