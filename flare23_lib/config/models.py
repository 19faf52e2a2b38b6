"""The keys of the configuration: types, choices, ranges, defaults and descriptions, each in one place.

`config.schema.yaml` and `docs/configuration.md` are generated from here (`scripts/configuration_docs.py`); what one
key alone cannot show is in `checks.py`. Axes are (z, y, x).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flare23_lib import labels as structures
from flare23_lib.cache.entries import Shard
from flare23_lib.choices import EvaluationMode, LabelKind, OrientationMode, Precision, References, Scored, Windows
from flare23_lib.errors import ConfigError
from flare23_lib.io.patterns import FilePattern
from flare23_lib.labels import LabelMap
from flare23_lib.networks import Architecture, NetworkName
from flare23_lib.runtime import devices

PASSES = "passes"
"""In the place of a completion's name: labels are compared between the teacher's mirrored passes."""

IDENTIFIER, FILE_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*$", r"\{case(:[^{}]*)?\}.*(\.nii(\.gz)?|\*)$"
"""What names look like, and what patterns of files look like."""

PATTERN_KEYS = ("images", "labels", "masks", "unlabeled_images", "validation_images", "validation_labels")
"""Keys of a source that hold patterns of files."""

IGNORE, BACKGROUND = "ignore", "background"
"""What a source's value can stand for beside a label."""

OLD_NAMES = {
    "base": "on_top_of",
    "checkpoint_interval_minutes": "checkpoint_minutes",
    "conflict_policy": "dropped_to",
    "exclude_most_changed": "leave_out",
    "label_completions": "completions",
    "manual_labels": "originals",
    "max_training_restarts": "retries",
    "min_agreement": "unsure_below",
    "min_component_ml": "least_volume_ml",
    "min_tumor_agreement": "sure_from",
    "quality_issues": "faults",
    "subset": "part",
    "tile_step_size": "step",
}
"""Key -> its name up to version 0.1. For one more release, configurations may have the old names
(`load.with_new_names`). Files of settings and the store's fingerprints keep them: with new names they would be other
fingerprints, and what a user has computed would be computed again."""


class Table(BaseModel):
    """A table of the configuration, or one derived from it: checked, frozen, without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=lambda name: OLD_NAMES.get(name, name),
        validate_by_name=True,
        loc_by_alias=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values())}
        unknown = sorted(set(values) - known, key=str) if isinstance(values, Mapping) else []
        if unknown:
            names = {"unknown": ", ".join(map(repr, unknown)), "known": ", ".join(sorted(cls.model_fields))}
            raise PydanticCustomError("unknown_key", "there is no key {unknown}; there are {known}", names)
        return values

    @classmethod
    def of(cls, *tables: Table, **values: Any) -> Self:
        """Return a table with the values of the keys that other tables have too, and those given by name."""
        found = {name: getattr(table, name) for table in tables for name in cls.model_fields if hasattr(table, name)}
        return cls.model_validate(found | values)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read what `to_json` returned; ValueError if it is something else."""
        return cls.model_validate(content)

    def to_json(self, by_alias: bool = True) -> dict[str, Any]:
        """Return the table as plain data, without keys that were not given and have no default.

        Args:
            by_alias: name keys as in fingerprints (`OLD_NAMES`); otherwise as in the configuration.
        """
        return json.loads(json.dumps(self.model_dump(exclude_none=True, by_alias=by_alias)))


def _as_given(value: Any, check: Callable[[Any], float]) -> Any:
    """Keep a whole number an integer: as a float it would be another setting, with another fingerprint."""
    check(value)
    return value


