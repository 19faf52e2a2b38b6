"""The report's page: sections of tables, pictures and words, put into one HTML file that needs nothing else.

Pictures are embedded; a page opens from disk and asks no network for anything.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from flare23_lib.io import atomic

ASSETS = Path(__file__).with_name("assets")

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Words:
    """A paragraph; `missing` sets it apart as what the run does not have, and why."""

    text: str
    missing: bool = False

    kind = "words"


@dataclass(frozen=True)
class Grid:
    """A table: column heads, rows of text (the first cell is the row's head), a caption and notes below."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    kind = "grid"

    @property
    def words(self) -> tuple[bool, ...]:
        """Whether a column holds words, which begin at the left; numbers end at the right."""
        cells = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return tuple(any(cell and cell[0].isalpha() for cell in column) for column in cells)


@dataclass(frozen=True)
class Picture:
    """A figure's file (SVG or PNG), embedded; `description` is what who cannot see it reads."""

    path: Path
    description: str
    caption: str

    kind = "picture"

    @property
    def source(self) -> str:
        """The file as a data URI."""
        content = base64.b64encode(self.path.read_bytes()).decode("ascii")
        return f"data:{_TYPES[self.path.suffix]};base64,{content}"


@dataclass(frozen=True)
class Folded:
    """Preformatted text behind a summary line."""

    summary: str
    text: str

    kind = "folded"


@dataclass(frozen=True)
class ViewerBlock:
    """The viewer's place on the page: what its script reads.

    Attributes:
        script: address of the viewing library, relative to the page.
        license: what it is and its license.
        content: labels and cases, as `viewer.index` gives them.
    """

    script: str
    license: str
    content: dict

    kind = "viewer"


Block = Words | Grid | Picture | Folded | ViewerBlock


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its title and what is in it."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def write_page(path: Path, title: str, summary: Sequence[str], sections: Sequence[Section]) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        title: its heading.
        summary: a few lines below it.
        sections: in order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "viewer.js"))
    template = environment.get_template("page.html")
    text = template.render(title=title, summary=summary, sections=sections, style=style, viewer_script=script)
    atomic.write_text(path, text)
