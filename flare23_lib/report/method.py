"""The method as a drawing: which categories there are, who learns from what, who completes what.

The drawing is made from the configuration's tables alone, whatever they say. It is a layered graph, read from left to
right: a box stands one column right of the last thing it needs; an arrow that spans several columns gets a lane of
its own through those between, so that no arrow runs through a box; the order within the columns is the one with the
fewest crossings that sweeps by barycenter find (Sugiyama, Tagawa and Toda 1981).

`python -m flare23_lib.report.method config.yaml docs/method.svg` draws the recipe with FLARE23's numbers of cases.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from xml.sax.saxutils import escape, quoteattr

from flare23_lib import store
from flare23_lib.config import Config
from flare23_lib.report.style import words

FLARE23_CASES: Mapping[str, int] = {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800}
"""Numbers of FLARE23's training cases by category of the recipe."""

CATEGORY, MODEL, COMPLETION = "category", "model", "completion"

LEARNED, KEPT, PSEUDO, COMPLETED, BASE = "learned", "kept", "pseudo", "completed", "base"


@dataclass(frozen=True)
class Node:
    """Something that the drawing has a box for: its kind (category, model or completion) and its name."""

    kind: str
    name: str


@dataclass(frozen=True)
class Edge:
    """An arrow and what it stands for.

    Its kind is `learned` (a category's original labels, by a model), `kept` (they go into a completion), `pseudo`
    (a teacher's predictions), `completed` (a completion, learned by a model) or `base` (a completion under another).
    """

    source: Node
    target: Node
    kind: str


@dataclass(frozen=True)
class Line:
    """A line of text in a box: the name in bold, or a caption."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Box:
    """A node's place on the drawing, in pixels, and the lines of text in it."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    text: tuple[Line, ...]


Curve = tuple[float, float, float, float]


@dataclass(frozen=True)
class Route:
    """An arrow's way from box to box.

    Each curve (x and y of its start, x and y of its end) crosses the gap between two columns and is level at its
    ends; between the curves the way is straight. The first `shared` curves are also those of an earlier arrow.
    """

    edge: Edge
    curves: tuple[Curve, ...]
    shared: int = 0


@dataclass(frozen=True)
class Layout:
    """All boxes and arrows of a drawing and its size without the legend, in pixels."""

    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


@dataclass(frozen=True)
class _Lane:
    """Where the arrows of one kind from one source pass through a column on their way to a later one."""

    source: Node
    kind: str
    column: int


_Slot = Node | _Lane
_Columns = list[list[_Slot]]
_Segments = Sequence[tuple[_Slot, _Slot]]


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
_NAME_SIZE, _CAPTION_SIZE = 15, 13
_NAME_HEIGHT, _CAPTION_HEIGHT = 18, 16
_LETTERS_PER_LINE = 16
_SIDE_PADDING, _PADDING = 7, 9
_MARGIN = 18
_LANE_HEIGHT = 2
_PORT_DISTANCE = 13
_PORT_MARGIN = 11
_ARROW_LENGTH = 8
_LEGEND_ROW = 24
_SMALLEST_WIDTH = 620
_SWEEPS = 16


def draw_method(
    path: Path,
    categories: Sequence[str],
    completions: Mapping[str, Mapping],
    train_on: Mapping[str, Mapping],
    counts: Mapping[str, int],
) -> None:
    """Write the drawing of a checked configuration as SVG; the same tables give the same bytes.

    Args:
        path: the file to write.
        categories: names of the categories.
        completions: for each completion its `category`, its `teacher` and, if it has one, `on_top_of`.
        train_on: for each model the categories whose `originals` and the `completions` that it learns from.
        counts: numbers of cases by category; a category that is not named has none.
    """
    store.write_text(path, render(lay_out(categories, completions, train_on, counts)))


def draw_recipe(path: Path, config: Config) -> None:
    """Write the drawing of a configuration with FLARE23's numbers of cases."""
    draw_method(
        path,
        categories=[row["name"] for row in config["categories"]],
        completions=config["completions"],
        train_on={name: model["train_on"] for name, model in config["models"].items()},
        counts=FLARE23_CASES,
    )


