"""The configuration: read, merged, checked, and cut into the settings of each stage.

A stage's settings are exactly what shapes its result: they are the stage's `params` in the workflow and part of its
fingerprint in the store. What only says how the work is done (shards, device) is never among them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from flare23_lib.errors import ConfigError
from flare23_lib.labels import LabelMap
from flare23_lib.networks import Architecture


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
    """Read KEY=VALUE pairs as `snakemake --config` takes them, values in YAML; ConfigError if one is not."""
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--config {pair!r} is not KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {pair!r}: the value is not YAML") from error
    return values


def read_yaml(path: Path) -> dict:
    """Read a YAML file that holds a table; ConfigError if it cannot be."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: should hold keys and values")
    return content


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _filled(value: Any, schema: Mapping, root: Mapping) -> Any:
    """Return the value with the schema's defaults where it is silent."""
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{key: item for key, item in schema.items() if key != "$ref"}}
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties")
        filled = {
            key: _filled(item, known.get(key) or (other if isinstance(other, Mapping) else {}), root)
            for key, item in value.items()
        }
        for key, item in known.items():
            default = _default(item, root)
            if key not in filled and default is not None:
                filled[key] = _filled(copy.deepcopy(default), item, root)
        return filled
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_filled(item, schema["items"], root) for item in value]
    return value


def _default(schema: Mapping, root: Mapping) -> Any:
    while "default" not in schema and "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema.get("default")


def _location(error: jsonschema.ValidationError) -> str:
    text = ""
    for part in error.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the configuration"


def _validate(config: Mapping, schema: Mapping) -> None:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        if error.validator == "pattern":
            message = f"{error.instance!r} is not a name of letters, digits and underscores"
            if "nii" in error.validator_value:
                message = f"{error.instance!r} does not end in .nii or .nii.gz"
        else:
            message = error.message
        raise ConfigError(f"{_location(error)}: {message}")


def _architecture(model: Mapping) -> Architecture:
    network = model["network"]
    spec = {"name": network} if isinstance(network, str) else network
    return Architecture.from_spec({**spec, "strides": model["strides"]})