def _unique(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise PydanticCustomError("unique", "{values} has an entry twice", {"values": str(list(values))})
    return values


def subset_of(text: str) -> Shard:
    """Read `0/2` or `1/2`, for halves; ValueError if it is something else."""
    index, total = text.split("/")
    return Shard.parse(f"{index}-of-{total}")


def _subset(text: str) -> str:
    try:
        subset_of(text)
    except ValueError as error:
        message = "{text} is not a part such as 0/2 or 1/2, counted from 0"
        raise PydanticCustomError("subset", message, {"text": repr(text)}) from error
    return text


def _word_or(group: str) -> Discriminator:
    """Tell a word from a table or a list; the tags are part of the place of an error (`load.explain`)."""
    return Discriminator(
        lambda value: f":{group}" if isinstance(value, Mapping | Table | list | tuple) else f": nor {group}"
    )


def _path(text: str) -> str:
    """Replace `~` as shells do; names of variables are refused: a folder of that name would be made."""
    if "$" in text:
        message = "{text} is taken as it is, $NAME is not replaced; write the path out"
        raise PydanticCustomError("variable", message, {"text": repr(text)})
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _results_path(text: str) -> str:
    """Refuse braces, in which Snakemake looks for names of wildcards."""
    if "{" in text or "}" in text:
        message = "{text} has braces, which Snakemake takes for wildcards; give a folder without"
        raise PydanticCustomError("braces", message, {"text": repr(text)})
    return text


Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[Text, AfterValidator(_path)]
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
Pattern = Annotated[str, Field(pattern=FILE_PATTERN)]
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False), WrapValidator(_as_given)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), WrapValidator(_as_given)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), WrapValidator(_as_given)]
Share = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_given)]
PositiveShare = Annotated[float, Field(gt=0, le=1), WrapValidator(_as_given)]
ProperShare = Annotated[float, Field(gt=0, lt=1), WrapValidator(_as_given)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), WrapValidator(_as_given)]
_UNIQUE = AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})
Names = Annotated[tuple[Text, ...], Strict(False), *_UNIQUE]
Pair = Annotated[tuple[Text, Text], Strict(False), *_UNIQUE]
Voxels = Annotated[tuple[Count, Count, Count], Strict(False)]
Millimeters = Annotated[tuple[Positive, Positive, Positive], Strict(False)]


Patterns = Annotated[
    tuple[Pattern, ...],
    Strict(False),
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | list[str]
    ),
    *_UNIQUE,
]
NamesOrPresent = Annotated[
    Annotated[Literal["present"], Tag(": nor a list")] | Annotated[Names, Tag(":a list")], _word_or("a list")
]


class Sides(Table):
    """A structure that a source labeled without telling right from left."""

    sides: Pair
    """The labels of the patient's right and left side; each connected component belongs to the side of the image's
    middle that it lies on."""


