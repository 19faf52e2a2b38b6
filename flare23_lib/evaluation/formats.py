"""A table for people, as CSV (plain numbers), Markdown and LaTeX (rounded, with intervals)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flare23_lib import store

FORMATS = ("csv", "md", "tex")

_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "±": r"$\pm$",
    "–": "--",
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\~{}",
}


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its files.
        title: one line above it.
        records: rows of plain values for the CSV, all with the same keys.
        header: column heads for people.
        cells: rows of text for people; the first column is the row's head.
        notes: lines below it.
    """

    name: str
    title: str
    records: Sequence[Mapping[str, Any]]
    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)


def write_table(folder: Path, table: Table) -> None:
    """Write a table in all formats."""
    columns = list(table.records[0]) if table.records else list(table.header)
    store.write_csv(folder / f"{table.name}.csv", columns, table.records)
    store.write_text(folder / f"{table.name}.md", to_markdown(table))
    store.write_text(folder / f"{table.name}.tex", to_latex(table))


def to_markdown(table: Table) -> str:
    """Return the table in Markdown."""
    rules = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [table.header, rules, *([cell.replace("|", r"\|") for cell in row] for row in table.cells)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([f"**{table.title}**\n", *lines, *notes]) + "\n"


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX `table` that needs no package."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\hline",
        _latex_row(table.header),
        r"\hline",
        *map(_latex_row, table.cells),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text.replace("\\", "/"))
