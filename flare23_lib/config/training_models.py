"""Keys of the configuration about completions and models. Axes are (z, y, x)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, Tag, WithJsonSchema
from pydantic_core import PydanticKnownError

from flare23_lib.choices import OrientationMode, Precision, Windows
from flare23_lib.config.tables import (
    UNIQUE,
    Count,
    Millimeters,
    Names,
    NamesOrPresent,
    NotNegative,
    Number,
    PathText,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
    Table,
    Text,
    Voxels,
    word_or,
)
from flare23_lib.networks import NETWORKS, Architecture, STUNetArchitecture


class MergePolicy(Table):
    """How a merge decides where an original label and a prediction meet; the defaults are the paper's.

    Checks and stages follow from names: a key with `tumor` is for labels of that kind; the choice `ignore` makes
    voxels that are ignored, so does `if_sure`, which asks how the passes agree, as `min_agreement` does.
    """

    conflict_policy: Literal["background", "ignore"] = "background"
    """What happens to voxels that are predicted as an annotated class outside its annotation."""
    tumor_inside_organs: Literal["keep_organ", "ignore", "tumor", "if_sure"] = "keep_organ"
    """What happens to a tumor that is predicted inside an annotated organ, in cases without annotated tumors;
    if_sure: a tumor if the mirrored passes agree (min_tumor_agreement), else ignored. With a base, tumors that it
    predicted count as annotated: set unmarked_tumors to the same value."""
    unmarked_tumors: Literal["keep_original", "ignore", "tumor", "if_sure"] = "keep_original"
    """What happens to predicted tumors that touch no annotated one, in cases with annotated tumors; keep_original:
    their voxels are decided like all others."""
    min_tumor_agreement: PositiveShare = 0.9
    """Minimum share of agreeing mirrored passes, averaged over a tumor's voxels, for which if_sure accepts it."""
    min_agreement: Share = 0
    """Unannotated voxels are ignored where a smaller share of the mirrored passes agrees; 0 for never."""

    @property
    def chosen(self) -> dict[str, str | float]:
        """The policies that are not at their defaults, without `min_tumor_agreement`, which decides nothing alone."""
        values = {name: getattr(self, name) for name in MergePolicy.model_fields if name != "min_tumor_agreement"}
        return {name: value for name, value in values.items() if value != MergePolicy.model_fields[name].default}

    @property
    def asking_for_votes(self) -> list[str]:
        """The policies by which a merge needs to know how many passes agree at each voxel."""
        return [name for name, value in self.chosen.items() if value == "if_sure" or name == "min_agreement"]

    @property
    def may_ignore(self) -> bool:
        """Whether a merge may mark voxels to be ignored."""
        return bool(self.asking_for_votes or "ignore" in self.chosen.values())


class Completion(MergePolicy):
    """Labels of a category that a teacher completes."""

    category: Text
    """Category whose cases are completed."""
    teacher: Text
    """Model that predicts them."""
    base: Text | None = None
    """Another completion of the same category, on which this one builds."""
    annotated: NamesOrPresent | None = None
    """Classes that count as annotated in a case and are not extended: a list, or present for those that occur in it.
    By default what its category or source states, or present if they state nothing."""
    min_component_ml: dict[str, Positive] = Field({})
    """By label, the volume in ml below which components of pseudo-labels are dropped."""
    soft: bool = Field(default=False, exclude_if=lambda value: not value)
    """Where the teacher is unsure between two classes, learn both, each with its share of their probability."""


class Network(Table):
    """A STU-Net of 3 stages or more."""

    depth: Annotated[tuple[Count, ...], Strict(False)] = Field(min_length=3)
    """Blocks of each stage."""
    widths: Annotated[tuple[Count, ...], Strict(False)] = Field(min_length=3)
    """Channels of each stage."""


class IntensityValues(Table):
    """Intensity normalization, in HU."""

    low: Number
    """Lower values are clipped."""
    high: Number
    """Higher values are clipped."""
    mean: Number
    """Subtracted after clipping."""
    std: Positive
    """Divided by."""