NameOrSides = Annotated[
    Annotated[Text, Tag(": nor a table")] | Annotated[Sides, Tag(":a table")],
    _word_or("a table"),
]
ValueNames = Annotated[
    dict[str, NameOrSides],
    BeforeValidator(
        lambda value: {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value
    ),
]


class Source(Table):
    """Where the cases of a source are, and what its labels mean (docs/your_cohort.md). In a pattern `{case}` stands
    for a case's name (`{case:EXPRESSION}` for those that a regular expression matches), `*` for a part of a name,
    `**/` for any folders; of several patterns, each adds its files."""

    images: Patterns = ()
    """Images with label files; without `labels` and `masks`, images without."""
    labels: Patterns = ()
    """Their label files."""
    masks: Patterns = ()
    """In place of `labels`: a file per class, whose name is `{mask}`; where masks overlap, the later row of `values`
    wins."""
    unlabeled_images: Patterns = ()
    """Images without label files."""
    validation_images: Patterns = ()
    """Images to predict and evaluate."""
    validation_labels: Patterns = ()
    """Their reference labels, where there are any; with `{mask}` if they are a file per class."""
    values: ValueNames = {}
    """By value in the source's label files (or by name of a mask), the label that it stands for, `ignore` (voxels
    that count neither in the loss nor in scores), `background` (or null), or a table with `sides`. Without it values
    are those of `labels`."""
    annotated: NamesOrPresent | None = None
    """Labels that were looked for in every case, so that one that is absent is known to be absent; or present, if
    that differs by case and only the labels that occur in it are known. By default the labels of `values`, if any."""
    prefix: str | None = None
    """Before the names of its cases; by default the source's name and an underscore, so that `001` in the source
    `lits` is the case `lits_001`."""

    @property
    def has_labels(self) -> bool:
        """Whether its training images have labels."""
        return bool(self.labels or self.masks)

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Its patterns by key."""
        return {key: getattr(self, key) for key in PATTERN_KEYS}

    @property
    def targets(self) -> list[str]:
        """The names that `values` maps to, `ignore` and `background` among them."""
        return [name for target in self.values.values() for name in
                (target.sides if isinstance(target, Sides) else [target])]  # fmt: skip

    @property
    def stated(self) -> frozenset[str] | Literal["present"] | None:
        """The labels that were looked for in every case; present if that differs by case, None if it is left open."""
        if self.annotated == "present" or (self.annotated is None and not self.values):
            return self.annotated
        names = self.targets if self.annotated is None else self.annotated
        return frozenset(name for name in names if name not in (IGNORE, BACKGROUND))

    @property
    def label_suffix(self) -> str | None:
        """What follows a case's name in the name of its label file; None where that is another pattern."""
        for text in (*self.validation_labels, *self.labels):
            return FilePattern.parse(text).suffix
        return None

    @property
    def image_folders(self) -> list[str]:
        """The folders that its training images are searched in."""
        return [FilePattern.parse(text).folder or "." for text in (*self.images, *self.unlabeled_images)]


class ValidationDraw(Table):
    """Labeled cases that are drawn for validation; nothing learns from them."""

    share: ProperShare
    """Share of the labeled cases of each source, at least one case."""
    sources: Names = ()
    """Sources that they are drawn from; all that have labels if it is empty."""
    seed: Natural = 0
    """Another seed draws others."""


class LabelRow(Table):
    """A structure that can be labeled."""

    name: Identifier
    """Name in tables and figures."""
    value: int = Field(ge=1, le=254)
    """Value in label files."""
    tolerance_mm: Positive
    """Tolerance of the normalized surface Dice."""
    kind: LabelKind = "organ"
    """Organ or tumor."""
    scored: Scored = "volume"
    """Score the whole volume, or only the slices from the first to the last one in which the reference holds the
    structure."""
    hidden_in: Names = Field(default=(), exclude_if=lambda value: not value)
    """Labels whose annotations cover the structure in cases in which it was not annotated itself, as those of organs
    cover tumors; for the loss label_sets."""


def label_map(labels: Iterable[LabelRow]) -> LabelMap:
    """Return the label map; ConfigError if two labels share a name or a value, or a name is reserved."""
    return LabelMap(tuple(structures.Label(**dict(label)) for label in labels))


class Category(Table):
    """A category of cases; all conditions that are given must hold."""

    name: Identifier
    """Name of the category."""
    contains_any: Names | None = None
    """At least one of these labels is present."""
    contains_all: Names | None = None
    """All of these labels are present."""
    no_labels: Literal[True] | None = None
    """The case has no label file."""
    sources: Names | None = Field(None, exclude_if=lambda value: value is None)
    """The case is from one of these sources."""
    folders: Names | None = None
    """The image was found in one of these folders of a source's patterns."""
    subset: Annotated[str, AfterValidator(_subset)] | None = None
    """The case is in this subset of all cases, drawn by name: 0/2 or 1/2 for halves (docs/method.md)."""
    annotated: NamesOrPresent | None = None
    """Not a condition: the labels that were looked for in each case of the category, so that one that is absent is
    known to be absent; or present, if that differs by case and only the labels that occur in it are known. Without it
    that is what the sources state, and if they state nothing, the labels of the conditions."""

    @property
    def conditions(self) -> Category:
        """The category without what is no condition."""
        return self.model_copy(update={"annotated": None})


class Scan(Table):
    """How the files of the cohort are read."""

    check_images: Literal["full", "header"] = "full"
    """Read images whole, or only their headers."""
    shear_limit_degrees: NotNegative = 2
    """Axes further from right angles are strongly sheared."""
    cases_per_category: Count | None = Field(default=None, exclude_if=lambda value: value is None)
    """For trials: only so many cases of each category and source take part, and as many for validation."""


Quarantine = Literal["quarantine"]
QuarantineOrWarn = Literal["quarantine", "warn"]
WarnOrQuarantine = Literal["warn", "quarantine"]


def _quarantine(remedy: str, **options: Any) -> Any:
    return Field("quarantine", description=remedy, **options)


def _warn(remedy: str, **options: Any) -> Any:
    return Field("warn", description=remedy, **options)


LATER_QUARANTINE, LATER_WARN = ({"exclude_if": severity.__eq__} for severity in ("quarantine", "warn"))
"""Of kinds that came after version 0.1: at its default such a kind is left out of fingerprints."""


class QualityIssues(Table):
    """Kinds of quality issues: what is done with each, of what later stages can handle; descriptions are remedies."""

    # the file cannot be read as a volume
    cannot_be_read: Quarantine = _quarantine("check that it is there and that you may read it")
    empty_file: Quarantine = _quarantine("get the file again")
    not_nifti: Quarantine = _quarantine("convert it to NIfTI, or move it out of the folder")
    truncated_gzip: Quarantine = _quarantine("get the file again")
    corrupt_gzip: Quarantine = _quarantine("get the file again")
    trailing_data: Quarantine = _quarantine("get the file again")
    wrong_length: Quarantine = _quarantine("get the file again")
    not_3d: Quarantine = _quarantine("export one 3-D volume")
    unsupported_type: Quarantine = _quarantine("export one number per voxel")
    bad_spacing: Quarantine = _quarantine("convert it from the source again")
    singular_axes: Quarantine = _quarantine("convert it from the source again")
    too_large: Quarantine = _quarantine("crop it, or resample it to larger voxels", **LATER_QUARANTINE)
    # the header is doubtful
    implausible_size: QuarantineOrWarn = _quarantine(
        "look up its true spacing and unit of length", **LATER_QUARANTINE
    )
    placeholder_spacing: WarnOrQuarantine = _warn("look up the true spacing")
    sheared_axes: WarnOrQuarantine = _warn("resample it to right angles, or accept it")
    strongly_sheared_axes: QuarantineOrWarn = _quarantine("resample it to right angles")
    qform_sform_disagree: WarnOrQuarantine = _warn("make the two agree: programs differ in which one they take")
    no_orientation: WarnOrQuarantine = _warn(
        "find out left and right, and write an sform: programs differ in what they assume"
    )
    pixdim_disagrees: QuarantineOrWarn = _quarantine("find out the true spacing and write it to both")
    not_in_millimeters: WarnOrQuarantine = _warn("nothing, if the unit is true: lengths are converted as ITK does it")
    nifti2: WarnOrQuarantine = _warn("nothing, unless other programs read it too: SimpleITK does not")
    uncompressed_twin: QuarantineOrWarn = _quarantine("keep one of the two: SimpleITK reads the other's voxels")
    # the voxels are not those of a CT
    not_finite: Quarantine = _quarantine("convert it from the source again")
    constant_image: QuarantineOrWarn = _quarantine("get the file again")
    not_hounsfield: QuarantineOrWarn = _quarantine("export it in HU, without a window")
    # the voxels are not those of a label map
    fractional_label_values: Quarantine = _quarantine("export it as integers")
    negative_label_values: Quarantine = _quarantine("export it again, or map the value")
    unknown_label_values: Quarantine = _quarantine("add the value to the `values` of the source, or to `labels`")
    unclear_sides: Quarantine = _quarantine("label right and left apart in it, or leave the case out")
    overlapping_masks: WarnOrQuarantine = _warn("check the order of `values`: the later mask has these voxels")
    scaled_label: WarnOrQuarantine = _warn(
        "save it from an integer array, without scl_slope: programs that pass over the scaling see other values"
    )
    ignored_voxels: WarnOrQuarantine = _warn(
        "nothing, if 255 marks what nobody was sure of; else map the value", **LATER_WARN
    )
    empty_label: Literal["quarantine", "unlabeled", "warn"] = _quarantine(
        "remove it if nobody labeled the case; else `quality_issues: {empty_label: warn}`"
    )
    # label and image do not belong together
    shape_mismatch: Quarantine = _quarantine("find the label's true image, or export it again")
    orientation_mismatch: Quarantine = _quarantine("export the label on its image: axes are flipped or swapped")
    affine_mismatch: Quarantine = _quarantine("export the label on its image")
    rounded_affine: WarnOrQuarantine = _warn(
        "nothing, if rounding explains it; else export the label on its image", **LATER_WARN
    )
    # the cases do not belong together
    name_too_long: Quarantine = _quarantine("shorten its name: files are named after it", **LATER_QUARANTINE)
    resliced_copy: WarnOrQuarantine = _warn(
        "drop the plain one, whose slices are not equally far apart, or accept that the patient counts twice",
        **LATER_WARN,
    )
    duplicate_case: Quarantine = _quarantine("keep one of them, rename one, or make two sources of them")
    duplicate_image: WarnOrQuarantine = _warn("keep one of them, or accept that it counts twice")
    validation_image_in_training: QuarantineOrWarn = _quarantine("take it out of one of the two")
    image_without_label: Literal["quarantine", "unlabeled"] = _quarantine(
        "add its label, or move the image to the unlabeled ones"
    )
    other_file_name: Literal["warn"] = _warn("rename it, or change the patterns of the source")
    label_without_image: Literal["warn"] = _warn("add its image, or remove the label")
    no_category: Quarantine = _quarantine("add a category that fits")
    unlike_other_sources: Literal["warn"] = _warn("compare the `values` of the two sources: numbers may be swapped")


class MergePolicy(Table):
    """How a merge decides where an original label and a prediction meet; the defaults are the paper's."""

    conflict_policy: Literal["background", "next_class", "ignore"] = "background"
    """What voxels become that are predicted as an annotated class outside its annotation."""
    tumor_inside_organs: Literal["keep_organ", "ignore", "tumor", "if_sure"] = "keep_organ"
    """What a tumor becomes that is predicted inside an annotated organ, in cases without annotated tumors; if_sure: a
    tumor where the mirrored passes agree on all of it, else ignored."""
    unmarked_tumors: Literal["keep_original", "ignore", "tumor", "if_sure"] = "keep_original"
    """What predicted tumors become that touch no annotated one, in cases with annotated tumors; keep_original: voxels
    are decided like all others."""
    min_tumor_agreement: PositiveShare = 0.9
    """Share of the mirrored passes, averaged over a tumor's voxels, from which if_sure takes it."""
    min_agreement: Share = 0
    """Voxels without annotation are ignored where a smaller share of the mirrored passes agrees; 0 for never."""

    @property
    def need_votes(self) -> bool:
        """Whether a merge needs to know how many passes agree at each voxel."""
        return self.min_agreement > 0 or "if_sure" in (self.tumor_inside_organs, self.unmarked_tumors)

    @property
    def may_ignore(self) -> bool:
        """Whether a merge may mark voxels to be ignored."""
        choices = (self.conflict_policy, self.tumor_inside_organs, self.unmarked_tumors)
        return self.min_agreement > 0 or bool({"ignore", "if_sure"} & set(choices))


class LeaveOut(Table):
    """Cases that are not learned from."""

    share: ProperShare
    """Share of the category's cases, rounded down."""
    changed_between: Text
    """passes: labels are compared between the teacher's mirrored passes; or another completion of the same category,
    with whose labels they are compared."""

    @property
    def compared_completion(self) -> str | None:
        """The completion that labels are compared with; None if they are compared between passes."""
        return None if self.changed_between == PASSES else self.changed_between


class Completion(MergePolicy):
    """Labels of a category that a teacher completes."""

    category: Text
    """Category whose cases are completed."""
    teacher: Text
    """Model that predicts them."""
    base: Text | None = None
    """Another completion of the same category, whose labels are completed further."""
    annotated: NamesOrPresent = "present"
    """Classes that count as annotated in a case and are not extended: those that occur in it, or a list."""
    min_component_ml: dict[str, Positive] = {}
    """By label, the volume below which components of pseudo-labels are dropped."""
    exclude_most_changed: LeaveOut | None = None
    """Do not learn from the cases whose labels changed most."""

    @property
    def compared_completion(self) -> str | None:
        """The completion that this one is compared with to leave cases out; None if with none."""
        return self.exclude_most_changed.compared_completion if self.exclude_most_changed else None

    @property
    def compares_passes(self) -> bool:
        """Whether the teacher's passes are compared to leave cases out."""
        return self.exclude_most_changed is not None and self.compared_completion is None


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


NetworkOrName = Annotated[
    Annotated[NetworkName, Tag(": nor a table")] | Annotated[Network, Tag(":a table")],
    _word_or("a table"),
    Field(description="A network of the STU-Net family by name, or blocks and channels of each stage."),
]
IntensityOrMeasure = Annotated[
    Annotated[Literal["measure"], Tag(": nor a table")] | Annotated[IntensityValues, Tag(":a table")],
    _word_or("a table"),
    Field(description="Clipping range, mean and standard deviation in HU, or measure for those of the training set."),
]


def measured(intensity: Literal["measure"] | IntensityValues) -> IntensityValues:
    """Return an intensity as numbers; ConfigError for one that is yet to be measured."""
    if isinstance(intensity, str):
        raise ConfigError("intensity: is not measured yet")
    return intensity


class TrainingProtocol(Table):
    """How a model is trained (docs/training.md)."""

    epochs: Count = 1000
    """Epochs; the learning rate falls after each, on a polynomial."""
    iterations_per_epoch: Count = 250
    """Batches per epoch."""
    validation_iterations: Count = 50
    """Batches of the training set scored after each epoch; no model is selected by them."""
    batch_size: Count = 2
    """Patches per batch."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of the initial weights and the patches; on a GPU, where processes load them, the order of patches still differs
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
    """auto is 16 bit where the device computes in it (mixed on a GPU, bfloat16 on a CPU with instructions for it),
    else float32. mixed is nnU-Net's own (float16 with scaled gradients on a GPU, float32 on a CPU). float32 is never
    TF32. What a device only emulates is refused."""
    oversample_foreground: Share = 0.33
    """Share of a batch's patches that are forced onto foreground, rounded to whole patches as in nnU-Net (one of two
    above 0.25, both from 0.75)."""
    sampling: Literal["class_balanced", "nnunet"] = "class_balanced"
    """What a forced patch aims at: each class equally often, or a class of a case drawn before."""
    loss: Literal["nnunet", "label_sets"] = Field(default="nnunet", exclude_if=lambda value: value == "nnunet")
    """nnunet takes what was not annotated for background; label_sets learns from cases in which different labels were
    annotated (docs/training.md)."""
    targets: Literal["hard", "area", "native"] = Field(default="hard", exclude_if=lambda value: value == "hard")
    """hard: a label per voxel of the training's grid; area: the share of each label in it, from finer labels; native:
    the logits are interpolated to the finer labels, as in inference, and the loss is there (docs/training.md)."""
    target_factor: Annotated[tuple[Count, Count, Count], Strict(False)] = Field(
        default=(1, 2, 2), exclude_if=lambda value: value == (1, 2, 2)
    )
    """Finer labels' voxels (z, y, x) in a voxel of the training's grid, for targets area and native."""

    @property
    def label_factor(self) -> tuple[int, int, int] | None:
        """The voxels (z, y, x) of labels in a voxel of the training's grid, where they are finer; else None."""
        return None if self.targets == "hard" else self.target_factor

    elastic_deformation: bool = False
    """Add elastic deformation to nnU-Net's augmentation."""
    mirror_axes: Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Strict(False), *_UNIQUE] = (0, 1, 2)
    """Axes of (z, y, x) that training and test-time augmentation mirror along."""


