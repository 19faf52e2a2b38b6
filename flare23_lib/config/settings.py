"""What each stage is made from: settings cut out of a checked configuration.

The settings of a stage are what shapes its result and nothing else: in the workflow they are parameters of its jobs,
and part of its fingerprint in the store. What only changes how the work is done (shards, device) is never among them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, Strict

from flare23_lib.choices import EvaluationMode, OrientationMode, References
from flare23_lib.config.cohort_models import Category, LabelRow, QualityIssues, Scan, Source, ValidationDraw
from flare23_lib.config.tables import Millimeters, Names, Positive, Share, Table, Voxels
from flare23_lib.config.training_models import (
    Completion,
    IntensityOrMeasure,
    MergePolicy,
    TrainingProtocol,
    TrainOn,
)
from flare23_lib.networks import Architecture

Values = Annotated[tuple[int, ...], Strict(False)]
"""Label values."""
Labels = Annotated[tuple[LabelRow, ...], Strict(False)]
Made = Annotated[
    InstanceOf[Architecture],
    BeforeValidator(lambda value: Architecture.from_json(value) if isinstance(value, dict) else value),
    PlainSerializer(Architecture.to_json),
]
"""An architecture, also from its JSON."""
AnnotatedValues = Literal["present", "only_present"] | Values
"""Label values that count as annotated in a case: these; `present` for those that its category or source states, else
those that occur in it; `only_present` for the latter."""
SOFT = Field(default=False, exclude_if=lambda value: not value)


class CohortSettings(Table):
    """What shapes cases.csv, the cohort's folder aside."""

    sources: dict[str, Source]
    validation: ValidationDraw | None = None
    labels: Labels
    categories: Annotated[tuple[Category, ...], Strict(False)]
    scan: Scan
    quality_issues: QualityIssues


class TrainingSet(Table):
    """The cases of a model's training set, on which its intensity is measured, too: categories and completions,
    sorted."""

    manual_labels: Names
    label_completions: Names


class LabelSets(Table):
    """Where the annotated labels of a model's completed cases follow from.

    Attributes:
        label_completions: by completion, the teachers whose labels it holds: what they know is annotated.
        stated: by completion, what it states of the original labels, if that is not `present`.
    """

    label_completions: dict[str, Names]
    stated: dict[str, AnnotatedValues] = Field(default={}, exclude_if=lambda value: not value)


class PreprocessingSettings(TrainingSet):
    """What shapes a model's preprocessed cases, and which cases they are.

    Attributes:
        label_sets: what is annotated in them, for trainings that must know it (`TrainingProtocol.needs_annotated`).
        label_factor: voxels (z, y, x) of labels in a voxel of the grid; None for one.
        soft: the completions whose labels are soft; None without any.
    """

    spacing: Millimeters
    orientation: OrientationMode
    intensity: IntensityOrMeasure
    label_values: Values
    label_sets: LabelSets | None = None
    label_factor: Voxels | None = None
    soft: Names | None = None


class TrainingSettings(Table):
    """What shapes a model's weights, its data aside.

    Attributes:
        ignore_label: whether dataset.json has nnU-Net's ignore label.
        pretrained: digest of the file of initial weights; None without one.
        hidden_in: by label value (as text), the values of the labels that cover it in cases in which it is not
            annotated; None where `label_sets` is.
        soft: whether labels of the training set are soft.
    """

    network: Made
    patch_size: Voxels
    spacing: Millimeters
    orientation: OrientationMode
    intensity: IntensityOrMeasure
    label_values: Values
    ignore_label: bool
    training: TrainingProtocol
    pretrained: str | None = None
    hidden_in: dict[str, Values] | None = None
    soft: bool = SOFT


class PseudoLabelSettings(Table):
    """What a completion needs of its teacher; nothing else of a completion segments a case again.

    Attributes:
        votes: whether the votes of the mirrored passes are needed.
        soft: whether soft labels are needed.
    """

    category: str
    votes: bool
    soft: bool = SOFT


class CompletionSettings(MergePolicy):
    """What shapes a completion's labels, teacher and base aside.

    Attributes:
        annotated: label values that count as annotated.
        min_component_ml: by label value (as text), the volume below which components are dropped.
        label_values: of all labels, in order.
        hidden_in: by value of a tumor (as text), those of the organs that it can be in, where the policy may put it
            into them; empty where it cannot, or into any.
        soft: whether the labels are soft where the teacher hesitates.
    """

    category: str
    annotated: AnnotatedValues
    min_component_ml: dict[str, Positive]
    label_values: Values
    tumor_values: Values
    hidden_in: dict[str, Values] = Field(default={}, exclude_if=lambda value: not value)
    soft: bool = SOFT
    leave_out: None = None  # as of version 0.1: fingerprints stay the same

    def to_json(self, by_alias: bool = True) -> dict[str, Any]:
        """Return the settings as plain data; `leave_out` is there, too."""
        return {"leave_out": None, **super().to_json(by_alias)}


class EvaluationSettings(Table):
    """How predictions are scored."""

    mode: EvaluationMode
    min_dsc_for_nsd: Share
    references: References
    details: bool
    labels: Labels


class TablesSettings(EvaluationSettings):
    """What the paper's tables are made of: evaluated models, pairs of them that are compared case by case, and
    whether the inference of single cases is measured."""

    models: Names
    compare: Annotated[tuple[Annotated[tuple[str, str], Strict(False)], ...], Strict(False)]
    measured: bool


class MethodModel(Table):
    """What the drawing of the method shows of a model."""

    train_on: TrainOn
    evaluate: bool


class MethodSettings(Table):
    """What the drawing of the method is made of."""

    categories: Annotated[tuple[Category, ...], Strict(False)]
    completions: dict[str, Completion]
    models: dict[str, MethodModel]