def lay_out(
    categories: Sequence[str],
    completions: Mapping[str, Mapping],
    train_on: Mapping[str, Mapping],
    counts: Mapping[str, int],
) -> Layout:
    """Place the boxes and arrows of a drawing; arguments as in `draw_method`."""
    edges = _edges(completions, train_on)
    texts = _texts(categories, completions, train_on, counts)
    columns_of = _columns_of(texts, edges)
    chains = {edge: _chain(edge, columns_of) for edge in edges}
    segments = list(dict.fromkeys(pair for chain in chains.values() for pair in pairwise(chain)))
    columns = _ordered(_columns(columns_of, chains.values()), segments)
    heights = {slot: _height(slot, texts, segments) for column in columns for slot in column}
    centers = _centers(columns, segments, heights)
    top = min(centers[slot] - heights[slot] / 2 for slot in centers)
    centers = {slot: center - top + _MARGIN for slot, center in centers.items()}
    outs, ins = _ports(chains, centers, heights)
    lefts, widths = _horizontal(columns, texts, segments, centers)
    boxes = tuple(
        Box(slot, lefts[index], centers[slot] - heights[slot] / 2, widths[index], heights[slot], texts[slot])
        for index, column in enumerate(columns)
        for slot in column
        if isinstance(slot, Node)
    )
    routes: list[Route] = []
    for edge, chain in chains.items():
        curves = tuple(_curves(edge, chain, columns_of[edge.source], outs, ins, centers, lefts, widths))
        earlier = {curve for route in routes for curve in route.curves}
        routes.append(Route(edge, curves, sum(curve in earlier for curve in curves)))
    height = max(centers[slot] + heights[slot] / 2 for slot in centers) + _MARGIN
    return Layout(boxes, tuple(routes), lefts[-1] + widths[-1] + _MARGIN, height)


# The graph


def _edges(completions: Mapping[str, Mapping], train_on: Mapping[str, Mapping]) -> list[Edge]:
    edges = []
    for name, row in completions.items():
        node = Node(COMPLETION, name)
        if base := row.get("on_top_of"):
            edges.append(Edge(Node(COMPLETION, base), node, BASE))
        else:
            edges.append(Edge(Node(CATEGORY, row["category"]), node, KEPT))
        edges.append(Edge(Node(MODEL, row["teacher"]), node, PSEUDO))
    for name, sources in train_on.items():
        node = Node(MODEL, name)
        edges += [Edge(Node(CATEGORY, item), node, LEARNED) for item in sources.get("originals") or ()]
        edges += [Edge(Node(COMPLETION, item), node, COMPLETED) for item in sources.get("completions") or ()]
    return edges


def _texts(
    categories: Sequence[str],
    completions: Mapping[str, Mapping],
    train_on: Mapping[str, Mapping],
    counts: Mapping[str, int],
) -> dict[Node, tuple[Line, ...]]:
    """Return the lines of every node's box."""
    texts = {}
    for name in categories:
        texts[Node(CATEGORY, name)] = (*_name_lines(name), Line(_cases(counts.get(name, 0))))
    for name, sources in train_on.items():
        learned = [
            *(sources.get("originals") or ()),
            *(completions[item]["category"] for item in sources.get("completions") or ()),
        ]
        total = _cases(sum(counts.get(category, 0) for category in learned))
        texts[Node(MODEL, name)] = (*_name_lines(name), Line("learns from"), Line(total))
    for name, row in completions.items():
        total = _cases(counts.get(row["category"], 0))
        texts[Node(COMPLETION, name)] = (Line("completed labels:"), *_name_lines(name), Line(total))
    return texts


def _name_lines(name: str) -> list[Line]:
    return [Line(part, bold=True) for part in textwrap.wrap(words(name), _LETTERS_PER_LINE)]


def _cases(number: int) -> str:
    return f"{number:,} case" if number == 1 else f"{number:,} cases"


def _columns_of(nodes: Iterable[Node], edges: Iterable[Edge]) -> dict[Node, int]:
    """Return each node's column: 0, or one more than the last of what it needs."""
    needs = defaultdict(list)
    for edge in edges:
        needs[edge.target].append(edge.source)
    columns: dict[Node, int] = {}

    def column(node: Node) -> int:
        if node not in columns:
            columns[node] = 1 + max(map(column, needs[node]), default=-1)
        return columns[node]

    return {node: column(node) for node in nodes}


def _chain(edge: Edge, columns_of: Mapping[Node, int]) -> list[_Slot]:
    """Return the slots that an arrow passes, its ends among them; arrows of one source and kind share their lanes."""
    between = range(columns_of[edge.source] + 1, columns_of[edge.target])
    return [edge.source, *(_Lane(edge.source, edge.kind, column) for column in between), edge.target]


