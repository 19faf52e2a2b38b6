"""All keys of the configuration: types, choices, ranges, defaults and descriptions, each in one place.

`docs/configuration.md` is generated from here (`scripts/configuration_docs.py`); what one key alone cannot show is in
`checks.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from flare23_lib.choices import EvaluationMode, References
from flare23_lib.config.cohort_models import Category, LabelRow, QualityIssues, Scan, Source, ValidationDraw
from flare23_lib.config.tables import Identifier, Natural, Pair, PathText, Positive, Share, Table, Text, results_path
from flare23_lib.config.training_models import Completion, ModelDefaults, ModelSettings
from flare23_lib.runtime import devices


class Evaluation(Table):
    """How the models with `evaluate: true` are scored."""

    mode: EvaluationMode = "flare23"
    """The challenge's rules, or whole volumes without special rules."""
    min_dsc_for_nsd: Share = 0.2
    """In mode flare23, NSD = 0 for a structure with a DSC below this. The challenge's script has used 0.2 since March
    2024; it used 0.1 when FLARE23's published results were made."""
    references: References = "complete"
    """References are complete, or partial: then a structure that does not occur in a reference is not scored in it,
    unless its source states that it was annotated."""
    details: bool = False
    """Write HD95, volumes and detected tumors to tables of their own."""
    compare: Annotated[tuple[Pair, ...], Strict(False)] = ()
    """Pairs of evaluated models that are compared case by case."""
    efficiency_cases: Natural = 0
    """Number of validation cases whose inference is measured."""


class Report(Table):
    """The page of the run (docs/report.md)."""

    viewer_cases: Natural = 20
    """Validation cases in the CT viewer, evenly from the best to the worst."""


class ModelCard(Table):
    """What the card of each model says beside what is known of it."""

    license: Text = "not stated; ask those who trained the model"
    """License of the weights."""
    intended_use: Text = "Research on segmentation of CT images."
    """Intended use of the models."""
    contact: Text = "not stated"
    """Contact for the models."""


ShardCount = Annotated[int, Field(ge=1, le=10_000)]


class Shards(Table):
    """Jobs per stage."""

    preprocessing: ShardCount = 8
    """For each training set."""
    pseudo_labels: ShardCount = 16
    """For each completion."""
    predictions: ShardCount = 4
    """For each evaluated model."""


class Configuration(Table):
    """All keys of the configuration."""

    recipe: Literal["paper", "none"] = Field("paper", exclude_if=lambda value: value == "paper")
    """none: nothing is inherited from `config.yaml`; the file is self-contained."""
    smoke: bool = Field(False, exclude_if=lambda value: not value)
    """Test that everything runs: tiny networks on a few cases, written to a folder `smoke` beside the results."""
    cohort: PathText
    """Folder of the cohort; the sources' patterns are relative to it, unless they are absolute."""
    results: Annotated[PathText, AfterValidator(results_path)] = "results"
    """Folder of all outputs."""
    sources: dict[Identifier, Source] = Field(min_length=1)
    """Where the cases come from, and what each source's label files mean."""
    validation: ValidationDraw | None = None
    """Labeled cases that are drawn for validation, in addition to the sources' `validation_images`."""
    labels: Annotated[tuple[LabelRow, ...], Strict(False)] = Field(min_length=1, max_length=254)
    """Structures that can be labeled."""
    categories: Annotated[tuple[Category, ...], Strict(False)] = Field(min_length=1)
    """Categories of cases, by the labels present in a case, its source, the folder of its image and its name. The
    first match wins."""
    scan: Scan = Scan()
    """How the files of the cohort are read."""
    quality_issues: QualityIssues = QualityIssues()
    """Severity of each kind of quality issue, limited to what later stages can handle."""
    completions: dict[Identifier, Completion] = Field({})
    """Which teacher completes the labels of which category, and by which policy (docs/method.md)."""
    model_defaults: ModelDefaults = ModelDefaults()
    """Settings that every model has unless it has its own."""
    models: dict[Identifier, ModelSettings] = Field(min_length=1)
    """Models, and what each learns from."""
    evaluation: Evaluation = Evaluation()
    """How the models with `evaluate: true` are scored."""
    report: Report = Report()
    """The report of the run (docs/report.md)."""
    model_card: ModelCard = ModelCard()
    """`models/{model}/README.md` (docs/predict.md)."""
    shards: Shards = Shards()
    """Jobs per stage."""
    device: str = Field("auto", pattern=devices.PATTERN)
    """Where networks run: auto (a GPU if there is one), cpu, cuda, cuda:N (the GPU of that number, from 0) or mps
    (Apple's GPU)."""
    max_training_restarts: Natural = 30
    """How often a training that ended before its last epoch is restarted, from its last checkpoint."""
    checkpoint_interval_minutes: Positive = 10
    """Minutes between checkpoints: the longest training time that a kill can cost."""
