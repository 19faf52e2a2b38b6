"""Write docs/configuration.md from config.schema.yaml.

python scripts/configuration_reference.py > docs/configuration.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).resolve().parent.parent / "config.schema.yaml"

INTRODUCTION = """\
# Configuration

Every key, its values and its default, from `config.schema.yaml`. `config.yaml` is the paper's recipe, with reasons;
[your_cohort.md](your_cohort.md) shows how to change it. `NAME` stands for a name of your choice, `[]` for each entry
of a list. A key without a default must be given, or may be left out where the table says *optional*.

Everything that shapes a result is part of its fingerprint: a change computes anew what depends on it, nothing else.
`shards`, `device`, `retries`, `checkpoint_minutes` and `gpus` are in no fingerprint: what one device made is not made
again on another, though it may differ in the last digits, or by what `precision: auto` takes on each
([inference.md](inference.md)). Only efficiency is measured anew on another device.
"""

ELSEWHERE = {
    "faults": "What is done with each kind of fault: [faults.md](faults.md) lists kinds, severities and defaults.",
    "model_defaults": "What `models.NAME` holds, without `train_on`, `pretrained`, `gpus`; a model's keys win.",
}
"""Tables that are listed in another place."""


def resolved(node: Mapping, schema: Mapping) -> dict:
    """Follow references; what stands beside a reference counts more than what it refers to."""
    node = dict(node)
    while "$ref" in node:
        target: Any = schema
        for part in node.pop("$ref").removeprefix("#/").split("/"):
            target = target[part]
        node = {**target, **node}
    return node


def kind(node: Mapping, schema: Mapping) -> str:
    """Say what a key may hold, in a few words."""
    node = resolved(node, schema)
    if "const" in node:
        return f"`{json.dumps(node['const']).strip(chr(34))}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(kind(choice, schema) for choice in node["anyOf"])
    if node["type"] == "array":
        count = (
            f"{node['minItems']} x " if node.get("minItems") and node.get("minItems") == node.get("maxItems") else ""
        )
        return f"list: {count}{kind(node['items'], schema)}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true, false",
        "object": "table",
    }
    limits = [
        f"{sign} {node[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in node
    ]
    return " ".join([words[node["type"]], *limits])


def rows(node: Mapping, schema: Mapping, name: str) -> Iterator[tuple[str, dict, bool]]:
    """Yield each key below a table: its full name, its schema, whether it must be given."""
    node = resolved(node, schema)
    if node.get("type") == "array":
        yield from rows(node["items"], schema, f"{name}[]")
        return
    for choice in node.get("anyOf", ()):
        yield from rows(choice, schema, name)
    required = node.get("required", ())
    for key, child in node.get("properties", {}).items():
        full = f"{name}.{key}" if name else key
        yield full, resolved(child, schema), key in required
        yield from rows(child, schema, full)
    if isinstance(node.get("additionalProperties"), Mapping) and "properties" in resolved(
        node["additionalProperties"], schema
    ):
        yield from rows(node["additionalProperties"], schema, f"{name}.NAME")


def default(node: Mapping, required: bool) -> str:
    """Say what holds where the key is left out."""
    if node.get("default") == "":
        return "*empty*"
    if "default" in node and node["default"] != {}:
        return f"`{json.dumps(node['default']).strip(chr(34))}`"
    return "" if required else "*optional*"


def reference(schema: Mapping) -> str:
    """Return the page: a section for each key of the configuration that is a table, one for the others."""
    tables = {key: child for key, child in schema["properties"].items() if any(rows(child, schema, key))}
    lines = [
        INTRODUCTION,
        *table(schema, [row for row in rows(schema, schema, "") if "." not in row[0] and "[" not in row[0]]),
    ]
    for key, child in tables.items():
        lines += ["", f"## {key}", ""]
        if key in ELSEWHERE:
            lines.append(ELSEWHERE[key])
        else:
            lines += table(schema, list(rows(child, schema, key)))
    return "\n".join(lines) + "\n"


def table(schema: Mapping, found: list[tuple[str, dict, bool]]) -> list[str]:
    """Return the Markdown of a table of keys."""
    return [
        "| key | holds | default | what it is |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {kind(node, schema)} | {default(node, required)} | {linked(node.get('description', ''))} |"
            for name, node, required in found
        ),
    ]


def linked(text: str) -> str:
    """Make links of the pages that a description names."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def load() -> dict:
    """Read the schema."""
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.stdout.write(reference(load()))