@dataclass(frozen=True)
class Config:
    """A checked configuration with all defaults filled in; `values` is the whole as plain data."""

    values: Mapping[str, Any]

    @classmethod
    def check(cls, values: Mapping, schema_path: Path) -> Config:
        """Check a merged configuration against the schema and in itself.

        Raises:
            ConfigError: one line that names the key.
        """
        schema = read_yaml(schema_path)
        values = _without_nulls(values)
        for name in values.get("models") or {}:
            model = values["models"][name]
            if isinstance(model, Mapping):
                values["models"][name] = merge(values.get("model_defaults") or {}, model)
        values = _filled(values, schema, schema)
        _validate(values, schema)
        config = cls(values)
        config._check_names()
        config._check_circles()
        return config

    @classmethod
    def load(cls, files: Sequence[Path], overrides: Mapping | None = None) -> Config:
        """Read and merge configuration files, the first one with config.schema.yaml beside it, and check them."""
        values: dict = {}
        for path in files:
            values = merge(values, read_yaml(path))
        return cls.check(merge(values, overrides or {}), Path(files[0]).with_name("config.schema.yaml"))

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @cached_property
    def labels(self) -> LabelMap:
        """The label map."""
        return LabelMap.from_config(self["labels"])

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return list(self["models"])

    @property
    def evaluated(self) -> list[str]:
        """The names of the models that are to be evaluated."""
        return [name for name, model in self["models"].items() if model["evaluate"]]

    @property
    def completions(self) -> list[str]:
        """The names of the completions."""
        return list(self["completions"])

    def model(self, name: str) -> Mapping:
        """Return a model's table; ConfigError if there is none."""
        if name not in self["models"]:
            raise ConfigError(f"models: there is no model {name!r}; there are {', '.join(self.models)}")
        return self["models"][name]

    def completion(self, name: str) -> Mapping:
        """Return a completion's row; ConfigError if there is none."""
        if name not in self["completions"]:
            raise ConfigError(f"completions: there is no {name!r}; there are {', '.join(self.completions)}")
        return self["completions"][name]

    def order(self) -> list[tuple[str, str]]:
        """Return ("models" | "completions", name) so that each follows what it needs; ConfigError for a circle."""
        done: list[tuple[str, str]] = []
        path: list[tuple[str, str]] = []

        def visit(node: tuple[str, str]) -> None:
            if node in done:
                return
            if node in path:
                circle = " -> ".join(".".join(step) for step in [*path[path.index(node) :], node])
                raise ConfigError(f"{'.'.join(node)}: goes round in a circle ({circle})")
            path.append(node)
            for need in self._needs(node):
                visit(need)
            done.append(path.pop())

        for name in self.models:
            visit(("models", name))
        for name in self.completions:
            visit(("completions", name))
        return done

    def _needs(self, node: tuple[str, str]) -> list[tuple[str, str]]:
        table, name = node
        if table == "models":
            return [("completions", item) for item in self.model(name)["train_on"]["completions"]]
        row = self.completion(name)
        base = [("completions", row["on_top_of"])] if "on_top_of" in row else []
        return [("models", row["teacher"]), *base]

    def _check_circles(self) -> None:
        self.order()

    def _check_names(self) -> None:
        labels = set(self.labels.names)
        categories = [row["name"] for row in self["categories"]]
        unlabeled = {row["name"] for row in self["categories"] if row.get("no_labels")}

        def known(key: str, names: Sequence[str], there: Sequence[str], what: str) -> None:
            for name in names:
                if name not in there:
                    raise ConfigError(f"{key}: there is no {what} {name!r}; there are {', '.join(there)}")

        for index, row in enumerate(self["categories"]):
            key = f"categories[{index}]"
            if categories.count(row["name"]) > 1:
                raise ConfigError(f"{key}.name: {row['name']!r} is given twice")
            if row.get("no_labels") and len(row) > 2:
                raise ConfigError(f"{key}.no_labels: cannot be combined with other conditions")
            for condition in ("contains_any", "contains_all"):
                known(f"{key}.{condition}", row.get(condition, []), sorted(labels), "label")
        for name, row in self["completions"].items():
            key = f"completions.{name}"
            known(f"{key}.category", [row["category"]], categories, "category")
            known(f"{key}.teacher", [row["teacher"]], self.models, "model")
            if row["annotated"] != "present":
                known(f"{key}.annotated", row["annotated"], self.labels.names, "label")
            if "on_top_of" in row:
                known(f"{key}.on_top_of", [row["on_top_of"]], self.completions, "completion")
                if self.completion(row["on_top_of"])["category"] != row["category"]:
                    raise ConfigError(f"{key}.on_top_of: {row['on_top_of']!r} completes another category")
        for name, model in self["models"].items():
            key = f"models.{name}"
            self._check_training_set(key, model["train_on"], categories, unlabeled, known)
            self._check_network(key, model)

    def _check_training_set(self, key, train_on, categories, unlabeled, known) -> None:
        known(f"{key}.train_on.originals", train_on["originals"], categories, "category")
        known(f"{key}.train_on.completions", train_on["completions"], self.completions, "completion")
        for category in train_on["originals"]:
            if category in unlabeled:
                raise ConfigError(f"{key}.train_on.originals: the category {category!r} has no labels to learn from")
        sources = [*train_on["originals"], *(self.completion(item)["category"] for item in train_on["completions"])]
        if not sources:
            raise ConfigError(f"{key}.train_on: is empty")
        for category in sources:
            if sources.count(category) > 1:
                raise ConfigError(f"{key}.train_on: the category {category!r} would be learned from twice")

    @staticmethod
    def _check_network(key: str, model: Mapping) -> None:
        try:
            architecture = _architecture(model)
        except ConfigError as error:
            raise ConfigError(f"{key}.{str(error).removeprefix('network: ')}") from error
        for axis, (size, factor) in enumerate(zip(model["patch_size"], architecture.downsampling, strict=True)):
            if size % factor:
                raise ConfigError(
                    f"{key}.patch_size: {size} is not a multiple of {factor}, the strides' product along axis {axis}"
                )

    # ------------------------------------------------------------------ what each stage is made from

    def cohort_settings(self) -> dict:
        """What shapes cases.csv, the cohort's place apart."""
        return {key: self[key] for key in ("layout", "labels", "categories", "scan", "faults")}

    def preprocessing_settings(self, model: str) -> dict:
        """What shapes a model's preprocessed cases, and which cases they are."""
        table = self.model(model)
        return {
            "originals": sorted(table["train_on"]["originals"]),
            "completions": sorted(table["train_on"]["completions"]),
            "spacing": table["spacing"],
            "orientation": table["orientation"],
            "intensity": table["intensity"],
            "label_values": self.labels.values,
        }

    def training_settings(self, model: str) -> dict:
        """What shapes a model's weights, its data apart."""
        table = self.model(model)
        return {
            "network": _architecture(table).to_json(),
            "patch_size": table["patch_size"],
            "spacing": table["spacing"],
            "orientation": table["orientation"],
            "intensity": table["intensity"],
            "label_values": self.labels.values,
            "ignore_label": self._may_ignore(model),
            "training": table["training"],
        }

    def _may_ignore(self, model: str) -> bool:
        rows = [self.completion(name) for name in self.model(model)["train_on"]["completions"]]
        while rows:
            row = rows.pop()
            if "ignore" in (row["dropped_to"], row["tumor_inside_organs"]):
                return True
            if "on_top_of" in row:
                rows.append(self.completion(row["on_top_of"]))
        return False

    def inference_settings(self, model: str) -> dict:
        """How a model is used: in the workflow and as the bundle's default."""
        return dict(self.model(model)["inference"])

    def completion_settings(self, completion: str) -> dict:
        """What shapes a completion's labels, teacher and base apart."""
        row = self.completion(completion)
        annotated = row["annotated"]
        return {
            "category": row["category"],
            "annotated": annotated if annotated == "present" else sorted(map(self.labels.value_of, annotated)),
            "dropped_to": row["dropped_to"],
            "tumor_inside_organs": row["tumor_inside_organs"],
            "label_values": self.labels.values,
            "tumor_values": [label.value for label in self.labels.tumors],
        }

    def evaluation_settings(self) -> dict:
        """How predictions are scored."""
        return {"mode": self["evaluation"]["mode"], "labels": self["labels"]}

    def settings(self, stage: str, name: str | None = None) -> str:
        """Return a stage's settings as canonical JSON, as the workflow passes them on."""
        function = getattr(self, f"{stage}_settings")
        return json.dumps(function() if name is None else function(name), sort_keys=True)
