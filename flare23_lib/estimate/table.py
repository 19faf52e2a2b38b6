"""The cost of each stage and of all, as a table for the terminal and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flare23_lib.config import Config
from flare23_lib.estimate.extents import Sizes
from flare23_lib.estimate.throughputs import CORE, DISK, GPU, Figure, Figures
from flare23_lib.estimate.work import Work, work_of
from flare23_lib.store import write_csv

COLUMNS = ["stage", "of", "cases", "windows", "disk_gb", "gpu_hours", "core_hours", "figures"]
"""Columns of the file; `figures` holds name=value unit (measured or assumed) of each figure, joined by `; `."""

ALL = "all"
"""Names the row that sums up the others."""

_NOTES = (
    "windows: over the whole images, an upper bound where only the body's are computed; with TTA each is seen once",
    "per mirrored pass. core h: work on cores, and cores that a GPU job holds. GB: 10^9 bytes, the cohort left out.",
)


@dataclass(frozen=True)
class Line:
    """What a stage costs.

    Attributes:
        stage: what is done.
        name: of the model or completion; empty for the scan and the sum.
        cases: how many cases; None in the sum.
        windows: windows, rounded; None where there are none.
        disk_gb: 10^9 bytes that stay.
        gpu_hours: hours of one GPU.
        core_hours: hours of one core.
        figures: names of the figures that it rests on.
    """

    stage: str
    name: str
    cases: int | None
    windows: int | None
    disk_gb: float
    gpu_hours: float
    core_hours: float
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """The cost of a run: a line per stage, the sum last, and the figures used, in the order of their use."""

    lines: list[Line]
    figures: list[Figure]


def estimate(config: Config, sizes: Sizes, figures: Figures) -> Estimate:
    """Work out what a run costs that starts from nothing.

    Args:
        config: the configuration.
        sizes: the cases (`extents.Sizes`).
        figures: `throughputs.FIGURES`, or those with what an earlier run measured.
    """
    lines = [_line(work, figures) for work in work_of(config, sizes, figures)]
    total = Line(
        ALL,
        "",
        None,
        sum(line.windows or 0 for line in lines),
        sum(line.disk_gb for line in lines),
        sum(line.gpu_hours for line in lines),
        sum(line.core_hours for line in lines),
    )
    used = dict.fromkeys(name for line in lines for name in line.figures)
    return Estimate([*lines, total], [figures[name] for name in used])


def _line(work: Work, figures: Figures) -> Line:
    used = {GPU: 0.0, CORE: 0.0, DISK: 0.0}
    for part in work.parts:
        figure = figures[part.figure]
        used[figure.resource] += figure.use(part.amount)
    windows = None if work.windows is None else round(work.windows)
    gpu_hours = used[GPU] / 3600
    return Line(
        work.stage,
        work.name,
        work.cases,
        windows,
        used[DISK] / 1e9,
        gpu_hours,
        used[CORE] / 3600 + gpu_hours * work.cores_held,
        tuple(part.figure for part in work.parts if part.amount),
    )


def write_estimate(path: Path, result: Estimate) -> None:
    """Write the lines as CSV (`COLUMNS`); None becomes an empty cell."""
    said = {figure.name: f"{figure.name}={_number(figure.value)} {figure.unit} ({_kind(figure)})"
            for figure in result.figures}  # fmt: skip
    rows = [
        {
            "stage": line.stage,
            "of": line.name,
            "cases": line.cases,
            "windows": line.windows,
            "disk_gb": f"{line.disk_gb:.6g}",
            "gpu_hours": f"{line.gpu_hours:.6g}",
            "core_hours": f"{line.core_hours:.6g}",
            "figures": "; ".join(said[name] for name in line.figures),
        }
        for line in result.lines
    ]
    write_csv(path, COLUMNS, rows)


def format_estimate(result: Estimate) -> str:
    """Return the lines and the figures as text; lines name their figures by number, measured ones with *."""
    numbers = {figure.name: f"{index}{'*' * figure.measured}" for index, figure in enumerate(result.figures, start=1)}
    rows = [("stage", "of", "cases", "windows", "disk GB", "GPU h", "core h", "figures")]
    rows += [
        (
            line.stage,
            line.name,
            "" if line.cases is None else str(line.cases),
            "" if line.windows is None else str(line.windows),
            *(_amount(value) for value in (line.disk_gb, line.gpu_hours, line.core_hours)),
            " ".join(numbers[name] for name in line.figures),
        )
        for line in result.lines
    ]
    figures = [("", "figure", "value", "unit", "", "source")]
    figures += [
        (numbers[figure.name], figure.name, _number(figure.value), figure.unit, _kind(figure), figure.source)
        for figure in result.figures
    ]
    return "\n".join([*_aligned(rows, "<<>>>>><"), "", *_NOTES, "", *_aligned(figures, "><><<<")])


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def _kind(figure: Figure) -> str:
    return "measured" if figure.measured else "assumed"


def _amount(value: float) -> str:
    return "-" if not value else f"{value:.1f}" if value >= 0.05 else f"{value:.1g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
