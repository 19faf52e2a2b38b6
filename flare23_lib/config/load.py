"""Configuration files: read, merged as Snakemake merges them, and what is wrong with them in one line."""

from __future__ import annotations

import contextlib
import copy
import datetime
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flare23_lib.config.cohort_models import BACKGROUND
from flare23_lib.config.models import Configuration
from flare23_lib.config.tables import FILE_PATTERN, IDENTIFIER, Table
from flare23_lib.errors import ConfigError
from flare23_lib.runtime import devices

log = logging.getLogger(__name__)

LARGEST_EXPONENT = 30
"""Of the numbers that a message writes out."""

TYPES = {
    "int_type": "integer", "int_from_float": "integer", "float_type": "number", "string_type": "string",
    "bool_type": "boolean", "tuple_type": "array", "dict_type": "object", "model_type": "object",
}  # fmt: skip
"""pydantic's errors about types -> what JSON calls the type that was expected."""

MESSAGES = {
    "finite_number": "{value} is not a finite number",
    "literal_error": "{value!r} is not one of {expected}",
    "greater_than": "{value} is not greater than {gt:g}",
    "greater_than_equal": "{value} is less than {ge:g}",
    "less_than": "{value} is not less than {lt:g}",
    "less_than_equal": "{value} is greater than {le:g}",
    "string_too_short": "is empty",
    "too_short": "has {actual_length} entries; {min_length} are needed",
    "too_long": "has {actual_length} entries; {max_length} are possible",
    devices.PATTERN: f"{{value!r}} is not {devices.NAMES}",
    IDENTIFIER: "{value!r} is not a name of letters, digits and underscores that begins with a letter",
    FILE_PATTERN: "{value!r} is not a pattern such as imagesTr/{{case}}.nii.gz",
}
"""Messages by pydantic's type of error or, where a pattern does not match, by pattern."""


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
    """Read KEY=VALUE pairs as `snakemake --config` takes them.

    A value is a number, True or False, or YAML in which all values are texts.

    Raises:
        ConfigError: a pair is not KEY=VALUE.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--config {pair!r} is not KEY=VALUE")
        value = _parsed(text.strip("'\""))
        if value is None and text:
            raise ConfigError(f"--config {pair!r}: the value is empty")
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


def with_new_names(layers: Iterable[Mapping]) -> list[dict]:
    """Return files, and what else is laid over them, with the new names of keys; the log names the old ones.

    Raises:
        ConfigError: a table has a key by both names.
    """
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


def prepared(values: Mapping) -> dict:
    """Return a merged configuration without nulls, with whole numbers as integers, and models with their defaults.

    So 2 and 2.0 are one setting and one fingerprint.
    """
    plain: dict[str, Any] = _plain(_with_background(values))
    models, defaults = plain.get("models"), plain.get("model_defaults", {})
    if isinstance(models, Mapping) and isinstance(defaults, Mapping):  # else validation refuses them
        plain["models"] = {
            name: merge(defaults, model) if isinstance(model, Mapping) else model for name, model in models.items()
        }
    return plain


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


def check_known(key: str, names: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse a name that is not among the known ones."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: there is no {what} {name!r}; there are {', '.join(known)}")


def explain(error: ValidationError) -> str:
    """Return one line that names the key and says what is wrong: of several errors the one nearest to the top."""
    return min((_explain(details) for details in error.errors(include_url=False)), key=lambda found: found[0])[1]


def _explain(error: ErrorDetails) -> tuple[int, str]:
    """Return how far down an error is, and its line; lists with a wrong entry are said to be too short, too."""
    kind, value, place = error["type"], error["input"], list(error["loc"])
    if kind == "missing":
        key = place.pop()
        message = f"the key {key!r} is missing" if isinstance(key, str) else f"has {key} entries, too few"
    elif kind == "literal_error" and str(place[-1]).startswith(": nor"):  # see `tables.word_or`
        words = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        message = f"{value!r} is {f'none of {words},' if ', ' in words else f'neither {words}'}{str(place[-1])[1:]}"
    elif kind in TYPES:
        message = _wrong_type(value, TYPES[kind])
    else:
        context = error.get("ctx", {})
        template = MESSAGES.get(context.get("pattern", kind))
        message = template.format(value=value, **context) if template else error["msg"]
    keys = [part for part in place if not str(part).startswith(":") and part != "[key]"]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
    return (99 if kind == "too_short" else len(keys)), f"{where}: {message}" if where else message


def _wrong_type(value: Any, expected: str) -> str:
    if isinstance(value, str) and (number := _as_number(value, expected)):
        if number == value:  # quoted; but within a table that is how Snakemake's --config reads every number
            return f"{value!r} is a text, not a number (a table with numbers belongs into a file, not into --config)"
        return f"{value!r} is a text in YAML, not a number; write {number}"
    message = f"{value!r} is not of type {expected!r}"
    if expected == "string" and isinstance(value, bool | int | float | datetime.date):
        what = {bool: "no, yes, on and off as truth values", int: "it as a number", float: "it as a number"}
        return f"{message}: YAML reads {what.get(type(value), 'it as a date')}; write it in quotes"
    return message


def _as_number(text: str, expected: str) -> str | None:
    """Return how YAML takes a text as a number of a type; None if it cannot."""
    try:
        number = Decimal(text.strip())
    except ArithmeticError:
        return None
    if not number.is_finite() or abs(number.adjusted()) > LARGEST_EXPONENT:
        return None
    whole = number == number.to_integral_value()
    if expected not in ("number", "integer") or (expected == "integer" and not whole):
        return None
    return str(int(number)) if whole else f"{number:f}"
