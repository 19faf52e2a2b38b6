"""Configuration files: read, and merged as Snakemake merges them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from flare23_lib.choices import RECIPE
from flare23_lib.config.cohort_models import BACKGROUND
from flare23_lib.errors import ConfigError, UsageError


def merge(base: Mapping, update: Mapping) -> dict:
    """Merge as Snakemake merges configuration files: tables key by key, everything else replaced."""
    merged = dict(base)
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs as `snakemake --config` takes them; UsageError for another text.

    A value is a number, True or False, or YAML in which all values are texts.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--config {pair!r} is not KEY=VALUE")
        value = _parsed(text.strip("'\""))
        if value is None and text:
            raise UsageError(f"--config {pair!r}: the value is empty")
        values = merge(values, {key: value})
    return values


def _parsed(text: str) -> Any:
    """Read a value as Snakemake does."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for parse in (int, float, partial(yaml.load, Loader=yaml.BaseLoader)):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            return parse(text)
    return text


class _Loader(yaml.SafeLoader):
    """Refuses a key that a table has twice; YAML's own reader takes the last one without a warning."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key.value in (earlier.value for earlier in keys[:index]):
                raise ConfigError(f"{key.value} is there twice in a table (line {key.start_mark.line + 1})")
        return node


def read_yaml(path: Path) -> dict:
    """Read a YAML file that holds a table; ConfigError if it cannot be read, or a table in it has a key twice."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
        _plain(content)  # a RecursionError where a list or table holds itself
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # not only YAML's own ones: 2024-02-30 looks like a date, 0x like a number
        hint = "; patterns with { need quotes" if "{case" in str(error) else ""
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())}){hint}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: should hold keys and values")
    return content or {}


def refuse_idle_nulls(merged: Mapping, layers: Sequence[Mapping], presets: Sequence[Mapping] = ()) -> None:
    """Refuse a null for a model, completion or source of which no file has an entry, with a ConfigError.

    Entries of the package's recipe may be removed twice: from one's own copy of it, and in a preset. So may those
    that `presets`, of the package, remove: config.yaml of a clone is the package's recipe, and may be edited.
    """
    for key in ("models", "completions", "sources"):
        tables = [table for layer in layers if isinstance(table := layer.get(key), Mapping)]
        known = {name: None for table in tables for name, entry in table.items() if entry is not None}
        given = merged.get(key)
        entries = given.items() if isinstance(given, Mapping) else ()
        for name in [name for name, entry in entries if entry is None and name not in known]:
            if not any(name in (layer.get(key) or ()) for layer in (read_yaml(RECIPE), *presets)):
                raise ConfigError(f"{key}.{name}: null removes nothing; there are {', '.join(map(str, known))}")


def prepared(values: Mapping) -> dict:
    """Return a merged configuration without nulls, with whole numbers as integers, and models with their defaults.

    So 2 and 2.0 are one setting and one fingerprint. A null in a table of a model removes what `model_defaults` have
    there; an empty table, which YAML reads as null, leaves them.
    """
    whole = dict(_with_background(values))
    models, defaults = whole.get("models"), whole.get("model_defaults", {})
    if isinstance(models, Mapping) and isinstance(defaults, Mapping):  # else validation refuses them
        whole["models"] = {name: _with_defaults(model, defaults) for name, model in models.items()}
    return _plain(whole)


def _with_defaults(model: Any, defaults: Mapping) -> Any:
    if not isinstance(model, Mapping):
        return model
    return merge(defaults, {key: value for key, value in model.items() if value is not None})


def _with_background(values: Mapping) -> Mapping:
    """Write out what null stands for in the `values` of sources; everywhere else it removes an entry."""
    sources = values.get("sources")
    if not isinstance(sources, Mapping):
        return values
    named = {
        name: {**source, "values": {key: BACKGROUND if item is None else item for key, item in table.items()}}
        for name, source in sources.items()
        if isinstance(source, Mapping) and isinstance(table := source.get("values"), Mapping)
    }
    return {**values, "sources": {**sources, **named}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
