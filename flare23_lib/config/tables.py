"""What a table of the configuration is, and the types of its values. Axes are (z, y, x)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

IDENTIFIER, FILE_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*$", r"\{case(:[^{}]*)?\}.*(\.nii(\.gz)?|\*)$"
"""What names look like, and what patterns of files look like."""

PREFIX = r"^([^/.][^/]*)?$"
"""What the beginning of a case's name looks like: files are named after it."""

OLD_NAMES = {
    "base": "on_top_of",
    "checkpoint_interval_minutes": "checkpoint_minutes",
    "conflict_policy": "dropped_to",
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
"""Key -> its old name, which files of settings and the store's fingerprints keep, and configurations do not have:
with new names they would be other fingerprints, and what a user has computed would be computed again."""

STORED = "stored"
"""Context of a validation in which keys may have their old names."""


class Table(BaseModel):
    """A table of the configuration, or one derived from it: checked, frozen, without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=lambda name: OLD_NAMES.get(name, name),
        validate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any, info: ValidationInfo) -> Any:
        known = set(cls.model_fields)
        if info.context == STORED:
            known |= {field.alias or name for name, field in cls.model_fields.items()}
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
        return cls.model_validate(content, context=STORED)

    def to_json(self, by_alias: bool = True) -> dict[str, Any]:
        """Return the table as plain data, without keys that were not given and have no default.

        Keys are named as in fingerprints (`OLD_NAMES`), or as in the configuration.
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


def word_or(group: str) -> Discriminator:
    """Tell a word from a table or a list; the tags are part of the place of an error (`messages.explain`)."""
    return Discriminator(
        lambda value: f":{group}" if isinstance(value, Mapping | Table | list | tuple) else f": nor {group}"
    )


def _path(text: str) -> str:
    """Replace `~` as shells do; names of variables are refused: a folder of that name would be made."""
    if "$" in text:
        message = "{text} is taken as it is, $NAME is not replaced; write the path out"
        raise PydanticCustomError("variable", message, {"text": repr(text)})
    return str(Path(text).expanduser()) if text.startswith("~") else text


def results_path(text: str) -> str:
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
UNIQUE = AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})
Names = Annotated[tuple[Text, ...], Strict(False), *UNIQUE]
Pair = Annotated[tuple[Text, Text], Strict(False), *UNIQUE]
Voxels = Annotated[tuple[Count, Count, Count], Strict(False)]
Millimeters = Annotated[tuple[Positive, Positive, Positive], Strict(False)]


Patterns = Annotated[
    tuple[Pattern, ...],
    Strict(False),
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | list[str]
    ),
    *UNIQUE,
]
NamesOrPresent = Annotated[
    Annotated[Literal["present"], Tag(": nor a list")] | Annotated[Names, Tag(":a list")], word_or("a list")
]
