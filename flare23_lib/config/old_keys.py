"""Configurations up to version 0.1: old names of keys, and `layout` (folders, suffixes) in the place of `sources`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, get_args, get_origin

from pydantic import Field, ValidationError

from flare23_lib.config.load import merge
from flare23_lib.config.messages import explain
from flare23_lib.config.models import Configuration
from flare23_lib.config.tables import Identifier, Names, Table
from flare23_lib.errors import ConfigError

log = logging.getLogger(__name__)

SOURCE = "cohort"
"""Name of the source that a layout becomes; its cases have no prefix, as before."""

Suffix = Annotated[str, Field(pattern=r"\.nii(\.gz)?$")]


class FolderLayout(Table):
    """Folders, searched with their subfolders, and suffixes of file names; the defaults are FLARE23's."""

    training_images: Names = ("imagesTr2200",)
    training_labels: Names = ("labelsTr2200",)
    unlabeled_images: Names = ("unlabelTr1800", "unlabeledTr1800")
    validation_images: Names = ("validation",)
    validation_labels: Names = ("validation-gt", "val-gt-50cases-for-sanity-check")
    prefixes: dict[str, Identifier] = Field(default_factory=dict)
    image_suffix: Suffix = "_0000.nii.gz"
    label_suffix: Suffix = ".nii.gz"


KEYS = ("training_images", "training_labels", "unlabeled_images", "validation_images", "validation_labels")
"""Keys of a layout that name folders; those of a source are the same without `training_`."""


def with_sources(layers: Sequence[Mapping]) -> list[dict]:
    """Return files, the recipe first, with `sources` in the place of `layout`, with a notice in the log; ConfigError
    if a layout is wrong, or there are both."""
    recipe, *given = map(dict, layers)
    layouts = [layer.pop("layout") for layer in (recipe, *given) if "layout" in layer]
    if not layouts:
        return [recipe, *given]
    if any("sources" in layer for layer in given):
        raise ConfigError("layout: is the old form of `sources`, which is given too; keep `sources`")
    log.warning(
        "configuration: `layout` is now `sources`, patterns of file names (docs/your_cohort.md); the next release "
        "will not read it"
    )
    recipe["sources"] = sources_of(reduce(merge, [_table(layout) for layout in layouts]))
    return [recipe, *given]


def _table(layout: Any) -> Mapping:
    if not isinstance(layout, Mapping | None):
        raise ConfigError(f"layout: {layout!r} is not of type 'object'")
    return {key: value for key, value in (layout or {}).items() if value is not None}


def sources_of(values: Mapping) -> dict[str, dict]:
    """Return the sources that a layout stands for: one, and one more for each prefix; ConfigError if it is wrong."""
    try:
        layout = FolderLayout.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"layout.{explain(error)}") from error
    folders = [folder for key in KEYS for folder in getattr(layout, key)]
    for folder in layout.prefixes:
        if folder not in folders:
            raise ConfigError(f"layout.prefixes: there is no folder {folder!r}; there are {', '.join(folders)}")
    sources: dict[str, dict] = {}
    for key in KEYS:
        suffix = layout.image_suffix if key.endswith("images") else layout.label_suffix
        for folder in getattr(layout, key):
            prefix = layout.prefixes.get(folder)
            source = sources.setdefault(prefix or SOURCE, {} if prefix else {"prefix": ""})
            pattern = f"{folder.rstrip('/') or '/'}/**/{{case}}{suffix}".removeprefix("./")
            patterns = source.setdefault(key.removeprefix("training_"), [])
            if pattern not in patterns:  # one folder in several spellings
                patterns.append(pattern)
    return sources


def with_new_names(layers: Iterable[Mapping]) -> list[dict]:
    """Return files, and what else is laid over them, with the new names of keys; the log names the old ones.
    ConfigError if a table has a key by both names."""
    old: dict[str, str] = {}
    renamed = [_renamed(layer, Configuration, "", old) for layer in layers]
    if old:
        listed = ", ".join(f"{place} is now {name}" for name, place in old.items())
        log.warning("configuration: old names of keys, which the next release will not read: %s", listed)
    return renamed


def _renamed(values: Any, table: type[Table], place: str, old: dict[str, str]) -> Any:
    """Rename the keys of a table and of those in it; `old` gets each new name with the first place of the old one."""
    if not isinstance(values, Mapping):
        return values
    renamed = dict(values)
    for name, field in table.model_fields.items():
        alias = field.alias or name
        if alias != name and alias in renamed:
            if name in renamed:
                raise ConfigError(f"{place}{name}: is given by its old name {alias}, too")
            renamed[name] = renamed.pop(alias)
            old.setdefault(name, place + alias)
        value = renamed.get(name)
        for inner in _tables(field.annotation):
            if isinstance(value, list):
                renamed[name] = [
                    _renamed(item, inner, f"{place}{name}[{index}].", old) for index, item in enumerate(value)
                ]
            elif get_origin(field.annotation) is dict and isinstance(value, Mapping):
                renamed[name] = {
                    key: _renamed(item, inner, f"{place}{name}.{key}.", old) for key, item in value.items()
                }
            elif isinstance(value, Mapping):
                renamed[name] = _renamed(value, inner, f"{place}{name}.", old)
    return renamed


def _tables(annotation: Any) -> Iterator[type[Table]]:
    """Yield the tables in a type."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for part in get_args(annotation):
        yield from _tables(part)
