"""The configured method as a graph: which model learns from what, whose labels a teacher completes.

It is drawn twice: as Mermaid text for the README, which GitHub renders, and as a figure for the page of a run, which
works offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from matplotlib.patches import FancyBboxPatch

from flare23_lib.config.settings import MethodSettings
from flare23_lib.report.style import INK, count, display_name, new_figure

COLORS = {
    "category": ("#eef2f6", "#55657a"),
    "model": ("#fdf1e4", "#b4540a"),
    "completed labels": ("#e5f4f1", "#0f756d"),
    "evaluation": ("#f3eef8", "#6b4a92"),
}
"""Fill and outline of a node by its kind. An arrow has the outline color of the node it starts from."""

ROW, BOX, LINE, LETTER, TRACK = 0.66, 0.56, 0.16, 0.082, 0.11
"""Inches: height of a row, its box and a line of text, width of a letter, distance of the tracks of arrows."""


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
    def lines(self) -> list[str]:
        """The text of its box: kind, name, cases; of the evaluation its name alone."""
        if self.cases is None:
            return [display_name(self.name)]
        return [self.kind, display_name(self.name), count(self.cases, "case")]


@dataclass(frozen=True)
class Graph:
    """Nodes, and edges from a node to one that is made from it."""

    nodes: list[Node]
    edges: list[tuple[Node, Node]]


def method_graph(settings: MethodSettings, cases: Mapping[str, int]) -> Graph:
    """Return the graph of a configuration, with the number of cases of each category; one not named has none."""
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


@dataclass(frozen=True)
class MethodLayout:
    """Places (x, y) of the graph's parts, in inches, y upwards."""

    boxes: dict[Node, tuple[float, float]]  # lower left corner of each box, `width` wide and `BOX` high
    lines: dict[tuple[Node, Node], list[tuple[float, float]]]  # corners of each edge, from source to target
    width: float


def arrange(graph: Graph) -> MethodLayout:
    """Give each node a row of its own, above and to the left of all that is made from it.

    A line follows its source's row, and then a track down to its target. No other box is in its way: a row has one
    box, and tracks are between columns.
    """
    targets: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for source, target in graph.edges:
        targets[source].append(target)

    @cache
    def steps(node: Node) -> int:
        """Return how many edges follow one another from a node on."""
        return max((1 + steps(target) for target in targets[node]), default=0)

    last = max(map(steps, graph.nodes))
    columns = {node: last - steps(node) if targets[node] or node.kind != "category" else 0 for node in graph.nodes}
    rows = sorted(graph.nodes, key=columns.__getitem__)
    width = 0.2 + LETTER * max(len(line) for node in rows for line in node.lines)
    boxes: dict[Node, tuple[float, float]] = {}
    tracks: dict[tuple[Node, bool], float] = {}
    left = 0.0
    for index in range(last + 1):
        members = [node for node in rows if columns[node] == index]
        ways = {(target, _keeps_labels(source, target)) for source, target in graph.edges if target in members}
        for way in sorted(ways, key=lambda way: (-rows.index(way[0]), not way[1])):
            left += TRACK  # the lowest node has the leftmost track, so that these do not cross
            tracks[way] = left
        left += 2 * TRACK * bool(ways)
        boxes |= {node: (left, -ROW * (rows.index(node) + 1)) for node in members}
        left += width + TRACK
    lines = {}
    for source, target in graph.edges:
        keeps = _keeps_labels(source, target)
        track, start = tracks[target, keeps], boxes[source][1] + BOX / 2
        end = boxes[target][1] + BOX * (0.7 if keeps else 0.4)
        corners = [(boxes[source][0] + width, start), (track, start), (track, end), (boxes[target][0], end)]
        lines[source, target] = corners
    return MethodLayout(boxes, lines, width)


def draw_method(path: Path, graph: Graph) -> None:
    """Write the graph as SVG and PNG: lines have the color of the node that they lead to."""
    layout = arrange(graph)
    width = max(x for x, _ in layout.boxes.values()) + layout.width + 0.1
    height = ROW * len(graph.nodes)
    with new_figure(path, width + 0.1, height + 0.2) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.1, width), ylim=(-height - 0.1, 0.1))
        axes.axis("off")
        for (source, target), corners in layout.lines.items():
            color, style = COLORS[target.kind][1], ":" if _keeps_labels(source, target) else "-"
            axes.plot(*zip(*corners, strict=True), color=color, linestyle=style, linewidth=1.2)
            axes.plot(*corners[1], ".", color=color, markersize=5)
            axes.plot(corners[-1][0] - 0.04, corners[-1][1], ">", color=color, markersize=5)
        for node, (x, y) in layout.boxes.items():
            fill, outline = COLORS[node.kind]
            shape = f"round,pad=0,rounding_size={0.12 if node.kind == 'model' else 0.02}"
            axes.add_patch(FancyBboxPatch((x, y), layout.width, BOX, shape, facecolor=fill, edgecolor=outline))
            for index, line in enumerate(node.lines):
                weight = "bold" if line == display_name(node.name) else "normal"
                height = y + BOX / 2 + LINE * ((len(node.lines) - 1) / 2 - index)
                axes.text(x + layout.width / 2, height, line, ha="center", va="center_baseline", fontsize=8.5,
                          fontweight=weight, color=INK)  # fmt: skip
