"""CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import about_path, read_text, write_text

ENCODING = "utf-8-sig"
"""With or without the mark that spreadsheets put in front of UTF-8."""


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise StoreError if a table's columns are separated by something else than commas."""
    if len(columns) == 1 and ";" in columns[0]:
        raise StoreError(f"{path}: has semicolons between its columns; save it with commas (and decimal points)")


def refuse_others(path: Path, first_line: str) -> None:
    """Raise StoreError if a file is there that does not begin with a line, and so is a table of others."""
    if path.exists():
        with about_path(path), path.open(encoding=ENCODING, errors="replace") as file:
            if file.readline(len(first_line) + 1).rstrip("\n") != first_line:
                raise StoreError(f"{path}: exists and was not written by flare23; move it, or give another output")


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file as rows of strings; StoreError if it is missing, cannot be read, is not as its checksum says,
    is no CSV, or has semicolons."""
    path = Path(path)
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, ENCODING), newline=""))
        check_columns(path, reader.fieldnames or ())
        return list(reader)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; make it with the workflow first") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} is not a CSV table") from error
