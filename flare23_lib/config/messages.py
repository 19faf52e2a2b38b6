"""What is wrong with a configuration, in one line that names the key."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flare23_lib.config.tables import FILE_PATTERN, IDENTIFIER, PREFIX
from flare23_lib.errors import ConfigError
from flare23_lib.runtime import devices

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
    PREFIX: "{value!r} has a slash, or begins with a dot; files are named after their cases",
}
"""Messages by pydantic's type of error or, where a pattern does not match, by pattern."""


def check_known(key: str, names: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse a name that is not among the known ones."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: there is no {what} {name!r}; there are {', '.join(known)}")


def explain(error: ValidationError, values: Mapping | None = None) -> str:
    """Return one line that names the key and what is wrong: of several errors the one nearest to the top.

    With the whole configuration it names the other models or completions where a key of a new one is missing.
    """
    found = (_explain(details, values or {}) for details in error.errors(include_url=False))
    return min(found, key=lambda line: line[0])[1]


def _explain(error: ErrorDetails, values: Mapping) -> tuple[int, str]:
    """Return how far down an error is, and its line; a list with a wrong entry counts as too short, too."""
    kind, value, place = error["type"], error["input"], list(error["loc"])
    if kind == "missing":
        key = place.pop()
        message = f"the key {key!r} is missing" if isinstance(key, str) else f"has {key} entries, too few"
        if len(place) == 2 and place[0] in ("models", "completions"):
            others = [name for name in values[place[0]] if name != place[1]]
            message += f"; a new entry needs it (there are {', '.join(map(str, others))})" if others else ""
            if values.get("recipe") == "none":
                message += "; with `recipe: none` there is no entry of FLARE23's recipe, which its presets need"
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
