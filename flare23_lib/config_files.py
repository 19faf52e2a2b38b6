"""Configuration files: read, merged as Snakemake merges them, filled with defaults, checked against the schema."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from flare23_lib.errors import ConfigError

KINDS = {"object": "a table", "array": "a list"}
"""How messages call the schema's types."""

LARGEST_EXPONENT = 30
"""Of the numbers that a message writes out."""

NOWHERE = "the configuration"
"""In the place of a key, for what is wrong with the whole."""


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
    """Read KEY=VALUE pairs as `snakemake --config` takes them; ConfigError if one is none.

    A value is a number, True or False, or YAML in which all values are texts.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--config {pair!r} is not KEY=VALUE")
        value = _override(text.strip("'\""))
        if value is None and text:
            raise ConfigError(f"--config {pair!r}: the value is empty")
        values = merge(values, {key: value})
    return values


def _override(text: str) -> Any:
    """Read a value as Snakemake does."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for parse in (int, float, partial(yaml.load, Loader=yaml.BaseLoader)):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            return parse(text)
    return text


def read_yaml(path: Path) -> dict:
    """Read a YAML file that holds a table; ConfigError if it cannot be, or if a table in it has a key twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        twice = _key_given_twice(yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if twice is not None:
        raise ConfigError(f"{path}: {twice.value} is there twice in a table (line {twice.start_mark.line + 1})")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: should hold keys and values")
    return content


def _key_given_twice(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """Find a key that a table has twice; YAML's readers keep the last and lose the others in silence."""
    if isinstance(node, yaml.MappingNode):
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                return key
            known.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        inner = [value for _, value in node.value]
    else:
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
    return next((found for found in map(_key_given_twice, inner) if found is not None), None)


def without_nulls(value: Any) -> Any:
    """Return a value without the entries of its tables that are None."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def filled_in(value: Any, schema: Mapping, root: Mapping) -> Any:
    """Return the value with the schema's defaults where it is silent, and whole numbers as integers.

    So 2 and 2.0 are one setting, as they are for the schema, and one fingerprint.
    """
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{key: item for key, item in schema.items() if key != "$ref"}}
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties")
        filled = {
            key: filled_in(item, known.get(key) or (other if isinstance(other, Mapping) else {}), root)
            for key, item in value.items()
        }
        for key, item in known.items():
            default = _default(item, root)
            if key not in filled and default is not None:
                filled[key] = filled_in(copy.deepcopy(default), item, root)
        return filled
    if isinstance(value, list):
        return [filled_in(item, schema.get("items", {}), root) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _default(schema: Mapping, root: Mapping) -> Any:
    while "default" not in schema and "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema.get("default")


def _check_finite(value: Any, path: tuple = ()) -> None:
    """Refuse NaN and infinity, which YAML knows and JSON does not."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{_location(path)}: {value} is not a finite number")
    if isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            _check_finite(item, (*path, key))


def _location(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or NOWHERE


def validate(config: Mapping, schema: Mapping) -> None:
    """Check a configuration against the schema; ConfigError with one line that names the key."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    error = jsonschema.exceptions.best_match(errors)
    if error is None:
        _check_finite(config)
        return
    where = _location(error.absolute_path)
    raise ConfigError(_message(error) if where == NOWHERE else f"{where}: {_message(error)}")


def _message(error: jsonschema.ValidationError) -> str:
    """Say what is wrong and, where the schema knows, what would be right."""
    value, schema = error.instance, error.schema
    if error.validator == "pattern":
        if "nii" in error.validator_value:
            return f"{value!r} does not end in .nii or .nii.gz"
        return f"{value!r} is not a name of letters, digits and underscores that begins with a letter"
    if error.validator == "additionalProperties" and "properties" in schema:
        unknown = sorted(set(value) - set(schema["properties"]), key=str)
        return f"there is no key {', '.join(map(repr, unknown))}; there are {', '.join(sorted(schema['properties']))}"
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(value))
        return f"the key {missing[0]!r} is missing"
    if error.validator == "anyOf" and isinstance(value, str) and (fixed := _fixed_values(error.validator_value)):
        words = f"none of {', '.join(fixed)}," if len(fixed) > 1 else f"neither {fixed[0]}"
        kinds = [KINDS[choice["type"]] for choice in error.validator_value if choice.get("type") in KINDS]
        return f"{value!r} is {words} nor {' nor '.join(kinds) or 'what else fits (docs/configuration.md)'}"
    if error.validator == "type" and isinstance(value, str) and (number := _as_number(value, error.validator_value)):
        if number == value:  # quoted; but within a table that is how Snakemake's --config reads every number
            return f"{value!r} is a text, not a number (a table with numbers belongs into a file, not into --config)"
        return f"{value!r} is a text in YAML, not a number; write {number}"
    return error.message


def _as_number(text: str, kind: str) -> str | None:
    """Return how YAML takes a text as a number of a kind of the schema's; None if it is none."""
    try:
        number = Decimal(text.strip())
    except ArithmeticError:
        return None
    if abs(number.adjusted()) > LARGEST_EXPONENT:
        return None
    whole = number.is_finite() and number == number.to_integral_value()
    if not number.is_finite() or kind not in ("number", "integer") or (kind == "integer" and not whole):
        return None
    return f"{number:f}" if not whole else str(int(number))


def _fixed_values(choices: Sequence[Mapping]) -> list[str]:
    """Return the words among the choices of a schema."""
    return [word for choice in choices for word in choice.get("enum", [choice["const"]] if "const" in choice else [])]
