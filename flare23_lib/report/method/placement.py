"""Where the boxes and arrows of the drawing lie, in pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from flare23_lib.report.method.graph import (
    SWEEPS,
    Columns,
    Edge,
    Lane,
    Line,
    Node,
    Segments,
    Slot,
    chain_of,
    column_numbers,
    edges_of,
    in_columns,
    in_order,
    texts_of,
)

NAME_SIZE, CAPTION_SIZE = 15, 13
NAME_HEIGHT, CAPTION_HEIGHT = 18, 16
MARGIN = 18
_SIDE_PADDING, _PADDING = 7, 9
_LANE_HEIGHT = 2
_PORT_DISTANCE = 13
_PORT_MARGIN = 11


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


def lay_out(
    categories: Sequence[str],
    completions: Mapping[str, Mapping],
    train_on: Mapping[str, Mapping],
    counts: Mapping[str, int],
) -> Layout:
    """Place the boxes and arrows of a drawing; arguments as in `draw_method`."""
    edges = edges_of(completions, train_on)
    texts = texts_of(categories, completions, train_on, counts)
    columns_of = column_numbers(texts, edges)
    chains = {edge: chain_of(edge, columns_of) for edge in edges}
    segments = list(dict.fromkeys(pair for chain in chains.values() for pair in pairwise(chain)))
    columns = in_order(in_columns(columns_of, chains.values()), segments)
    heights = {slot: _height(slot, texts, segments) for column in columns for slot in column}
    centers = _centers(columns, segments, heights)
    top = min(centers[slot] - heights[slot] / 2 for slot in centers)
    centers = {slot: center - top + MARGIN for slot, center in centers.items()}
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
    height = max(centers[slot] + heights[slot] / 2 for slot in centers) + MARGIN
    return Layout(boxes, tuple(routes), lefts[-1] + widths[-1] + MARGIN, height)


# Heights and places down the columns


def _height(slot: Slot, texts: Mapping[Node, Sequence[Line]], segments: Segments) -> float:
    if isinstance(slot, Lane):
        return _LANE_HEIGHT
    lines = sum(NAME_HEIGHT if line.bold else CAPTION_HEIGHT for line in texts[slot])
    ports = sum(right == slot for _, right in segments)
    return max(lines + 2 * _PADDING, (ports - 1) * _PORT_DISTANCE + 2 * _PORT_MARGIN)


def _centers(columns: Columns, segments: Segments, heights: Mapping[Slot, float]) -> dict[Slot, float]:
    """Return the height of each slot's center: neighbors as level as the order and the distances allow."""
    centers: dict[Slot, float] = {}
    distances = [[_distance(a, b, heights) for a, b in pairwise(column)] for column in columns]
    for column, steps in zip(columns, distances, strict=True):
        centers |= zip(column, _spread([0.0] * len(column), [1.0] * len(column), steps), strict=True)
    links = defaultdict(list)
    for left, right in segments:
        weight = (4.0 if isinstance(left, Lane) else 1.0) * (4.0 if isinstance(right, Lane) else 1.0)
        links[left].append((right, weight))
        links[right].append((left, weight))
    for sweep in range(4 * SWEEPS):
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


def _distance(upper: Slot, lower: Slot, heights: Mapping[Slot, float]) -> float:
    lanes = isinstance(upper, Lane) + isinstance(lower, Lane)
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
    columns: Columns, centers: Mapping[Slot, float], distances: Sequence[Sequence[float]]
) -> dict[Slot, float]:
    """Bring the lanes of one source and kind to one height where the slots above and below leave room."""
    centers = dict(centers)
    chains = defaultdict(list)
    for number, column in enumerate(columns):
        for place, slot in enumerate(column):
            if isinstance(slot, Lane):
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
    chains: Mapping[Edge, Sequence[Slot]], centers: Mapping[Slot, float], heights: Mapping[Slot, float]
) -> tuple[dict[tuple[Node, str], float], dict[tuple[Node, Slot], float]]:
    """Return the heights at which arrows leave, by node and kind, and arrive, by node and slot before it."""
    followers: dict[Node, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for edge, chain in chains.items():
        followers[edge.source][edge.kind].append(centers[chain[1]])
    outs = {}
    for node, kinds in followers.items():
        wanted = {kind: fmean(heights_after) for kind, heights_after in kinds.items()}
        outs |= {(node, kind): port for kind, port in _placed(node, wanted, centers, heights).items()}
    arrivals: dict[Node, dict[Slot, float]] = defaultdict(dict)
    for edge, chain in chains.items():
        last = chain[-2]
        arrivals[edge.target][last] = centers[last] if isinstance(last, Lane) else outs[edge.source, edge.kind]
    ins = {}
    for node, wanted in arrivals.items():
        ins |= {(node, last): port for last, port in _placed(node, wanted, centers, heights).items()}
    return outs, ins


def _placed(
    node: Node, wanted: Mapping, centers: Mapping[Slot, float], heights: Mapping[Slot, float]
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
    columns: Columns,
    texts: Mapping[Node, Sequence[Line]],
    segments: Segments,
    centers: Mapping[Slot, float],
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
    lefts = [float(MARGIN)]
    for width, climb in zip(widths[:-1], climbs[:-1], strict=True):
        lefts.append(lefts[-1] + width + min(42 + 0.12 * climb, 90))
    return lefts, widths


def _width(line: Line) -> float:
    """Return a width that the line keeps to in every common sans-serif font."""
    return text_width(line.text, NAME_SIZE if line.bold else CAPTION_SIZE) * (1.1 if line.bold else 1.0)


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is in pixels, for a wide sans-serif font (DejaVu Sans) of this size."""
    ems = sum(0.36 if letter in "fijlrt.,:;'()- " else 0.96 if letter in "mwMW" else 0.63 for letter in text)
    return ems * size


def _curves(
    edge: Edge,
    chain: Sequence[Slot],
    first: int,
    outs: Mapping[tuple[Node, str], float],
    ins: Mapping[tuple[Node, Slot], float],
    centers: Mapping[Slot, float],
    lefts: Sequence[float],
    widths: Sequence[float],
) -> Iterator[Curve]:
    """Yield an arrow's curves between columns."""
    height = outs[edge.source, edge.kind]
    for column, (slot, after) in enumerate(pairwise(chain), start=first):
        goal = ins[after, slot] if isinstance(after, Node) else centers[after]
        yield lefts[column] + widths[column], height, lefts[column + 1], goal
        height = goal
