"""A model's training as a whole: what shapes its weights, and where they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry
from flare23_lib.cache.results import Results, read_shards
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.nnunet.plans import CONFIGURATION, DATASET_NAME, PLANS_NAME
from flare23_lib.preprocessing.fit_intensity import with_intensity
from flare23_lib.preprocessing.preprocess_cases import ANNOTATED

WEIGHTS = ".safetensors"
FINAL = "model"
"""Name of the entry of the final weights in a training's folder."""
CHECKPOINTS = f"results/{DATASET_NAME}/FlareTrainer__{PLANS_NAME}__{CONFIGURATION}/fold_all"
"""nnU-Net's folder of the checkpoints in a training's folder."""


@dataclass(frozen=True)
class TrainingJob:
    """A model's training: what shapes its weights, and where it is kept.

    Attributes:
        settings: what shapes its weights, with the intensity as numbers and the digest of the initial weights.
        label_names: names of the labels in order.
        rows: `case`, `image`, `label` and `labels_present` of the preprocessed cases; with
            `TrainingProtocol.needs_annotated` `annotated`, too.
    """

    results: Results
    model: str
    settings: TrainingSettings
    label_names: Sequence[str]
    rows: Sequence[Mapping[str, str]]

    @property
    def names(self) -> dict[int, str]:
        """Names of the labels by value."""
        return dict(zip(self.settings.label_values, self.label_names, strict=True))

    @cached_property
    def seen(self) -> list[int]:
        """Label values that a case of the training set has."""
        return sorted({int(value) for row in self.rows for value in row["labels_present"].split()})

    @property
    def unseen(self) -> list[str]:
        """Names of the other labels."""
        return [name for value, name in self.names.items() if value not in self.seen]

    @cached_property
    def folder(self) -> CacheFolder:
        """The folder of the training: its fingerprint holds the settings and every case of the training set."""
        columns = ["case", "image", "label", *([ANNOTATED] if self.settings.training.needs_annotated else [])]
        cases = sorted([row[column] for column in columns] for row in self.rows)
        key = {"version": versions.TRAINING, "settings": self.settings.to_json(), "cases": cases}
        if self.settings.training.loss == "label_sets" and self.settings.hidden_in:
            key["hidden_labels"] = versions.HIDDEN_LABELS
        return self.results.cache("training", key)

    @property
    def weights(self) -> Entry:
        """The entry of the final weights."""
        return Entry(self.folder, FINAL, {"cases": len(self.rows)})

    @property
    def checkpoints(self) -> Path:
        """nnU-Net's folder of the checkpoints."""
        return self.folder.path / CHECKPOINTS


def training_job(
    results: Results,
    model: str,
    settings: TrainingSettings,
    label_names: Sequence[str],
    shards: int,
    intensity: Path | None = None,
    pretrained: Path | None = None,
) -> TrainingJob:
    """Return a model's training, by the shards of its preprocessing.

    Its settings are completed by the record of the measured intensity, if they say `measure`, and by the digest of
    the file of weights to start from.

    Raises:
        StoreError: its cases are not preprocessed.
        BundleError: the initial weights cannot be read.
    """
    from flare23_lib.nnunet.pretrained import digest_of

    settings = with_intensity(settings, intensity)
    settings = TrainingSettings.of(settings, pretrained=digest_of(pretrained))  # the path shapes nothing
    return TrainingJob(results, model, settings, label_names, read_shards(results, "preprocessed", model, shards))