def _network_name(value: Any) -> Any:
    """Refuse what is not in `NETWORKS`, as pydantic refuses what is not in a Literal."""
    if value not in NETWORKS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, NETWORKS))})
    return value


NetworkName = Annotated[
    str, BeforeValidator(_network_name), WithJsonSchema({"enum": list(NETWORKS), "type": "string"})
]
NetworkOrName = Annotated[
    Annotated[NetworkName, Tag(": nor a table")] | Annotated[Network, Tag(":a table")],
    word_or("a table"),
    Field(description="A network by name, or blocks and channels of each stage of a STU-Net."),
]
IntensityOrMeasure = Annotated[
    Annotated[Literal["measure"], Tag(": nor a table")] | Annotated[IntensityValues, Tag(":a table")],
    word_or("a table"),
    Field(description="Clipping range, mean and standard deviation in HU, or measure for those of the training set."),
]


class TumorCopies(Table):
    """Marked tumors that are copied into patches of cases in which they are annotated and absent."""

    label: Text
    """Label whose connected components are copied."""
    probability: PositiveShare = 0.3
    """Share of the patches of these cases that get a copy."""
    size: Annotated[tuple[PositiveShare, PositiveShare], Strict(False)] = (0.5, 1.0)
    """Smallest and largest size of a copy along each axis, in sizes of its original."""


class TrainingProtocol(Table):
    """How a model is trained (docs/training.md)."""

    epochs: Count = 1000
    """Epochs; the learning rate decays polynomially after each."""
    iterations_per_epoch: Count = 250
    """Batches per epoch."""
    validation_iterations: Count = 50
    """Batches of the training set scored after each epoch; no model is selected by them."""
    batch_size: Count = 2
    """Patches per batch."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the initial weights and the patches; on a GPU, where processes load patches, their order still differs
    from run to run."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Stochastic gradient descent with Nesterov momentum, or AdamW."""
    learning_rate: Positive = 0.01
    """Learning rate of the first epoch."""
    momentum: ShareBelowOne = 0.99
    """Momentum of sgd."""
    weight_decay: NotNegative = 3e-5
    """Weight decay of all parameters."""
    precision: Literal["auto", "mixed", "float32", "bfloat16"] = "auto"
    """auto is 16 bit where the device supports it natively (mixed on a GPU, bfloat16 on a CPU), else float32. mixed
    is nnU-Net's mode (float16 with scaled gradients on a GPU, float32 on a CPU). float32 is never TF32. A precision
    that the device only emulates is refused."""
    oversample_foreground: Share = 0.33
    """Share of a batch's patches that are forced onto foreground, rounded to whole patches as in nnU-Net (one of two
    above 0.25, both from 0.75)."""
    sampling: Literal["class_balanced", "nnunet"] = "class_balanced"
    """Target of a forced patch: each class equally often, or a class of a case drawn first."""
    loss: Literal["nnunet", "label_sets"] = Field(default="nnunet", exclude_if=lambda value: value == "nnunet")
    """nnunet treats unannotated structures as background; label_sets learns from cases in which different labels were
    annotated (docs/training.md)."""
    hidden_weight: Share = Field(default=0.01, exclude_if=lambda value: value == 0.01)
    """label_sets: weight of a class that the annotation of another may cover (`hidden_in`), relative to 1 for the
    annotated class; should be far below 1 over the number of such annotations (docs/training.md)."""
    targets: Literal["hard", "area", "native"] = Field(default="hard", exclude_if=lambda value: value == "hard")
    """hard: a label per voxel of the training grid; area: the share of each label in it, from finer labels; native:
    the logits are interpolated to the finer labels, as in inference, for the loss (docs/training.md)."""
    target_factor: Annotated[tuple[Count, Count, Count], Strict(False)] = Field(
        default=(1, 2, 2), exclude_if=lambda value: value == (1, 2, 2)
    )
    """Label voxels (z, y, x) per voxel of the training grid, for targets area and native."""

    @property
    def label_factor(self) -> tuple[int, int, int] | None:
        """The voxels (z, y, x) of labels in a voxel of the training's grid, where they are finer; else None."""
        return None if self.targets == "hard" else self.target_factor

    elastic_deformation: bool = False
    """Add elastic deformation to nnU-Net's augmentation."""
    copy_tumors: TumorCopies | None = None
    """Copy marked tumors into cases that are known to have none (docs/training.md)."""

    @property
    def needs_annotated(self) -> bool:
        """Whether it must be known which labels were annotated in each case."""
        return self.loss == "label_sets" or self.copy_tumors is not None

    mirror_axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Strict(False), *UNIQUE] = (0, 1, 2)
    """Axes of (z, y, x) along which training and test-time augmentation mirror."""


