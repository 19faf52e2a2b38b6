"""The configuration: read, merged, checked, and cut into the settings of each stage.

A stage's settings are exactly what shapes its result: in the workflow they are a file that its jobs take as input
(`results/settings`), and they are part of its fingerprint in the store. What only says how the work is done (shards,
device) is never among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from flare23_lib.config_checks import MEASURE, architecture_of, check_consistency
from flare23_lib.config_files import filled_in, merge, read_yaml, validate, without_nulls
from flare23_lib.errors import ConfigError
from flare23_lib.labels import LabelMap
from flare23_lib.pseudo_labels.rules import PASSES, RULES, Rules

BUNDLE_WEIGHTS = "model.safetensors"
"""The file of weights in a bundle's folder."""


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
        values = without_nulls(values)
        models, defaults = values.get("models"), values.get("model_defaults", {})
        if isinstance(models, Mapping) and isinstance(defaults, Mapping):  # else the schema has something to say
            values["models"] = {
                name: merge(defaults, model) if isinstance(model, Mapping) else model
                for name, model in models.items()
            }
        values = filled_in(values, schema, schema)
        validate(values, schema)
        config = cls(values)
        check_consistency(config)
        return config

    @classmethod
    def load(cls, files: Sequence[Path], overrides: Mapping | None = None) -> Config:
        """Read and merge configuration files, the first one with config.schema.yaml beside it, and check them.

        As Snakemake does it: what is given is merged in itself, then laid over the first file. So a table in one file
        takes back a `null` in a file before it, and the first file's entries with it.
        """
        recipe, *given = map(read_yaml, files)
        changes = reduce(merge, [*given, overrides or {}], {})
        return cls.check(merge(recipe, changes), Path(files[0]).with_name("config.schema.yaml"))

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
            source = self.pretrained_model(name)
            first = [] if source is None else [("models", source)]
            return first + [("completions", item) for item in self.model(name)["train_on"]["completions"]]
        row = self.completion(name)
        others = [other for other in (row.get("on_top_of"), self.compared_completion(name)) if other is not None]
        return [("models", row["teacher"]), *(("completions", other) for other in others)]

    # ------------------------------------------------------------------ what a model is made from

    def pretrained_model(self, model: str) -> str | None:
        """Return the model of the configuration that a model starts from; None without one."""
        source = self.model(model).get("pretrained")
        return source["model"] if isinstance(source, Mapping) else None

    def pretrained_file(self, model: str) -> Path | None:
        """Return the file of weights that a model starts from; None without one. A folder is a bundle."""
        source = self.model(model).get("pretrained")
        if source is None:
            return None
        if isinstance(source, Mapping):
            return Path(self["results"]) / "models" / source["model"] / BUNDLE_WEIGHTS
        return Path(source) / BUNDLE_WEIGHTS if Path(source).is_dir() else Path(source)

    def check_given_files(self) -> None:
        """Look for the files that the configuration names and no job makes; ConfigError for one that is missing."""
        benchmark = self["report"]["inference_benchmark"]
        if benchmark and not Path(benchmark).is_file():
            raise ConfigError(f"report.inference_benchmark: there is no file {benchmark}")
        for name in self.models:
            path = self.pretrained_file(name)
            if path is not None and self.pretrained_model(name) is None and not path.is_file():
                raise ConfigError(f"models.{name}.pretrained: there is no file {path}")

    def is_measured(self, model: str) -> bool:
        """Say whether a model's intensity is to be measured on its training set."""
        return self.model(model)["intensity"] == MEASURE

    # ------------------------------------------------------------------ what each stage is made from

    def cohort_settings(self) -> dict:
        """What shapes cases.csv, the cohort's place apart."""
        return {key: self[key] for key in ("layout", "labels", "categories", "scan", "faults")}

    def intensity_settings(self, model: str) -> dict:
        """Which cases a model's intensity is measured on."""
        train_on = self.model(model)["train_on"]
        return {key: sorted(train_on[key]) for key in ("originals", "completions")}

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
            "network": architecture_of(table).to_json(),
            "patch_size": table["patch_size"],
            "spacing": table["spacing"],
            "orientation": table["orientation"],
            "intensity": table["intensity"],
            "label_values": self.labels.values,
            "ignore_label": table["ignore_label"] == "always" or self._may_ignore(model),
            "training": table["training"],
        }

    def _may_ignore(self, model: str) -> bool:
        rows = [self.completion(name) for name in self.model(model)["train_on"]["completions"]]
        while rows:
            row = rows.pop()
            if Rules.of(row).may_ignore:
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
            **{name: row[name] for name in RULES},
            "least_volume_ml": {
                str(self.labels.value_of(label)): volume for label, volume in row["least_volume_ml"].items()
            },
            "leave_out": row.get("leave_out"),
            "label_values": self.labels.values,
            "tumor_values": [label.value for label in self.labels.tumors],
        }

    def compared_completion(self, completion: str) -> str | None:
        """Return the completion that one is compared with to leave cases out; None if with none."""
        other = self.completion(completion).get("leave_out", {}).get("changed_between", PASSES)
        return None if other == PASSES else other

    def evaluation_settings(self) -> dict:
        """How predictions are scored."""
        return {
            **{key: self["evaluation"][key] for key in ("mode", "min_dsc_for_nsd", "references", "details")},
            "labels": self["labels"],
        }

    def tables_settings(self) -> dict:
        """What the paper's tables are made of."""
        return {
            **self.evaluation_settings(),
            "models": self.evaluated,
            "compare": self["evaluation"]["compare"],
            "measured": self["evaluation"]["efficiency_cases"] > 0,
        }

    def report_settings(self) -> dict:
        """What the report tells of the configuration: all of it."""
        return dict(self.values)

    def estimate_settings(self) -> dict:
        """What the cost of a run follows from, the cases apart."""
        return {key: self[key] for key in ("labels", "categories", "scan", "completions", "models", "device")}

    def settings(self, stage: str, name: str | None = None) -> dict:
        """Return a stage's settings as the workflow passes them on: plain data, keys in the alphabet's order."""
        function = getattr(self, f"{stage}_settings")
        return json.loads(json.dumps(function() if name is None else function(name), sort_keys=True))
