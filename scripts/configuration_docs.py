"""Write docs/configuration.md from the models of the configuration.

python scripts/configuration_docs.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flare23_lib.config.models import Configuration

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Every key, its values and its default, from `flare23_lib/config/models.py`. `config.yaml` is the paper's recipe, with
reasons; [your_cohort.md](your_cohort.md) shows how to change it. `NAME` stands for a name of your choice, `[]` for
each entry of a list. A key without a default is required, except where the table says *optional*.

Everything that determines a result is part of its fingerprint: a change recomputes what depends on it, nothing else.
`shards`, `device`, `max_training_restarts`, `checkpoint_interval_minutes` and `gpus` are in no fingerprint: results
of one device are not recomputed on another, though they may differ in the last digits, or by the precision that
`precision: auto` chooses on each ([inference.md](inference.md)). Only efficiency is measured again on another device.
"""

ELSEWHERE = {
    "quality_issues": "[faults.md](faults.md) lists kinds, severities and defaults.",
    "model_defaults": "The keys of `models.NAME` except `train_on`, `pretrained`, `gpus`; a model's own keys win.",
}
"""Tables that are listed in another place."""

WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "object": "table"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Node = dict[str, Any]


def _tidy(node: Any) -> Any:
    """Leave out what pydantic adds: titles, null as an alternative, docstrings of tables that a key describes."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if {"type": "null"} in node.get("anyOf", ()):
        inner = next(choice for choice in node.pop("anyOf") if choice != {"type": "null"})
        node = {**inner, **{key: value for key, value in node.items() if key != "default"}}
    if isinstance(node.get("default"), dict):  # each of its keys has its default
        del node["default"]
    if "oneOf" in node:
        node["anyOf"] = node.pop("oneOf")
    if "prefixItems" in node:
        node["items"] = node.pop("prefixItems")[0]
    if "properties" in node:
        first = node.get("required", ())
        node["properties"] = dict(sorted(node["properties"].items(), key=lambda item: item[0] not in first))
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    return node


def page() -> str:
    """Return the page: a section for each key of the configuration that is a table, one for the others."""
    root = _tidy(Configuration.model_json_schema(by_alias=False))
    top = [row for row in _rows(root, root, "") if "." not in row[0] and "[" not in row[0]]
    lines = [INTRODUCTION, *_table(root, top)]
    for key, child in root["properties"].items():
        rows = list(_rows(child, root, key))
        if rows:
            lines += ["", f"## {key}", "", *([ELSEWHERE[key]] if key in ELSEWHERE else _table(root, rows))]
    return "\n".join(lines) + "\n"


def _resolved(node: Node, root: Node) -> Node:
    """Follow a reference; what is beside it wins over what it refers to."""
    if "$ref" not in node:
        return node
    return {**root["$defs"][node["$ref"].rpartition("/")[2]], **node}


def _rows(node: Node, root: Node, name: str) -> Iterator[tuple[str, Node, bool]]:
    """Yield each key below a table: its full name, its schema, whether it must be given."""
    node = _resolved(node, root)
    if node.get("type") == "array":
        yield from _rows(node["items"], root, f"{name}[]")
    for choice in node.get("anyOf", ()):
        yield from _rows(choice, root, name)
    for key, child in node.get("properties", {}).items():
        full = f"{name}.{key}" if name else key
        yield full, _resolved(child, root), key in node.get("required", ())
        yield from _rows(child, root, full)
    for child in (node.get("patternProperties") or {}).values():
        yield from _rows(child, root, f"{name}.NAME")


def _table(root: Node, rows: list[tuple[str, Node, bool]]) -> list[str]:
    head = ["| key | type | default | description |", "|---|---|---|---|"]
    return head + [
        f"| `{name}` | {_kind(node, root)} | {_default(node, required)} | {_linked(node.get('description', ''))} |"
        for name, node, required in rows
    ]


def _kind(node: Node, root: Node) -> str:
    """Return what a key may hold, in a few words."""
    node = _resolved(node, root)
    if "const" in node or "enum" in node:
        return ", ".join(f"`{_plain(value)}`" for value in node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return " or ".join(_kind(choice, root) for choice in node["anyOf"])
    if node["type"] == "array":
        count = f"{node['minItems']} x " if node.get("minItems", 0) == node.get("maxItems") else ""
        return f"list: {count}{_kind(node['items'], root)}"
    return " ".join([WORDS[node["type"]], *(f"{sign} {node[key]}" for key, sign in LIMITS.items() if key in node)])


def _default(node: Node, required: bool) -> str:
    """Return what holds where the key is left out."""
    if node.get("default") == "":
        return "*empty*"
    if isinstance(node.get("default", {}), dict):
        return "" if required else "*optional*"
    return f"`{_plain(node['default'])}`"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _linked(text: str) -> str:
    """Make links of the pages that a description names."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
