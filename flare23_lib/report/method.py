"""The configured method as a graph: which model learns from what, whose labels a teacher completes.

The graph has two renderers: Mermaid text for the README, which GitHub draws, and a figure for the report page, which
has to work offline.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from flare23_lib.config.settings import MethodSettings
from flare23_lib.report.style import INK, STYLE, apart, save_figure, words

COLORS = {
    "category": ("#eef2f6", "#55657a"),
    "model": ("#fdf1e4", "#b4540a"),
    "completed labels": ("#e5f4f1", "#0f756d"),
    "evaluation": ("#f3eef8", "#6b4a92"),
}
"""Fill and outline of a node by its kind. An arrow has the outline color of the node it starts from."""

BOX, GAP, LINE, APART, MARGIN = 1.3, 0.5, 0.16, 0.14, 0.1
"""Inches: width of a box, distance of columns, height of a line of text, distance of boxes in a column, margin."""

LETTERS = 14
"""Letters of a name that a box is wide enough for."""

SWEEPS = 24
"""Passes over the columns that find the heights of the boxes."""


@dataclass(frozen=True)
class Node:
    """A category, a model, a completion's labels or the evaluation.

    Attributes:
        kind: a key of `COLORS`.
        name: as in the configuration.
        cases: number of cases in a category or completion, or that a model learns from; None for the evaluation.
    """

    kind: str
    name: str
    cases: int | None

    @property
    def name_lines(self) -> list[str]:
        """Its name in lines that fit into a box."""
        return textwrap.wrap(words(self.name), LETTERS)

    @property
    def lines(self) -> list[str]:
        """All text of its box."""
        if self.cases is None:
            return self.name_lines
        return [self.kind, *self.name_lines, f"{self.cases:,} case{'s' * (self.cases != 1)}"]


@dataclass(frozen=True)
class Graph:
    """Nodes, and edges from a node to one that is made from it."""

    nodes: list[Node]
    edges: list[tuple[Node, Node]]


def method_graph(settings: MethodSettings, cases: Mapping[str, int]) -> Graph:
    """Return the graph of a configuration.

    Args:
        settings: categories, completions and models of a configuration.
        cases: number of cases by category; a category that is not named has none.
    """
    categories = {row.name: Node("category", row.name, cases.get(row.name, 0)) for row in settings.categories}
    completions = {
        name: Node("completed labels", name, categories[row.category].cases)
        for name, row in settings.completions.items()
    }
    sources = {
        name: [
            *(categories[item] for item in model.train_on.manual_labels),
            *(completions[item] for item in model.train_on.label_completions),
        ]
        for name, model in settings.models.items()
    }
    models = {name: Node("model", name, sum(node.cases or 0 for node in found)) for name, found in sources.items()}
    edges = [(node, models[name]) for name, found in sources.items() for node in found]
    for name, row in settings.completions.items():
        edges.append((completions[row.base] if row.base else categories[row.category], completions[name]))
        edges.append((models[row.teacher], completions[name]))
    evaluation = Node("evaluation", "evaluation", None)
    evaluated = [(models[name], evaluation) for name, model in settings.models.items() if model.evaluate]
    nodes = [*categories.values(), *models.values(), *completions.values(), *([evaluation] if evaluated else [])]
    return Graph(nodes, [*edges, *evaluated])


def _keeps_labels(source: Node, target: Node) -> bool:
    """Whether an edge stands for labels that a completion keeps; these edges are dotted."""
    return target.kind == "completed labels" and source.kind != "model"


def mermaid(graph: Graph) -> str:
    """Return the graph as Mermaid text."""
    names = {node: f"{node.kind.split()[0]}_{node.name}" for node in graph.nodes}
    lines = ["flowchart LR"]
    for node, name in names.items():
        shape = '("{}")' if node.kind == "model" else '["{}"]'
        lines.append(f"    {name}{shape.format('<br>'.join(node.lines))}:::{node.kind.split()[0]}")
    for source, target in graph.edges:
        arrow = "-.->" if _keeps_labels(source, target) else "-->"
        lines.append(f"    {names[source]} {arrow} {names[target]}")
    for kind, (fill, outline) in COLORS.items():
        lines.append(f"    classDef {kind.split()[0]} fill:{fill},stroke:{outline},color:{INK}")
    return "\n".join(lines) + "\n"


# The figure


@dataclass(frozen=True)
class Lane:
    """Where arrows of one source pass through a column on their way to a later one."""

    source: Node
    dashed: bool
    column: int


Slot = Node | Lane
"""What has a place in a column."""


def draw_method(path: Path, graph: Graph) -> None:
    """Write the graph as SVG and PNG; the same graph gives the same bytes.

    Args:
        path: of the SVG.
        graph: of `method_graph`.
    """
    with matplotlib.rc_context(STYLE):
        save_figure(path, method_figure(graph))


def method_figure(graph: Graph) -> Figure:
    """Draw the graph: boxes in columns, arrows from left to right.

    A node stands in the last column from which it can reach everything that needs it. An arrow that spans several
    columns has a lane of its own in those between, so that none runs through a box.
    """
    columns, chains = _layers(graph)
    heights = _heights(columns, chains)
    lefts = {slot: index * (BOX + GAP) for index, column in enumerate(columns) for slot in column}
    top = max(height + _size(slot) / 2 for slot, height in heights.items()) + MARGIN
    bottom = min(height - _size(slot) / 2 for slot, height in heights.items()) - MARGIN
    right = len(columns) * (BOX + GAP) - GAP
    figure = Figure(figsize=(right + 2 * MARGIN, top - bottom), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-MARGIN, right + MARGIN), ylim=(bottom, top))
    axes.axis("off")
    for chain in chains:
        _draw_arrow(axes, chain, [(lefts[slot], heights[slot]) for slot in chain])
    for node in graph.nodes:
        _draw_box(axes, node, lefts[node], heights[node])
    return figure


def _layers(graph: Graph) -> tuple[list[list[Slot]], list[list[Slot]]]:
    """Return the columns from left to right, and for each edge the slots that it passes, its ends included."""
    targets = defaultdict(list)
    for source, target in graph.edges:
        targets[source].append(target)

    @cache
    def distance(node: Node) -> int:
        return max((1 + distance(target) for target in targets[node]), default=0)

    distances = {node: distance(node) for node in graph.nodes}
    last = max(distances.values(), default=0)
    place = {node: last - distances[node] if targets[node] or node.kind != "category" else 0 for node in graph.nodes}
    chains: list[list[Slot]] = []
    for source, target in graph.edges:
        between = range(place[source] + 1, place[target])
        lanes = [Lane(source, _keeps_labels(source, target), column) for column in between]
        chains.append([source, *lanes, target])
    lanes = dict.fromkeys(slot for chain in chains for slot in chain[1:-1])
    columns: list[list[Slot]] = [[node for node in graph.nodes if place[node] == index] for index in range(last + 1)]
    for lane in lanes:
        columns[lane.column].append(lane)
    return columns, chains


def _size(slot: Slot) -> float:
    """Return the height of a slot in inches."""
    return LINE * (len(slot.lines) + 0.8) if isinstance(slot, Node) else 0.0


def _heights(columns: Sequence[Sequence[Slot]], chains: Sequence[Sequence[Slot]]) -> dict[Slot, float]:
    """Return the height of each slot's middle in inches.

    Sweeps to the right and to the left order each column by the mean heights of the slots that theirs are joined to
    (barycenter method; Sugiyama et al. 1981); the last ones look at both sides.
    """
    before, after = defaultdict(set), defaultdict(set)
    for chain in chains:
        for left, right in pairwise(chain):
            before[right].add(left)
            after[left].add(right)
    heights = {slot: -float(index) for column in columns for index, slot in enumerate(column)}
    both = {slot: before[slot] | after[slot] for slot in heights}
    for sweep in range(SWEEPS):
        near = (before, after)[sweep % 2] if sweep < SWEEPS / 2 else both
        for column in (columns, columns[::-1])[sweep % 2]:
            joined = {slot: near[slot] or both[slot] or {slot} for slot in column}
            wanted = {slot: fmean(heights[other] for other in joined[slot]) for slot in column}
            heights |= _apart(wanted)
    return heights


def _apart(wanted: Mapping[Slot, float]) -> dict[Slot, float]:
    """Return the heights nearest to those wanted, in the same order from the top, with which no two slots touch."""
    slots = sorted(wanted, key=lambda slot: -wanted[slot])
    steps = [(_size(upper) + _size(lower)) / 2 + APART for upper, lower in pairwise(slots)]
    places = apart([-wanted[slot] for slot in slots], steps)
    return dict(zip(slots, map(float, -places), strict=True))


def _draw_arrow(axes: Axes, chain: Sequence[Slot], places: Sequence[tuple[float, float]]) -> None:
    """Draw an edge: a curve across each gap between columns, a straight line along each lane."""
    points, codes = [(places[0][0] + BOX, places[0][1])], [Curve.MOVETO]
    for (left, height), (right, goal) in pairwise(places):
        middle = (left + BOX + right) / 2
        points += [(middle, height), (middle, goal), (right, goal), (right + BOX, goal)]
        codes += [Curve.CURVE4] * 3 + [Curve.LINETO]
    axes.add_patch(
        FancyArrowPatch(
            path=Curve(points[:-1], codes[:-1]),
            arrowstyle="-|>",
            mutation_scale=9,
            color=COLORS[chain[0].kind][1],
            linestyle=":" if _keeps_labels(chain[0], chain[-1]) else "-",
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
        )
    )


def _draw_box(axes: Axes, node: Node, left: float, height: float) -> None:
    fill, outline = COLORS[node.kind]
    rounding = 0.12 if node.kind == "model" else 0.02
    bottom = height - _size(node) / 2
    axes.add_patch(
        FancyBboxPatch((left, bottom), BOX, _size(node), boxstyle=f"round,pad=0,rounding_size={rounding}",
                       facecolor=fill, edgecolor=outline, linewidth=1.2)
    )  # fmt: skip
    for index, line in enumerate(node.lines):
        bold = "bold" if line in node.name_lines else "normal"
        y = height + LINE * ((len(node.lines) - 1) / 2 - index)
        axes.text(left + BOX / 2, y, line, ha="center", va="center_baseline", fontsize=9, fontweight=bold, color=INK)