def _columns(columns_of: Mapping[Node, int], chains: Iterable[Sequence[_Slot]]) -> _Columns:
    columns: _Columns = [[] for _ in range(1 + max(columns_of.values(), default=0))]
    for node, column in columns_of.items():
        columns[column].append(node)
    for lane in dict.fromkeys(slot for chain in chains for slot in chain if isinstance(slot, _Lane)):
        columns[lane.column].append(lane)
    return columns


# The order within columns


def _neighbors(segments: _Segments) -> tuple[dict[_Slot, list[_Slot]], dict[_Slot, list[_Slot]]]:
    """Return the slots before and the slots after each slot."""
    before, after = defaultdict(list), defaultdict(list)
    for left, right in segments:
        after[left].append(right)
        before[right].append(left)
    return before, after


def _ordered(columns: _Columns, segments: _Segments) -> _Columns:
    """Return the columns in the best order that sweeps to the right and to the left find."""
    before, after = _neighbors(segments)
    best, best_cost = columns, _cost(_places(columns), segments)
    current = [list(column) for column in columns]
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        near = before if forward else after
        for column in current if forward else reversed(current):
            places = _places(current)
            barycenters = {slot: _barycenter(slot, near[slot], places) for slot in column}
            column.sort(key=barycenters.__getitem__)
        _swap(current, before, after)
        cost = _cost(_places(current), segments)
        if cost < best_cost:
            best, best_cost = [list(column) for column in current], cost
    return best


def _places(columns: _Columns) -> dict[_Slot, tuple[int, float]]:
    """Return each slot's column and where it lies in it, from 0 to 1."""
    return {
        slot: (number, (index + 0.5) / len(column))
        for number, column in enumerate(columns)
        for index, slot in enumerate(column)
    }


def _barycenter(slot: _Slot, near: Sequence[_Slot], places: Mapping[_Slot, tuple[int, float]]) -> float:
    return fmean(places[other][1] for other in near) if near else places[slot][1]


def _swap(columns: _Columns, before: Mapping[_Slot, Sequence[_Slot]], after: Mapping[_Slot, Sequence[_Slot]]) -> None:
    """Swap neighbors in columns, in place, as long as that makes the drawing better."""
    places = _places(columns)
    improved = True
    while improved:
        improved = False
        for column in columns:
            for index in range(len(column) - 1):
                upper, lower = column[index : index + 2]
                touching = [(other, slot) for slot in (upper, lower) for other in before[slot]]
                touching += [(slot, other) for slot in (upper, lower) for other in after[slot]]
                cost = _cost(places, touching)
                swapped = places | {upper: places[lower], lower: places[upper]}
                if _cost(swapped, touching) < cost:
                    column[index : index + 2] = lower, upper
                    places, improved = swapped, True


def _cost(places: Mapping[_Slot, tuple[int, float]], segments: _Segments) -> tuple[int, float]:
    """Return how often segments cross and how far they climb; smaller is better."""
    by_gap = defaultdict(list)
    for left, right in segments:
        by_gap[places[left][0]].append((places[left][1], places[right][1]))
    crossings = sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0 for pairs in by_gap.values() for i, a in enumerate(pairs) for b in pairs[:i]
    )
    climb = sum(abs(left - right) for pairs in by_gap.values() for left, right in pairs)
    return crossings, round(climb, 6)


# Heights and places down the columns


def _height(slot: _Slot, texts: Mapping[Node, Sequence[Line]], segments: _Segments) -> float:
    if isinstance(slot, _Lane):
        return _LANE_HEIGHT
    lines = sum(_NAME_HEIGHT if line.bold else _CAPTION_HEIGHT for line in texts[slot])
    ports = sum(right == slot for _, right in segments)
    return max(lines + 2 * _PADDING, (ports - 1) * _PORT_DISTANCE + 2 * _PORT_MARGIN)


def _centers(columns: _Columns, segments: _Segments, heights: Mapping[_Slot, float]) -> dict[_Slot, float]:
    """Return the height of each slot's center: neighbors as level as the order and the distances allow."""
    centers: dict[_Slot, float] = {}
    distances = [[_distance(a, b, heights) for a, b in pairwise(column)] for column in columns]
    for column, steps in zip(columns, distances, strict=True):
        centers |= zip(column, _spread([0.0] * len(column), [1.0] * len(column), steps), strict=True)
    links = defaultdict(list)
    for left, right in segments:
        weight = (4.0 if isinstance(left, _Lane) else 1.0) * (4.0 if isinstance(right, _Lane) else 1.0)
        links[left].append((right, weight))
        links[right].append((left, weight))
    for sweep in range(4 * _SWEEPS):
        order = range(len(columns)) if sweep % 2 == 0 else reversed(range(len(columns)))
        for index in order:
            column = columns[index]
            weights = [sum(weight for _, weight in links[slot]) or 0.01 for slot in column]
            wanted = [
                sum(weight * centers[other] for other, weight in links[slot]) / total
                if links[slot]
                else centers[slot]
                for slot, total in zip(column, weights, strict=True)
            ]
            centers |= zip(column, _spread(wanted, weights, distances[index]), strict=True)
    return _straightened(columns, centers, distances)


