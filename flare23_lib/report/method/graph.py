"""Boxes and arrows of the drawing as a layered graph: what there is, in which column, in which order."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from flare23_lib.report.style import words

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
class Lane:
    """Where the arrows of one kind from one source pass through a column on their way to a later one."""

    source: Node
    kind: str
    column: int


Slot = Node | Lane
"""What has a place in a column."""

Columns = list[list[Slot]]
Segments = Sequence[tuple[Slot, Slot]]
"""Parts of arrows, each from a column to the next."""

_LETTERS_PER_LINE = 16
SWEEPS = 16


def edges_of(completions: Mapping[str, Mapping], train_on: Mapping[str, Mapping]) -> list[Edge]:
    """Return all arrows of a configuration's tables."""
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


def texts_of(
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


def column_numbers(nodes: Iterable[Node], edges: Iterable[Edge]) -> dict[Node, int]:
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


def chain_of(edge: Edge, columns_of: Mapping[Node, int]) -> list[Slot]:
    """Return the slots that an arrow passes, its ends among them; arrows of one source and kind share their lanes."""
    between = range(columns_of[edge.source] + 1, columns_of[edge.target])
    return [edge.source, *(Lane(edge.source, edge.kind, column) for column in between), edge.target]


def in_columns(columns_of: Mapping[Node, int], chains: Iterable[Sequence[Slot]]) -> Columns:
    """Return the columns with their nodes and, below them, the lanes that pass."""
    columns: Columns = [[] for _ in range(1 + max(columns_of.values(), default=0))]
    for node, column in columns_of.items():
        columns[column].append(node)
    for lane in dict.fromkeys(slot for chain in chains for slot in chain if isinstance(slot, Lane)):
        columns[lane.column].append(lane)
    return columns


# The order within columns


def _neighbors(segments: Segments) -> tuple[dict[Slot, list[Slot]], dict[Slot, list[Slot]]]:
    """Return the slots before and the slots after each slot."""
    before, after = defaultdict(list), defaultdict(list)
    for left, right in segments:
        after[left].append(right)
        before[right].append(left)
    return before, after


def in_order(columns: Columns, segments: Segments) -> Columns:
    """Return the columns in the best order that sweeps to the right and to the left find."""
    before, after = _neighbors(segments)
    best, best_cost = columns, _cost(_places(columns), segments)
    current = [list(column) for column in columns]
    for sweep in range(SWEEPS):
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


def _places(columns: Columns) -> dict[Slot, tuple[int, float]]:
    """Return each slot's column and where it lies in it, from 0 to 1."""
    return {
        slot: (number, (index + 0.5) / len(column))
        for number, column in enumerate(columns)
        for index, slot in enumerate(column)
    }


def _barycenter(slot: Slot, near: Sequence[Slot], places: Mapping[Slot, tuple[int, float]]) -> float:
    return fmean(places[other][1] for other in near) if near else places[slot][1]


def _swap(columns: Columns, before: Mapping[Slot, Sequence[Slot]], after: Mapping[Slot, Sequence[Slot]]) -> None:
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


def _cost(places: Mapping[Slot, tuple[int, float]], segments: Segments) -> tuple[int, float]:
    """Return how often segments cross and how far they climb; smaller is better."""
    by_gap = defaultdict(list)
    for left, right in segments:
        by_gap[places[left][0]].append((places[left][1], places[right][1]))
    crossings = sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0 for pairs in by_gap.values() for i, a in enumerate(pairs) for b in pairs[:i]
    )
    climb = sum(abs(left - right) for pairs in by_gap.values() for left, right in pairs)
    return crossings, round(climb, 6)
