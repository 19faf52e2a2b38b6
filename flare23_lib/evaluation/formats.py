"""A table for readers, as CSV (plain numbers), Markdown and LaTeX (rounded, with intervals)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flare23_lib.evaluation.tables import write_table
from flare23_lib.io.atomic import write_text

FORMATS = ("csv", "md", "tex")

_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%_#${}"}
    | {"±": r"$\pm$", "–": "--", "^": r"\^{}", "~": r"\~{}", "\\": "/"}
)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its files.
        title: one line above it.
        values: plain values, for the CSV.
        shown: text, for Markdown and LaTeX; the first column is the row's head.
        notes: lines below it.
    """

    name: str
    title: str
    values: pd.DataFrame
    shown: pd.DataFrame
    notes: Sequence[str] = ()


def write_formats(folder: Path, table: Table) -> None:
    """Write a table in all formats."""
    write_table(folder / f"{table.name}.csv", table.values)
    write_text(folder / f"{table.name}.md", to_markdown(table))
    write_text(folder / f"{table.name}.tex", to_latex(table))


def to_markdown(table: Table) -> str:
    """Return the table in Markdown."""
    rules = ["---", *["---:"] * (len(table.shown.columns) - 1)]
    rows = [table.shown.columns, rules, *table.shown.map(lambda cell: cell.replace("|", r"\|")).to_numpy()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([f"**{table.title}**\n", *lines, *notes]) + "\n"


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX `table` that needs no package."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{' '.join([table.title + '.', *table.notes]).translate(_LATEX)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.shown.columns) - 1)}}}",
        r"\hline",
        _latex_row(table.shown.columns),
        r"\hline",
        *map(_latex_row, table.shown.to_numpy()),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"
