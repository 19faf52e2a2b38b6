"""The text of a new configuration: complete, commented, and nothing in it that its reader did not ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare23_lib.starter.planner import NetworkPlan


@dataclass(frozen=True)
class DraftSource:
    """A source as it is written.

    Attributes:
        name: its name.
        keys: patterns, and what else it has but `values`.
        values: what its values stand for.
        remarks: comments above it.
        has_unlabeled: whether it has images without labels.
    """

    name: str
    keys: Mapping[str, Any]
    values: Mapping[str, Any]
    remarks: Sequence[str] = ()
    has_unlabeled: bool = False

    @property
    def is_labeled(self) -> bool:
        """Whether it has labels."""
        return bool(self.values)

    @property
    def labels(self) -> frozenset[str]:
        """The labels that its values stand for."""
        found = [value["sides"] if isinstance(value, Mapping) else [value] for value in self.values.values()]
        return frozenset(name for names in found for name in names if name not in (None, "ignore", "background"))


@dataclass(frozen=True)
class Draft:
    """What a new configuration is written from.

    Attributes:
        cohort: folder that patterns begin in.
        results: folder of the results.
        labels: rows of `labels`.
        sources: the sources.
        plan: of the network.
        gpu_gb: memory of the GPU that it was planned for, in GB.
    """

    cohort: Path
    results: Path
    labels: Sequence[Mapping[str, Any]]
    sources: Sequence[DraftSource]
    plan: NetworkPlan
    gpu_gb: float

    @property
    def labeled(self) -> list[DraftSource]:
        """The sources with labels."""
        return [source for source in self.sources if source.is_labeled]

    @property
    def is_partial(self) -> bool:
        """Whether sources have different labels, or which of them were looked for differs by case."""
        every = frozenset(row["name"] for row in self.labels)
        return any(source.labels != every or source.keys.get("annotated") for source in self.labeled)

    @property
    def has_sides(self) -> bool:
        """Whether labels tell right from left."""
        return any(row["name"].startswith(("right_", "left_")) for row in self.labels)


def write_text_of(draft: Draft) -> str:
    """Return the file."""
    parts = [_head(draft), _labels(draft), _sources(draft), _categories(draft), _models(draft), _rest()]
    return "\n".join(line for part in parts for line in part) + "\n"


def _flow(value: Any) -> str:
    """Return a value in one line of YAML; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _row(row: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{key}: {_plain(value)}' for key, value in row.items())}}}"


def _plain(value: Any) -> str:
    """Return a name, a number, or a list of them, as one would write it."""
    if isinstance(value, str):
        return value
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list | tuple) else _flow(value)


def _head(draft: Draft) -> list[str]:
    return [
        "# Written by `flare23 init`. It stands alone: nothing is inherited from config.yaml. All keys with their",
        "# defaults are in docs/configuration.md, sources in docs/your_cohort.md.",
        "recipe: none",
        f"cohort: {_flow(str(draft.cohort))}",
        f"results: {_flow(str(draft.results))}",
        "",
    ]


def _labels(draft: Draft) -> list[str]:
    kept = [
        key
        for key in ("name", "value", "tolerance_mm", "kind", "hidden_in")
        if draft.is_partial or key != "hidden_in"
    ]
    rows = [{key: row[key] for key in kept if key in row} for row in draft.labels]
    return [
        "# What is labeled. tolerance_mm: of the normalized surface Dice; kind: organ (default) or tumor; hidden_in:",
        "# the labels that cover it in sources that did not label it.",
        "labels:",
        *(f"  - {_row(row)}" for row in rows),
        "",
    ]


def _sources(draft: Draft) -> list[str]:
    lines = [
        "# Where the cases come from, and what the values in each source's label files stand for. What `values` has",
        "# was looked for in every case, unless `annotated` has a list of labels, or present, if it differs by case.",
        "sources:",
    ]
    for source in draft.sources:
        lines.append(f"  {source.name}:")
        lines += [f"    # {remark}" for remark in source.remarks]
        lines += [f"    {key}: {_flow(value)}" for key, value in source.keys.items()]
        if source.values:
            lines.append("    values:")
            lines += [f"      {_key(value)}: {_target(target)}" for value, target in source.values.items()]
    return [
        *lines,
        "",
        "# Labeled cases that no model learns from; the student is scored on them.",
        "validation: {share: 0.2, seed: 0}",
        "",
    ]


def _key(value: str) -> str:
    return value if value.isdigit() else _flow(value)


def _target(target: Any) -> str:
    return (
        "null"
        if target is None
        else f"{{sides: [{', '.join(target['sides'])}]}}"
        if isinstance(target, Mapping)
        else target
    )


def _categories(draft: Draft) -> list[str]:
    lines = ["# Groups of cases; the first that fits counts.", "categories:"]
    lines += [f"  - {{name: {source.name}, sources: [{source.name}]}}" for source in draft.labeled]
    if any(source.has_unlabeled or not source.is_labeled for source in draft.sources):
        lines.append("  - {name: unlabeled, no_labels: true}")
    return [*lines, ""]


def _models(draft: Draft) -> list[str]:
    plan = draft.plan
    network = plan.network if isinstance(plan.network, str) else _row(plan.network)
    names = [source.name for source in draft.labeled]
    mirror = "[0, 1]" if draft.has_sides else "[0, 1, 2]"
    lines = [
        f"# Patch, spacing, strides and batch are those of nnU-Net's planner for a GPU of {draft.gpu_gb:g} GB and",
        "# the images that were there (flare23 init --gpu-gb); they stay as they are when cases are added.",
        "model_defaults:",
        f"  network: {network}",
        f"  patch_size: {_flow(plan.patch_size)}",
        f"  spacing: {_flow(plan.spacing)}",
        f"  strides: {_flow(plan.strides)}",
        "  orientation: canonical    # every image is turned to one anatomical orientation (LPS)",
        "  intensity: measure        # clipping range, mean and deviation of the labeled voxels",
        "  training:",
        "    epochs: 1000",
        f"    batch_size: {plan.batch_size}",
        f"    mirror_axes: {mirror}" + ("    # not along x: labels tell right from left" if draft.has_sides else ""),
    ]
    if draft.is_partial:
        lines.append("    loss: label_sets        # what was not looked for in a case is not taken for background")
    lines.append("")
    has_unlabeled = any(source.has_unlabeled or not source.is_labeled for source in draft.sources)
    if not draft.is_partial and not has_unlabeled:
        return [
            *lines,
            "models:",
            f"  student: {{train_on: {{manual_labels: [{', '.join(names)}]}}, evaluate: true}}",
            "",
        ]
    completed = [*(names if draft.is_partial else []), *(["unlabeled"] if has_unlabeled else [])]
    kept = [] if draft.is_partial else names
    learned = ", ".join(
        [*([f"manual_labels: [{', '.join(kept)}]"] if kept else []), f"label_completions: [{', '.join(completed)}]"]
    )
    return [
        *lines,
        "# The teacher completes what was not labeled; the student learns from all of it.",
        "completions:",
        *(f"  {name}: {{category: {name}, teacher: teacher}}" for name in completed),
        "models:",
        f"  teacher: {{train_on: {{manual_labels: [{', '.join(names)}]}}}}",
        f"  student: {{train_on: {{{learned}}}, evaluate: true}}",
        "",
    ]


def _rest() -> list[str]:
    return [
        "evaluation: {mode: plain}       # whole volumes, without the challenge's special rules",
        "device: auto                    # a GPU if there is one",
    ]
