"""A smoke run: any configuration, made small enough to see in minutes whether all of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare23_lib.config.load import merge
from flare23_lib.errors import ConfigError

CASES = 4
"""Cases of each category and source, and as many for validation."""

MODEL: dict[str, Any] = {
    "network": "stunet_tiny",
    "patch_size": [32, 48, 48],
    "spacing": [6, 5, 5],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "gpus": 1,
    "training": {
        "epochs": 2,
        "iterations_per_epoch": 10,
        "validation_iterations": 2,
        "batch_size": 2,
        "optimizer": "adamw",
        "learning_rate": 0.005,
        "oversample_foreground": 0.5,  # a smaller share of two patches can be none
    },
}
"""What every model becomes; what is not named here stays as it is."""

OTHERS: dict[str, Any] = {
    "scan": {"check_images": "header", "cases_per_category": CASES},
    "report": {"viewer_cases": 2},
    "shards": {"preprocessing": 1, "pseudo_labels": 2, "predictions": 1},
}


def is_smoke(value: object) -> bool:
    """Read the key `smoke`, a text if Snakemake's --config gave it; ConfigError if it is neither true nor false."""
    choices = {"true": True, "false": False, "none": False}
    if (word := str(value).lower()) not in choices:
        raise ConfigError(f"smoke: {value!r} is neither true nor false")
    return choices[word]


def shrunk(values: Mapping) -> dict[str, Any]:
    """Return a merged configuration with tiny networks, little training and few cases, in a folder of its own.

    Its labels, sources, categories, completions and policies stay. Weights from files do not fit tiny networks and
    are not loaded; `pretrained: {model: NAME}` stays. ConfigError for results in `..`.
    """
    results = Path(str(values.get("results") or "results"))
    if results.name == "..":
        raise ConfigError(f"results: {str(results)!r} can have no folder smoke beside it; give its path by name")
    small = merge(values, {**OTHERS, "results": str(results.parent / "smoke" / results.name)})
    models = small.get("models")
    if isinstance(models, Mapping):
        small["models"] = {name: _small_model(table) for name, table in models.items()}
    evaluation = small.get("evaluation")
    if isinstance(evaluation, Mapping) and evaluation.get("efficiency_cases"):
        small["evaluation"] = {**evaluation, "efficiency_cases": 1}
    return small


def _small_model(table: Any) -> Any:
    if not isinstance(table, Mapping):
        return table
    small = merge(table, MODEL)
    if isinstance(small.get("pretrained"), str):
        del small["pretrained"]
    return small