def _distance(upper: _Slot, lower: _Slot, heights: Mapping[_Slot, float]) -> float:
    lanes = isinstance(upper, _Lane) + isinstance(lower, _Lane)
    return (heights[upper] + heights[lower]) / 2 + (22, 16, 13)[lanes]


def _spread(wanted: Sequence[float], weights: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Return the places nearest to the wanted ones (least squares) that keep their order and their distances.

    Without the distances this is isotonic regression, solved by pooling neighbors that are out of order.
    """
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []
    for place, weight, offset in zip(wanted, weights, offsets, strict=False):
        pool = (place - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            value, mass, size = pools.pop()
            total = mass + pool[1]
            pool = ((value * mass + pool[0] * pool[1]) / total, total, size + pool[2])
        pools.append(pool)
    levels = [value for value, _, size in pools for _ in range(size)]
    return [level + offset for level, offset in zip(levels, offsets, strict=False)]


def _straightened(
    columns: _Columns, centers: Mapping[_Slot, float], distances: Sequence[Sequence[float]]
) -> dict[_Slot, float]:
    """Bring the lanes of one source and kind to one height where the slots above and below leave room."""
    centers = dict(centers)
    chains = defaultdict(list)
    for number, column in enumerate(columns):
        for place, slot in enumerate(column):
            if isinstance(slot, _Lane):
                chains[slot.source, slot.kind].append((number, place))
    for chain in chains.values():
        low, high = float("-inf"), float("inf")
        for number, place in chain:
            column, steps = columns[number], distances[number]
            if place > 0:
                low = max(low, centers[column[place - 1]] + steps[place - 1])
            if place + 1 < len(column):
                high = min(high, centers[column[place + 1]] - steps[place])
        if low <= high:
            lanes = [columns[number][place] for number, place in chain]
            height = min(max(fmean(centers[lane] for lane in lanes), low), high)
            centers |= dict.fromkeys(lanes, height)
    return centers


# Ports and ways


def _ports(
    chains: Mapping[Edge, Sequence[_Slot]], centers: Mapping[_Slot, float], heights: Mapping[_Slot, float]
) -> tuple[dict[tuple[Node, str], float], dict[tuple[Node, _Slot], float]]:
    """Return the heights at which arrows leave, by node and kind, and arrive, by node and slot before it."""
    followers: dict[Node, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for edge, chain in chains.items():
        followers[edge.source][edge.kind].append(centers[chain[1]])
    outs = {}
    for node, kinds in followers.items():
        wanted = {kind: fmean(heights_after) for kind, heights_after in kinds.items()}
        outs |= {(node, kind): port for kind, port in _placed(node, wanted, centers, heights).items()}
    arrivals: dict[Node, dict[_Slot, float]] = defaultdict(dict)
    for edge, chain in chains.items():
        last = chain[-2]
        arrivals[edge.target][last] = centers[last] if isinstance(last, _Lane) else outs[edge.source, edge.kind]
    ins = {}
    for node, wanted in arrivals.items():
        ins |= {(node, last): port for last, port in _placed(node, wanted, centers, heights).items()}
    return outs, ins


def _placed(
    node: Node, wanted: Mapping, centers: Mapping[_Slot, float], heights: Mapping[_Slot, float]
) -> dict[object, float]:
    """Return places for ports on a side of a box, near to where their arrows come from or go to."""
    keys = sorted(wanted, key=lambda key: wanted[key])
    reach = heights[node] / 2 - _PORT_MARGIN
    low, high = centers[node] - reach, centers[node] + reach - (len(keys) - 1) * _PORT_DISTANCE
    places = _spread([wanted[key] for key in keys], [1.0] * len(keys), [_PORT_DISTANCE] * (len(keys) - 1))
    levels = [place - index * _PORT_DISTANCE for index, place in enumerate(places)]
    return {
        key: min(max(level, low), max(low, high)) + index * _PORT_DISTANCE
        for index, (key, level) in enumerate(zip(keys, levels, strict=True))
    }


def _horizontal(
    columns: _Columns,
    texts: Mapping[Node, Sequence[Line]],
    segments: _Segments,
    centers: Mapping[_Slot, float],
) -> tuple[list[float], list[float]]:
    """Return the left side and the width of each column; where arrows climb far, the gap is wider."""
    widths = [
        max(_width(line) for slot in column if isinstance(slot, Node) for line in texts[slot]) + 2 * _SIDE_PADDING
        for column in columns
    ]
    number = {slot: index for index, column in enumerate(columns) for slot in column}
    climbs = [0.0] * len(columns)
    for left, right in segments:
        climbs[number[left]] = max(climbs[number[left]], abs(centers[left] - centers[right]))
    lefts = [float(_MARGIN)]
    for width, climb in zip(widths[:-1], climbs[:-1], strict=True):
        lefts.append(lefts[-1] + width + min(42 + 0.12 * climb, 90))
    return lefts, widths


def _width(line: Line) -> float:
    """Return a width that the line keeps to in every common sans-serif font."""
    return _text_width(line.text, _NAME_SIZE if line.bold else _CAPTION_SIZE) * (1.1 if line.bold else 1.0)


def _text_width(text: str, size: float) -> float:
    """Return about how wide a text is in pixels, for a wide sans-serif font (DejaVu Sans) of this size."""
    ems = sum(0.36 if letter in "fijlrt.,:;'()- " else 0.96 if letter in "mwMW" else 0.63 for letter in text)
    return ems * size


def _curves(
    edge: Edge,
    chain: Sequence[_Slot],
    first: int,
    outs: Mapping[tuple[Node, str], float],
    ins: Mapping[tuple[Node, _Slot], float],
    centers: Mapping[_Slot, float],
    lefts: Sequence[float],
    widths: Sequence[float],
) -> Iterator[Curve]:
    """Yield an arrow's curves between columns."""
    height = outs[edge.source, edge.kind]
    for column, (slot, after) in enumerate(pairwise(chain), start=first):
        goal = ins[after, slot] if isinstance(after, Node) else centers[after]
        yield lefts[column] + widths[column], height, lefts[column + 1], goal
        height = goal


# SVG


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
    lines = sum(_NAME_HEIGHT if line.bold else _CAPTION_HEIGHT for line in box.text)
    bottom = box.y + (box.height - lines) / 2
    for line in box.text:
        bottom += _NAME_HEIGHT if line.bold else _CAPTION_HEIGHT
        look = f'font-size="{_NAME_SIZE}" font-weight="bold" fill="{_INK}"'
        if not line.bold:
            look = f'font-size="{_CAPTION_SIZE}" fill="{_PALE_INK}"'
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
    parts = [f'<path d="M{_MARGIN} 0 H{_n(width - _MARGIN)}" stroke="#d5dbe1" stroke-width="1"/>']
    x, y = float(_MARGIN), 21.0
    for kind, text in entries:
        sign = 20 if kind in _BOX_STYLES else 32
        needed = sign + 7 + _text_width(text, _CAPTION_SIZE)
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = float(_MARGIN), y + _LEGEND_ROW
        if kind in _BOX_STYLES:
            style = _BOX_STYLES[kind]
            parts.append(
                f'<rect x="{_n(x)}" y="{_n(y - 7)}" width="{sign}" height="14" rx="{min(style.radius, 6)}" '
                f'fill="{style.fill}" stroke="{style.stroke}" stroke-width="1.6"/>'
            )
        else:
            parts.append(f'<path d="M{_n(x)} {_n(y)} H{_n(x + sign - _ARROW_LENGTH)}" {_stroke(kind)}/>')
        parts.append(
            f'<text x="{_n(x + sign + 7)}" y="{_n(y + 4.5)}" font-size="{_CAPTION_SIZE}" fill="{_PALE_INK}">'
            f"{escape(text)}</text>"
        )
        x += needed + 14
    return parts, y + 21


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a configuration file's method with FLARE23's numbers of cases."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=main.__doc__)
    parser.add_argument("config", type=Path, help="the configuration, with config.schema.yaml beside it")
    parser.add_argument("figure", type=Path, help="the SVG to write")
    options = parser.parse_args(arguments)
    draw_recipe(options.figure, Config.load([options.config]))


if __name__ == "__main__":
    main()