class InferenceSettings(Table):
    """How a model segments (docs/inference.md)."""

    tile_step_size: PositiveShare = 0.5
    """Distance of neighboring windows, as a share of the patch size."""
    tta: bool = False
    """Test-time augmentation: average over all combinations of the model's mirror_axes."""
    windows: Windows = "body"
    """Windows all over the image, over the body, or (the paper's rule) from the center and on if there is
    something."""
    precision: Precision = "auto"
    """Of the network; logits are summed in float32. auto is 16 bit where the device computes in it (bfloat16, on
    older GPUs float16), else float32. What a device only emulates is refused."""


class ModelOptions(Table):
    """Settings of a model that have defaults."""

    orientation: OrientationMode = "stored"
    """Axes as stored in the file, or turned to LPS."""
    training: TrainingProtocol = TrainingProtocol()
    """How the model is trained (docs/training.md)."""
    inference: InferenceSettings = InferenceSettings()
    """How the model segments (docs/inference.md)."""
    ignore_label: Literal["auto", "always"] = "auto"
    """Give dataset.json nnU-Net's ignore label, whose mere presence changes nnU-Net's sampling of background patches:
    where a completion may write it, or always, so that models differ in their labels alone."""
    evaluate: bool = False
    """Predict the validation cases and score them."""


