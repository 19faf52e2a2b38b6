"""A checked configuration: how it is made from files, and the settings of each stage that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

import flare23_lib.config.settings as stages
from flare23_lib.choices import PRESETS, WEIGHTS_FILE
from flare23_lib.config.checks import check_consistency, order_of
from flare23_lib.config.cohort_models import IGNORE, LabelRow, label_map
from flare23_lib.config.load import merge, prepared, read_yaml, refuse_idle_nulls
from flare23_lib.config.messages import explain
from flare23_lib.config.models import Configuration
from flare23_lib.config.smoke import is_smoke, shrunk
from flare23_lib.config.source_checks import label_sources, sources_state
from flare23_lib.config.training_models import (
    Completion,
    InferenceSettings,
    TrainingProtocol,
    TumorCopies,
)
from flare23_lib.errors import ConfigError
from flare23_lib.labels import LabelMap

PHASES = ("training", "inference")
"""The tables of a model that name a precision."""


class Config(Configuration):
    """A checked configuration with all defaults filled in."""

    @classmethod
    def check(cls, values: Mapping) -> Self:
        """Check a merged configuration; a ConfigError is one line that names the key."""
        values = prepared(values)
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, values)) from error
        check_consistency(config)
        return config

    @classmethod
    def load(cls, files: Sequence[Path], overrides: Mapping | None = None) -> Self:
        """Read, merge and check configuration files.

        As Snakemake does it: what is given is merged in itself, then laid over the first file. So a table in one file
        takes back a `null` in a file before it, and the first file's entries with it.
        """
        layers = [read_yaml(file) for file in files]
        recipe, *given = [*layers, overrides or {}]
        merged: dict[str, Any] = reduce(merge, given, {})
        values = merged if merged.get("recipe") == "none" else merge(recipe, merged)
        ours = zip(files, layers, strict=True)
        presets = [layer for file, layer in ours if Path(file).resolve().is_relative_to(PRESETS)]
        refuse_idle_nulls(merged, [recipe, *given], presets)
        smoke = is_smoke(values.pop("smoke", None))
        return cls.check(shrunk(values) if smoke else values)

    @cached_property
    def label_map(self) -> LabelMap:
        """The label map."""
        return label_map(self.labels)

    @property
    def evaluated(self) -> list[str]:
        """The names of the models that are to be evaluated."""
        return [name for name, model in self.models.items() if model.evaluate]

    def order(self) -> list[tuple[str, str]]:
        """Return ("models" | "completions", name) so that each follows what it needs."""
        return order_of(self)

    def pretrained_file(self, model: str) -> Path | None:
        """Return the file of weights that a model starts from; None without one. A folder is a bundle."""
        table = self.models[model]
        if isinstance(table.pretrained, str):
            path = Path(table.pretrained)
            return path / WEIGHTS_FILE if path.is_dir() else path
        name = table.pretrained_model
        return Path(self.results) / "models" / name / WEIGHTS_FILE if name else None

    def check_given_files(self) -> None:
        """Look for the files that the configuration names and no job makes; ConfigError for one that is missing."""
        for name, model in self.models.items():
            path = self.pretrained_file(name)
            if path is not None and model.pretrained_model is None and not path.is_file():
                raise ConfigError(f"models.{name}.pretrained: there is no file {path}")

    def check_precision(self) -> None:
        """Raise ConfigError if this machine only emulates a precision that is given by name."""
        phases = [(name, phase, getattr(model, phase)) for name, model in self.models.items() for phase in PHASES]
        named = {f"models.{name}.{phase}": table.precision for name, phase, table in phases}
        if not set(named.values()) & {"bfloat16", "float16"}:
            return  # PyTorch takes a second to import
        from flare23_lib.runtime.devices import choose
        from flare23_lib.runtime.precision import refuse_emulation

        device = choose(self.device)
        for key, precision in named.items():
            try:
                refuse_emulation(precision, device)
            except ConfigError as error:
                raise ConfigError(f"{key}.{error}") from error

    def cohort_settings(self) -> stages.CohortSettings:
        """Return what shapes cases.csv, the cohort's folder aside."""
        return stages.CohortSettings.of(self, labels=self._plain_labels)

    @property
    def _plain_labels(self) -> list[LabelRow]:
        """The labels without what only trainings depend on."""
        return [label.model_copy(update={"hidden_in": ()}) for label in self.labels]

    def intensity_settings(self, model: str) -> stages.TrainingSet:
        """Return which cases a model's intensity is measured on."""
        train_on = self.models[model].train_on
        return stages.TrainingSet(
            manual_labels=tuple(sorted(train_on.manual_labels)),
            label_completions=tuple(sorted(train_on.label_completions)),
        )

    def preprocessing_settings(self, model: str) -> stages.PreprocessingSettings:
        """Return what shapes a model's preprocessed cases, and which cases they are."""
        return stages.PreprocessingSettings.of(
            self.intensity_settings(model),
            self.models[model],
            label_values=self.label_map.values,
            label_sets=self._label_sets(model),
            label_factor=self.models[model].training.label_factor,
            soft=self._soft(model) or None,
        )

    def background_organs(self, model: str) -> dict[str, int] | None:
        """Return the organs, value by name, that a model's loss takes for background where a manual label lacks them;
        None for a loss that does not, and without manual labels."""
        table = self.models[model]
        if table.training.loss == "label_sets" or not table.train_on.manual_labels:
            return None
        return {label.name: label.value for label in self.labels if label.kind == "organ"}

    def _soft(self, model: str) -> tuple[str, ...]:
        """Return the completions with soft labels that a model learns from, sorted."""
        names = sorted(self.models[model].train_on.label_completions)
        return tuple(name for name in names if self.completions[name].soft)

    def _label_sets(self, model: str) -> stages.LabelSets | None:
        """Return where the annotated labels of a model's cases follow from; None for a training that does not ask."""
        table = self.models[model]
        if not table.training.needs_annotated:
            return None
        names = sorted(table.train_on.label_completions)
        stated = {name: self._annotated(self.completions[name]) for name in names}
        return stages.LabelSets(
            label_completions={
                name: tuple(sorted({one.teacher for one in self._with_bases(name)})) for name in names
            },
            stated={name: annotated for name, annotated in stated.items() if annotated != "present"},
        )

    def _annotated(self, completion: Completion) -> stages.AnnotatedValues:
        """Return what counts as annotated in the cases of a completion, as values of labels."""
        if completion.annotated not in (None, "present"):
            return self._values(completion.annotated)
        category = next(one for one in self.categories if one.name == completion.category)
        is_stated = category.annotated is not None or sources_state(self, category)
        return "only_present" if completion.annotated and is_stated else "present"  # the same where nothing is stated

    def _values(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the values of labels, sorted."""
        return tuple(sorted(map(self.label_map.value_of, names)))

    def _hidden_in(self, values: Collection[int]) -> dict[str, tuple[int, ...]]:
        """Return, by value (as text) of those labels among some that are hidden in others, the values of these."""
        found = [label for label in self.labels if label.hidden_in and label.value in values]
        return {str(label.value): self._values(label.hidden_in) for label in found}

    def _barred_from(self) -> dict[str, tuple[int, ...]]:
        """Return `_hidden_in` of the tumors that cannot be in every organ."""
        organs = {label.value for label in self.label_map.organs}
        hidden_in = self._hidden_in([label.value for label in self.label_map.tumors])
        return {tumor: others for tumor, others in hidden_in.items() if not organs <= set(others)}

    def _with_bases(self, completion: str) -> Iterator[Completion]:
        """Yield a completion and those that it builds on."""
        name: str | None = completion
        while name is not None:
            table = self.completions[name]
            yield table
            name = table.base

    def training_settings(self, model: str) -> stages.TrainingSettings:
        """Return what shapes a model's weights, its data aside."""
        table = self.models[model]
        completions = [one for name in table.train_on.label_completions for one in self._with_bases(name)]
        learned = {*table.train_on.manual_labels, *(one.category for one in completions)}
        sources = [source for one in self.categories if one.name in learned for source in label_sources(self, one)]
        hidden_in = self._hidden_in(self.label_map.values)
        return stages.TrainingSettings.of(
            table,
            network=table.architecture,
            label_values=self.label_map.values,
            ignore_label=table.ignore_label == "always"
            or any(IGNORE in source.targets for source in sources)
            or any(one.may_ignore for one in completions),
            pretrained=None,
            hidden_in=hidden_in if table.training.needs_annotated else None,
            soft=bool(self._soft(model)),
            training=self._protocol(table.training, bool(hidden_in)),
        )

    def _protocol(self, training: TrainingProtocol, may_hide: bool) -> TrainingProtocol:
        """Return how a model is trained, with the copied label by its value (as text).

        Without label sets, or labels that may be hidden, the weight of hidden labels is the default.
        """
        if training.loss != "label_sets" or not may_hide:
            default = TrainingProtocol.model_fields["hidden_weight"].default
            training = TrainingProtocol.of(training, hidden_weight=default)
        if training.copy_tumors is None:
            return training
        value = str(self.label_map.value_of(training.copy_tumors.label))
        return TrainingProtocol.of(training, copy_tumors=TumorCopies.of(training.copy_tumors, label=value))

    def inference_settings(self, model: str) -> InferenceSettings:
        """Return how a model is used: in the workflow, and as the default of its bundle."""
        return self.models[model].inference

    def completion_settings(self, completion: str) -> stages.CompletionSettings:
        """Return what shapes a completion's labels, teacher and base aside."""
        table, value_of = self.completions[completion], self.label_map.value_of
        return stages.CompletionSettings.of(
            table,
            annotated=self._annotated(table),
            min_component_ml={str(value_of(label)): volume for label, volume in table.min_component_ml.items()},
            label_values=self.label_map.values,
            tumor_values=[label.value for label in self.label_map.tumors],
            hidden_in=self._barred_from() if any("tumor" in name for name in table.chosen) else {},
        )

    def pseudo_label_settings(self, completion: str) -> stages.PseudoLabelSettings:
        """Return what a completion needs of its teacher."""
        settings = self.completion_settings(completion)
        return stages.PseudoLabelSettings(
            category=settings.category, votes=bool(settings.asking_for_votes), soft=settings.soft
        )

    def evaluation_settings(self) -> stages.EvaluationSettings:
        """Return how predictions are scored."""
        return stages.EvaluationSettings.of(self.evaluation, labels=self._plain_labels)

    def tables_settings(self) -> stages.TablesSettings:
        """Return what the paper's tables are made of."""
        measured = self.evaluation.efficiency_cases > 0
        labels = self._plain_labels
        return stages.TablesSettings.of(self.evaluation, labels=labels, models=self.evaluated, measured=measured)

    def method_settings(self) -> stages.MethodSettings:
        """Return what the drawing of the method is made of."""
        return stages.MethodSettings.of(
            self, models={name: stages.MethodModel.of(model) for name, model in self.models.items()}
        )
