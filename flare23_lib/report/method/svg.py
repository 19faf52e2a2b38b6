"""The drawing as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from flare23_lib.report.method.graph import BASE, CATEGORY, COMPLETED, COMPLETION, KEPT, LEARNED, MODEL, PSEUDO
from flare23_lib.report.method.placement import (
    CAPTION_HEIGHT,
    CAPTION_SIZE,
    MARGIN,
    NAME_HEIGHT,
    NAME_SIZE,
    Box,
    Layout,
    Route,
    text_width,
)
from flare23_lib.report.style import words


@dataclass(frozen=True)
class _Style:
    stroke: str
    fill: str
    radius: int
    legend: str


_BOX_STYLES = {
    CATEGORY: _Style("#55657a", "#eef2f6", 2, "category of cases"),
    MODEL: _Style("#b4540a", "#fdf1e4", 16, "model"),
    COMPLETION: _Style("#0f756d", "#e5f4f1", 7, "completed labels"),
}


@dataclass(frozen=True)
class _Pen:
    color: str
    dashes: str
    legend: str


_PENS = {
    LEARNED: _Pen(_BOX_STYLES[CATEGORY].stroke, "", "learns from original labels"),
    KEPT: _Pen(_BOX_STYLES[CATEGORY].stroke, "5 4", "cases, original labels kept"),
    PSEUDO: _Pen(_BOX_STYLES[MODEL].stroke, "", "pseudo-labels"),
    COMPLETED: _Pen(_BOX_STYLES[COMPLETION].stroke, "", "learns from completed labels"),
    BASE: _Pen(_BOX_STYLES[COMPLETION].stroke, "5 4", "built on top of"),
}

_INK, _PALE_INK = "#1d2733", "#4d5967"
_ARROW_LENGTH = 8
_LEGEND_ROW = 24
_SMALLEST_WIDTH = 620


def render(layout: Layout) -> str:
    """Return the drawing as SVG, with a legend of what occurs in it."""
    width = max(layout.width, _SMALLEST_WIDTH)
    legend, legend_height = _legend(layout, width)
    height = layout.height + legend_height
    shift = (width - layout.width) / 2
    kinds = [kind for kind in _PENS if any(route.edge.kind == kind for route in layout.routes)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        "<title>The method: categories of cases, the models, and who completes whose labels</title>",
        "<defs>",
        *(_marker(kind) for kind in kinds),
        "</defs>",
        f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
        f'<g transform="translate({_n(shift)} 0)">',
        *(_arrow(route) for kind in kinds for route in layout.routes if route.edge.kind == kind),
        *(_drawn_box(box) for box in layout.boxes),
        "</g>",
        f'<g transform="translate(0 {_n(layout.height)})">',
        *legend,
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _n(number: float) -> str:
    """Return a number with at most one decimal, without signs of its inexactness."""
    return f"{round(number, 1) + 0:.1f}".removesuffix(".0")


def _marker(kind: str) -> str:
    return (
        f'<marker id="tip-{kind}" markerUnits="userSpaceOnUse" markerWidth="10" markerHeight="10" refX="1" refY="5" '
        f'orient="auto"><path d="M1 1 L9 5 L1 9 Z" fill="{_PENS[kind].color}"/></marker>'
    )


def _stroke(kind: str) -> str:
    pen = _PENS[kind]
    dashes = f' stroke-dasharray="{pen.dashes}"' if pen.dashes else ""
    return f'fill="none" stroke="{pen.color}" stroke-width="1.6"{dashes} marker-end="url(#tip-{kind})"'


def _arrow(route: Route) -> str:
    edge = route.edge
    title = f"{words(edge.source.name)} to {words(edge.target.name)}: {_PENS[edge.kind].legend}"
    steps = []
    for index, (x0, y0, x1, y1) in enumerate(route.curves):
        if index < route.shared:
            continue
        if index == len(route.curves) - 1:
            x1 -= _ARROW_LENGTH
        middle = _n((x0 + x1) / 2)
        steps.append(f"{'L' if steps else 'M'}{_n(x0)} {_n(y0)}")
        steps.append(f"C{middle} {_n(y0)} {middle} {_n(y1)} {_n(x1)} {_n(y1)}")
    path = " ".join(steps)
    return f'<path class="arrow {edge.kind}" d="{path}" {_stroke(edge.kind)}><title>{escape(title)}</title></path>'


def _drawn_box(box: Box) -> str:
    style = _BOX_STYLES[box.node.kind]
    parts = [
        f"<g class={quoteattr(box.node.kind)}>",
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{style.radius}" fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.6"/>',
    ]
    lines = sum(NAME_HEIGHT if line.bold else CAPTION_HEIGHT for line in box.text)
    bottom = box.y + (box.height - lines) / 2
    for line in box.text:
        bottom += NAME_HEIGHT if line.bold else CAPTION_HEIGHT
        look = f'font-size="{NAME_SIZE}" font-weight="bold" fill="{_INK}"'
        if not line.bold:
            look = f'font-size="{CAPTION_SIZE}" fill="{_PALE_INK}"'
        parts.append(
            f'<text x="{_n(box.x + box.width / 2)}" y="{_n(bottom - 4)}" text-anchor="middle" {look}>'
            f"{escape(line.text)}</text>"
        )
    return "\n".join([*parts, "</g>"])


def _legend(layout: Layout, width: float) -> tuple[list[str], float]:
    """Return the legend's parts, in rows as wide as the drawing, and its height."""
    boxes = {box.node.kind for box in layout.boxes}
    arrows = {route.edge.kind for route in layout.routes}
    entries = [(kind, style.legend) for kind, style in _BOX_STYLES.items() if kind in boxes]
    entries += [(kind, pen.legend) for kind, pen in _PENS.items() if kind in arrows]
    parts = [f'<path d="M{MARGIN} 0 H{_n(width - MARGIN)}" stroke="#d5dbe1" stroke-width="1"/>']
    x, y = float(MARGIN), 21.0
    for kind, text in entries:
        sign = 20 if kind in _BOX_STYLES else 32
        needed = sign + 7 + text_width(text, CAPTION_SIZE)
        if x > MARGIN and x + needed > width - MARGIN:
            x, y = float(MARGIN), y + _LEGEND_ROW
        if kind in _BOX_STYLES:
            style = _BOX_STYLES[kind]
            parts.append(
                f'<rect x="{_n(x)}" y="{_n(y - 7)}" width="{sign}" height="14" rx="{min(style.radius, 6)}" '
                f'fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.6"/>'
            )
        else:
            parts.append(f'<path d="M{_n(x)} {_n(y)} H{_n(x + sign - _ARROW_LENGTH)}" {_stroke(kind)}/>')
        parts.append(
            f'<text x="{_n(x + sign + 7)}" y="{_n(y + 4.5)}" font-size="{CAPTION_SIZE}" fill="{_PALE_INK}">'
            f"{escape(text)}</text>"
        )
        x += needed + 14
    return parts, y + 21