class InferenceSettings(Table):
    """How a model segments (docs/inference.md)."""

    tile_step_size: PositiveShare = 0.5
    """Distance of neighboring windows, as a share of the patch size."""
    tta: bool = False
    """Test-time augmentation: average over all combinations of the model's mirror_axes."""
    windows: Windows = "body"
    """Windows over the whole image, over the body, or by the paper's rule (first the most central window of each
    slab, the others only if it holds foreground)."""
    precision: Precision = "auto"
    """Precision of the network; logits are summed in float32. auto is 16 bit where the device supports it natively
    (bfloat16, on older GPUs float16), else float32. A precision that the device only emulates is refused."""


class ModelOptions(Table):
    """Settings of a model that have defaults."""

    orientation: OrientationMode = "stored"
    """Axes as stored in the file, or reoriented to LPS."""
    training: TrainingProtocol = TrainingProtocol()
    """How the model is trained (docs/training.md)."""
    inference: InferenceSettings = InferenceSettings()
    """How the model segments (docs/inference.md)."""
    ignore_label: Literal["auto", "always"] = "auto"
    """Add nnU-Net's ignore label to dataset.json, whose mere presence changes nnU-Net's sampling of background
    patches: only if a completion may write it (auto), or always, so that models differ only in their labels."""
    evaluate: bool = False
    """Predict the validation cases and score them."""


Edge = Annotated[int, Field(ge=4)]
"""Voxels of a patch along an axis: nnU-Net's blur reflects up to 3 of them at each border."""
PatchSize = Annotated[
    tuple[Edge, Edge, Edge], Strict(False), Field(description="Patch size (z, y, x) in voxels; 4 or more.")
]
Spacing = Annotated[Millimeters, Field(description="Voxel spacing (z, y, x) in mm.")]
Strides = Annotated[
    tuple[Voxels, ...],
    Strict(False),
    Field(description="Stride (z, y, x) of each stage; that of the first is 1, 1, 1."),
]


class ModelDefaults(ModelOptions):
    """Settings that every model has unless it has its own."""

    network: NetworkOrName | None = None
    patch_size: PatchSize | None = None
    spacing: Spacing | None = None
    strides: Strides | None = None
    intensity: IntensityOrMeasure | None = None


class TrainOn(Table):
    """What a model learns from."""

    manual_labels: Names = ()
    """Categories whose original labels it learns from."""
    label_completions: Names = ()
    """Completions whose labels it learns from."""


class PretrainedModel(Table):
    """Another model of the configuration."""

    model: Text
    """Model that is trained first."""


FileOrModel = Annotated[
    Annotated[PathText, Tag(": nor a table")] | Annotated[PretrainedModel, Tag(":a table")], word_or("a table")
]


class ModelSettings(ModelOptions):
    """A model."""

    network: NetworkOrName
    train_on: TrainOn
    """Labels that the model learns from."""
    pretrained: FileOrModel | None = None
    """Weights to start from: a file, the folder of a bundle, or another model of the configuration."""
    patch_size: PatchSize
    spacing: Spacing
    strides: Strides
    intensity: IntensityOrMeasure
    gpus: Count = 1
    """GPUs that share each batch of a training."""

    @property
    def architecture(self) -> Architecture:
        """The network; ConfigError if its values do not make one."""
        if isinstance(self.network, Network):
            return STUNetArchitecture.of(self.network.depth, self.network.widths, self.strides)
        return Architecture.named(self.network, self.strides)

    @property
    def pretrained_model(self) -> str | None:
        """The model of the configuration that this one starts from; None without one."""
        return self.pretrained.model if isinstance(self.pretrained, PretrainedModel) else None