PatchSize = Annotated[Voxels, Field(description="Patch size (z, y, x) in voxels.")]
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
    Annotated[PathText, Tag(": nor a table")] | Annotated[PretrainedModel, Tag(":a table")], _word_or("a table")
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
            return Architecture.of(self.network.depth, self.network.widths, self.strides)
        return Architecture.named(self.network, self.strides)

    @property
    def pretrained_model(self) -> str | None:
        """The model of the configuration that this one starts from; None without one."""
        return self.pretrained.model if isinstance(self.pretrained, PretrainedModel) else None


class Evaluation(Table):
    """How the models with `evaluate: true` are scored."""

    mode: EvaluationMode = "flare23"
    """The challenge's rules, or whole volumes without special rules."""
    min_dsc_for_nsd: Share = 0.2
    """Lowest DSC with which a structure has an NSD in mode flare23. The challenge's script has 0.2 since March 2024;
    it had 0.1 when FLARE23's published results were made."""
    references: References = "complete"
    """References are complete, or hold only what was labeled: a structure that one lacks is then not scored in it."""
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
    inference_benchmark: str = ""
    """A result of benchmarks/inference.py, whose phases are shown beside nnU-Net's; empty for none."""


class ModelCard(Table):
    """What the card of each model says beside what is known of it."""

    license: Text = "not stated; ask those who trained the model"
    """Under which the weights may be used."""
    intended_use: Text = "Research on segmentation of CT images."
    """What the models are for."""
    contact: Text = "not stated"
    """Who answers for them."""


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
    """none: nothing is inherited from `config.yaml`; the file stands alone."""
    smoke: bool = Field(False, exclude_if=lambda value: not value)
    """Run the configuration with tiny networks on a few cases, into a folder `smoke` beside the results: does
    everything run?"""
    cohort: PathText
    """Folder of the cohort; the sources' patterns begin here, unless they are absolute."""
    results: Annotated[PathText, AfterValidator(_results_path)] = "results"
    """Folder of everything that is written."""
    sources: dict[Identifier, Source] = Field(min_length=1)
    """Where the cases come from, and what each source's label files mean."""
    validation: ValidationDraw | None = None
    """Labeled cases that are drawn for validation, beside the sources' `validation_images`."""
    labels: Annotated[tuple[LabelRow, ...], Strict(False)] = Field(min_length=1, max_length=254)
    """Structures that can be labeled."""
    categories: Annotated[tuple[Category, ...], Strict(False)] = Field(min_length=1)
    """Categories of cases. The first match wins, on the labels present in a case, the folder of its image and its
    name."""
    scan: Scan = Scan()
    """How the files of the cohort are read."""
    quality_issues: QualityIssues = QualityIssues()
    """What is done with each kind of quality issue. Severities that later stages cannot handle are not offered."""
    completions: dict[Identifier, Completion] = {}
    """Which teacher completes the labels of which category, and by which policy (docs/method.md)."""
    model_defaults: ModelDefaults = ModelDefaults()
    """Settings that every model has unless it has its own."""
    models: dict[Identifier, ModelSettings] = Field(min_length=1)
    """Models, and what each learns from."""
    evaluation: Evaluation = Evaluation()
    """How the models with `evaluate: true` are scored."""
    report: Report = Report()
    """The page of the run (docs/report.md)."""
    model_card: ModelCard = ModelCard()
    """`models/{model}/README.md` (docs/predict.md)."""
    shards: Shards = Shards()
    """Jobs per stage."""
    device: str = Field("auto", pattern=devices.PATTERN)
    """Where networks run: auto (a GPU if there is one), cpu, cuda, cuda:N (the GPU of that number, from 0) or mps
    (Apple's GPU)."""
    max_training_restarts: Natural = 30
    """How often a training that ended before its last epoch is started again, from its last checkpoint."""
    checkpoint_interval_minutes: Positive = 10
    """Longest time of training that a kill can cost."""
