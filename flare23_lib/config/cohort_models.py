"""Keys of the configuration about the cohort: sources, labels, categories, scan and quality issues."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from flare23_lib import labels as structures
from flare23_lib.cache.entries import Shard
from flare23_lib.choices import LabelKind, Scored
from flare23_lib.config.tables import (
    PREFIX,
    Count,
    Identifier,
    Names,
    NamesOrPresent,
    Natural,
    NotNegative,
    Pair,
    Patterns,
    Positive,
    ProperShare,
    Table,
    Text,
    word_or,
)
from flare23_lib.io.patterns import MASK, FilePattern
from flare23_lib.labels import LabelMap

PATTERN_KEYS = ("images", "labels", "masks", "unlabeled_images", "validation_images", "validation_labels")
"""Keys of a source that hold patterns of files."""

IGNORE, BACKGROUND = "ignore", "background"
"""What a source's value can stand for beside a label."""


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


class Sides(Table):
    """A structure that a source labeled without telling right from left."""

    sides: Pair
    """The labels of the patient's right and left side; each connected component belongs to the side of the image's
    middle that it lies on."""


NameOrSides = Annotated[
    Annotated[Text, Tag(": nor a table")] | Annotated[Sides, Tag(":a table")],
    word_or("a table"),
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
    """Images with label files; without `labels` and `masks`, images without label files."""
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
    values: ValueNames = Field({})
    """Maps each value in the source's label files (or mask name) to a label, `ignore` (voxels that count neither in
    the loss nor in scores), `background` (or null), or a table with `sides`. By default the values of `labels`."""
    annotated: NamesOrPresent | None = None
    """Labels that were annotated in every case, so that one that does not occur is known to be absent; or present, if
    this differs by case and only the labels that occur in it are known. By default the labels of `values`, if any."""
    prefix: str | None = Field(None, pattern=PREFIX)
    """Prefix of the names of its cases; by default the source's name and an underscore, so that `001` in the source
    `lits` is the case `lits_001`."""

    @property
    def has_labels(self) -> bool:
        """Whether its training images have labels."""
        return bool(self.labels or self.masks)

    @property
    def has_masks(self) -> bool:
        """Whether there is a file per class of any of its labels."""
        return any(MASK in text for text in (*self.masks, *self.validation_labels))

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
    """Sources that they are drawn from; if empty, all sources with labels."""
    seed: Natural = 0
    """Seed of the draw."""


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
    """Score the whole volume, or only the slices from the first to the last one with the structure in the
    reference."""
    hidden_in: Names = Field(default=(), exclude_if=lambda value: not value)
    """Labels whose annotations cover the structure in cases in which it was not annotated itself, as organs cover
    tumors. Used by the loss label_sets and copy_tumors, and for tumors by tumor_inside_organs and unmarked_tumors,
    which put a tumor only into these organs."""


def label_map(labels: Iterable[LabelRow]) -> LabelMap:
    """Return the label map; ConfigError if two labels share a name or a value, or a name is reserved."""
    return LabelMap(tuple(structures.Label(**label.model_dump(exclude={"hidden_in"})) for label in labels))


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
    """Not a condition: the labels that were annotated in each case of the category, so that one that does not occur
    is known to be absent; or present, if this differs by case and only the labels that occur in it are known. By
    default what the sources state, and if they state nothing, the labels of the conditions."""

    def fits(
        self, case: str, present: Collection[str] | None, folders: Collection[str] = (), source: str = ""
    ) -> bool:
        """Return whether a case fits all conditions, by the labels in it (None for a case without a label file) and
        the configuration's names for the folder in which its image was found."""
        if self.subset is not None and f"part of the cohort: {case}" not in subset_of(self.subset):
            return False
        if self.folders is not None and not set(self.folders) & set(folders):
            return False
        if self.sources is not None and source not in self.sources:
            return False
        if present is None:
            return bool(self.no_labels)
        any_holds = self.contains_any is None or bool(set(self.contains_any) & set(present))
        return not self.no_labels and any_holds and set(self.contains_all or ()) <= set(present)


class Scan(Table):
    """How the files of the cohort are read."""

    check_images: Literal["full", "header"] = "full"
    """Read images whole, or only their headers."""
    shear_limit_degrees: NotNegative = 2
    """Axes that deviate from right angles by more are strongly sheared."""
    cases_per_category: Count | None = Field(default=None, exclude_if=lambda value: value is None)
    """For trials: the maximum number of cases of each category and source, and of validation cases."""


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
    few_slices: WarnOrQuarantine = _warn("take it out if it is a localizer or a key image")
    placeholder_spacing: WarnOrQuarantine = _warn("look up the true spacing")
    sheared_axes: WarnOrQuarantine = _warn("resample it to right angles, or accept it")
    strongly_sheared_axes: QuarantineOrWarn = _quarantine("resample it to right angles")
    qform_sform_disagree: WarnOrQuarantine = _warn("make the two agree: programs differ in which one they use")
    no_orientation: WarnOrQuarantine = _warn(
        "determine left and right, and write an sform: programs differ in what they assume"
    )
    pixdim_disagrees: QuarantineOrWarn = _quarantine("determine the true spacing and write it to both")
    not_in_millimeters: WarnOrQuarantine = _warn("nothing, if the unit is correct: lengths are converted as in ITK")
    nifti2: WarnOrQuarantine = _warn("nothing, unless other programs read it too: SimpleITK does not")
    uncompressed_twin: QuarantineOrWarn = _quarantine("keep one of the two: SimpleITK reads the other's voxels")
    # the voxels are not those of a CT
    not_finite: Quarantine = _quarantine("convert it from the source again")
    constant_image: QuarantineOrWarn = _quarantine("get the file again")
    not_hounsfield: QuarantineOrWarn = _quarantine("export it in HU, without windowing")
    # the voxels are not those of a label map
    fractional_label_values: Quarantine = _quarantine("export it as integers")
    negative_label_values: Quarantine = _quarantine("export it again, or map the value")
    unknown_label_values: Quarantine = _quarantine(
        "add it to the `values` of the source (as `background` or `ignore` if it is not a structure), or to `labels`"
    )
    unclear_sides: Quarantine = _quarantine("label right and left separately, or leave the case out")
    vanished_mask: QuarantineOrWarn = _quarantine(
        "correct the order of `values`: a structure inside another one comes after it"
    )
    overlapping_masks: WarnOrQuarantine = _warn("check the order of `values`: the later mask wins")
    scaled_label: WarnOrQuarantine = _warn(
        "save it from an integer array, without scl_slope: programs that ignore the scaling see other values"
    )
    ignored_voxels: WarnOrQuarantine = _warn(
        "nothing, if 255 marks uncertain voxels; else map the value", **LATER_WARN
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
        "remove the plain one, whose slices are not equally spaced, or accept that the patient counts twice",
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
    label_in_no_case: Literal["warn"] = _warn(
        "nothing, if it was annotated; else correct or remove its row in `values`, or state `annotated`"
    )
    unlike_other_sources: Literal["warn"] = _warn("compare the `values` of the two sources: numbers may be swapped")
