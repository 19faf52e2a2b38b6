"""The text of a new configuration: complete, commented, and nothing in it that its reader did not ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml

from flare23_lib.config.models import Shards
from flare23_lib.config.training_models import TrainingProtocol
from flare23_lib.starter.names import has_sides
from flare23_lib.starter.planner import NetworkPlan
from flare23_lib.starter.recognize import FolderSource

TEXT = Template("""\
# Written by `flare23 init`. It stands alone: nothing is inherited from config.yaml. All keys with their
# defaults are in docs/configuration.md, sources in docs/your_cohort.md.
recipe: none
cohort: $cohort
results: $results

# What is labeled. tolerance_mm: of the normalized surface Dice; kind: organ (default) or tumor; hidden_in:
# the labels that cover it in sources that did not label it.
labels:
$labels

# Where the cases come from, and what the values in each source's label files stand for. The labels of `values`
# were annotated in every case, unless `annotated` has a list of labels, or present, if it differs by case.
sources:
$sources

# Labeled cases that no model learns from; the student is scored on them.
validation: {share: 0.2, seed: 0}

# Groups of cases; the first that fits counts.
categories:
$categories

# Patch, spacing, strides and batch are those of nnU-Net's planner for a GPU of $gpu_gb GB and
# the images that were there (flare23 init --gpu-gb); they stay as they are when cases are added.
model_defaults:
  network: $network
  patch_size: $patch_size
  spacing: $spacing
  strides: $strides
  orientation: canonical    # every image is turned to one anatomical orientation (LPS)
  intensity: measure        # clipping range, mean and deviation of the labeled voxels
  training:
    epochs: 1000
    batch_size: $batch_size
    mirror_axes: $mirror_axes

$models

evaluation: {mode: plain}       # whole volumes, without the challenge's special rules
device: auto                    # a GPU if there is one
# Jobs per stage, by the number of cases that were there; another number computes nothing again.
shards: $shards
""")

HIDDEN_WEIGHT = float(TrainingProtocol.model_fields["hidden_weight"].default)

CASES_PER_SHARD = 10
"""Each job takes seconds to start."""

LABEL_SETS = "\n    loss: label_sets        # structures not annotated in a case do not count as background"


def configuration_text(
    cohort: Path,
    results: Path,
    labels: Sequence[Mapping[str, Any]],
    sources: Sequence[FolderSource],
    plan: NetworkPlan,
) -> str:
    """Return the text of a configuration for a cohort's folder, rows of `labels`, sources with their files, and a
    plan."""
    labeled = [source for source in sources if source.targets]
    every = {row["name"] for row in labels}
    is_partial = any(
        set(source.labels) != every
        or source.keys.get("annotated")
        or any(len(files) < len(source.targets) for files in source.files.masks.values())
        for source in labeled
    )
    has_unlabeled = any(source.has_unlabeled for source in sources)
    mirror_axes = "[0, 1]    # not along x: labels may tell right from left" if has_sides(every) else "[0, 1, 2]"
    cases = sum(len(source.files.images) + len(source.files.unlabeled_images) for source in sources)
    categories = [f"  - {_row({'name': source.name, 'sources': [source.name]})}" for source in labeled]
    left_out = () if is_partial else ("hidden_in",)
    rows = [{key: row[key] for key in _ORDER if key in row and key not in left_out} for row in labels]
    return TEXT.substitute(
        cohort=_json(str(cohort)),
        results=_json(str(results)),
        labels="\n".join(f"  - {_row(row)}" for row in rows),
        sources="\n".join(line for source in sources for line in _source(source)),
        categories="\n".join(categories + ["  - {name: unlabeled, no_labels: true}"] * has_unlabeled),
        gpu_gb=f"{plan.gpu_gb:g}",
        network=plan.network if isinstance(plan.network, str) else _row(plan.network),
        patch_size=_json(plan.patch_size),
        spacing=_json(plan.spacing),
        strides=_json(plan.strides),
        batch_size=plan.batch_size,
        mirror_axes=mirror_axes + (LABEL_SETS + _hidden_weight(rows)) * is_partial,
        shards=_row(shards_of(cases)),
        models=_models([_word(source.name) for source in labeled], is_partial, has_unlabeled),
    )


def shards_of(cases: int) -> dict[str, int]:
    """Return jobs per stage for some cases: one for `CASES_PER_SHARD` of them, but no more than the recipe has."""
    return {stage: min(most, max(1, cases // CASES_PER_SHARD)) for stage, most in Shards()}


def _hidden_weight(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line with the weight of tumors that many organs may hide; empty where the default is small enough."""
    most = max((len(row.get("hidden_in", ())) for row in rows), default=0)
    if most * HIDDEN_WEIGHT < 0.5:
        return ""
    return f"\n    hidden_weight: {0.5 / most:.4f}    # less than 1 by the {most} labels that may hide a tumor"


_ORDER = ("name", "value", "tolerance_mm", "kind", "hidden_in")


def _json(value: Any) -> str:
    """Return a value in one line of YAML; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _row(row: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return a table or a list in one line of YAML, texts without quotes where they need none."""
    return yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=1_000_000).rstrip()


def _word(text: str) -> str:
    """Return a text as YAML has it, in quotes where it would be something else."""
    return _row([text])[1:-1]


def _source(source: FolderSource) -> list[str]:
    lines = [f"  {_word(source.name)}:", *(f"    # {remark}" for remark in source.remarks)]
    lines += [f"    {key}: {_json(value)}" for key, value in source.keys.items() if key != "values"]
    if source.targets:
        lines.append("    values:")
    for value, target in source.targets.items():
        text = _row(target) if isinstance(target, Mapping) else "null" if target is None else _word(target)
        lines.append(f"      {value if value.isdigit() else _json(value)}: {text}")
    return lines


def _models(labeled: Sequence[str], is_partial: bool, has_unlabeled: bool) -> str:
    """Return `models` and, where labels are to be completed, `completions`; `labeled` are categories in YAML."""
    manual = f"manual_labels: [{', '.join(labeled)}]"
    if not is_partial and not has_unlabeled:
        return f"models:\n  student: {{train_on: {{{manual}}}, evaluate: true}}"
    completed = [*labeled] * is_partial + ["unlabeled"] * has_unlabeled
    learned = f"{'' if is_partial else f'{manual}, '}label_completions: [{', '.join(completed)}]"
    return "\n".join(
        [
            "# The teacher completes what was not labeled; the student learns from all of it.",
            "completions:",
            *(f"  {name}: {{category: {name}, teacher: teacher}}" for name in completed),
            "models:",
            f"  teacher: {{train_on: {{{manual}}}}}",
            f"  student: {{train_on: {{{learned}}}, evaluate: true}}",
        ]
    )
