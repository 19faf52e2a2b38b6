"""What the schema cannot check: whether the parts of a configuration fit together.

Every refusal is a ConfigError of one line that names the key.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.batches import forced_patches
from flare23_lib.cohort.categories import Category, parse_part
from flare23_lib.cohort.folders import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT_FOLDERS
from flare23_lib.devices import SEVERAL, check_name
from flare23_lib.errors import ConfigError
from flare23_lib.networks import Architecture
from flare23_lib.pseudo_labels.rules import PASSES, Rules

if TYPE_CHECKING:
    from flare23_lib.config import Config

MEASURE = "measure"
"""In the place of a model's intensity: its four numbers are measured on the training set."""


def check_consistency(config: Config) -> None:
    """Refuse a configuration that contradicts itself, names what is not there, or goes round in a circle."""
    check_name(config["device"])
    _check_layout(config)
    _check_categories(config)
    for name in config.completions:
        _check_completion(config, name)
    for index, pair in enumerate(config["evaluation"]["compare"]):
        _check_known(f"evaluation.compare[{index}]", pair, config.evaluated, "evaluated model")
    for name in config.models:
        _check_model(config, name)
    config.order()


def architecture_of(model: Mapping) -> Architecture:
    """Return the architecture that a model's table describes; ConfigError if there is none such."""
    network = model["network"]
    spec = {"name": network} if isinstance(network, str) else network
    return Architecture.from_spec({**spec, "strides": model["strides"]})


def _check_known(key: str, names: Collection[str], there: Collection[str], what: str) -> None:
    """Refuse a name that is not among those that are there."""
    for name in names:
        if name not in there:
            raise ConfigError(f"{key}: there is no {what} {name!r}; there are {', '.join(there)}")


def _unlabeled(config: Config) -> set[str]:
    return {row["name"] for row in config["categories"] if row.get("no_labels")}


def _category_names(config: Config) -> list[str]:
    return [row["name"] for row in config["categories"]]


def _check_layout(config: Config) -> None:
    layout = config["layout"]
    folders = [folder for key in LAYOUT_FOLDERS for folder in layout[key]]
    _check_known("layout.prefixes", layout["prefixes"], folders, "folder")
    if layout["image_suffix"] != layout["label_suffix"]:
        return
    of_images = {folder: Path(os.path.normpath(folder)) for key in IMAGE_FOLDERS for folder in layout[key]}
    for key in LABEL_FOLDERS:
        for folder in layout[key]:
            place = Path(os.path.normpath(folder))
            for other, images in of_images.items():
                if place.is_relative_to(images) or images.is_relative_to(place):
                    raise ConfigError(
                        f"layout.{key}: {folder!r} and the images' {other!r} share files, and image_suffix and "
                        "label_suffix are the same: nothing tells the one from the other"
                    )


def _check_categories(config: Config) -> None:
    names = _category_names(config)
    folders = [*config["layout"]["training_images"], *config["layout"]["unlabeled_images"]]
    for index, row in enumerate(config["categories"]):
        key = f"categories[{index}]"
        if names.count(row["name"]) > 1:
            raise ConfigError(f"{key}.name: {row['name']!r} is given twice")
        if row["name"] == "validation":
            raise ConfigError(f"{key}.name: 'validation' is kept for the validation cases")
        nothing = {"contains_any": "no case", "contains_all": "every labeled case", "folders": "no case"}
        for condition, fits in nothing.items():
            if row.get(condition) == []:
                raise ConfigError(f"{key}.{condition}: is empty, {fits} would fit")
        if row.get("no_labels") and row.keys() & {"contains_any", "contains_all"}:
            raise ConfigError(f"{key}.no_labels: cannot be combined with conditions on labels")
        for condition in ("contains_any", "contains_all"):
            _check_known(f"{key}.{condition}", row.get(condition, []), sorted(config.labels.names), "label")
        _check_known(f"{key}.folders", row.get("folders", []), folders, "folder of training images in the layout")
        if "part" in row:
            try:
                parse_part(row["part"])
            except ValueError as error:
                raise ConfigError(f"{key}.part: {error}") from error
    categories = [Category.from_config(row, config.labels) for row in config["categories"]]
    for index, category in enumerate(categories):
        for earlier in categories[:index]:
            if earlier.covers(category):
                raise ConfigError(
                    f"categories[{index}]: {category.name!r} gets no case; each that fits it fits "
                    f"{earlier.name!r} before it"
                )


def _check_completion(config: Config, name: str) -> None:
    key, row = f"completions.{name}", config.completion(name)
    if name == PASSES:
        raise ConfigError(f"{key}: the name is kept for leave_out.changed_between")
    _check_known(f"{key}.category", [row["category"]], _category_names(config), "category")
    _check_known(f"{key}.teacher", [row["teacher"]], config.models, "model")
    _check_known(f"{key}.least_volume_ml", row["least_volume_ml"], config.labels.names, "label")
    if row["annotated"] != "present":
        _check_known(f"{key}.annotated", row["annotated"], config.labels.names, "label")
        if row["annotated"] and row["category"] in _unlabeled(config):
            raise ConfigError(f"{key}.annotated: the category {row['category']!r} has no labels")
    for rule in ("dropped_to", "unmarked_tumors", "tumor_inside_organs"):
        default = getattr(Rules, rule)
        if row[rule] != default and row["category"] in _unlabeled(config) and "on_top_of" not in row:
            raise ConfigError(f"{key}.{rule}: the category {row['category']!r} has no labels that it could meet")
    others = {"on_top_of": row.get("on_top_of"), "leave_out.changed_between": config.compared_completion(name)}
    for place, other in others.items():
        if other is not None:
            _check_known(f"{key}.{place}", [other], config.completions, "completion")
            if config.completion(other)["category"] != row["category"]:
                raise ConfigError(f"{key}.{place}: {other!r} completes another category")
    for rule, default in (("unmarked_tumors", "keep_original"), ("tumor_inside_organs", "keep_organ")):
        if row[rule] != default and not config.labels.tumors:
            raise ConfigError(f"{key}.{rule}: no label is of the kind tumor")
    _check_passes(config, key, row)


def _check_passes(config: Config, key: str, row: Mapping) -> None:
    """Refuse what asks for mirrored passes of a teacher that has none."""
    asking = [name for name in ("tumor_inside_organs", "unmarked_tumors") if row[name] == "if_sure"]
    asking += ["unsure_below"] if row["unsure_below"] else []
    asking += ["leave_out"] if row.get("leave_out", {}).get("changed_between") == PASSES else []
    teacher = config.model(row["teacher"])
    if asking and not (teacher["inference"]["tta"] and teacher["training"]["mirror_axes"]):
        raise ConfigError(
            f"{key}.{asking[0]}: asks how the passes of test-time augmentation agree; models.{row['teacher']} "
            "has none (inference.tta, training.mirror_axes)"
        )


def _check_model(config: Config, name: str) -> None:
    key, model = f"models.{name}", config.model(name)
    _check_training_set(config, f"{key}.train_on", model["train_on"])
    _check_network(key, model)
    intensity = model["intensity"]
    if intensity != MEASURE and intensity["low"] >= intensity["high"]:
        raise ConfigError(f"{key}.intensity: low {intensity['low']} is not below high {intensity['high']}")
    if (source := config.pretrained_model(name)) is not None:
        _check_known(f"{key}.pretrained", [source], config.models, "model")
        _check_pretrained(config, key, model, source)
    _check_training(f"{key}.training", model["training"])
    if model["inference"]["precision"] == "float16" and config["device"] == "cpu":
        raise ConfigError(f"{key}.inference.precision: float16 is for GPUs, and device is cpu; bfloat16 is for both")
    if model["gpus"] > model["training"]["batch_size"]:
        raise ConfigError(f"{key}.gpus: {model['gpus']} cannot share a batch_size of fewer patches")
    if model["gpus"] > 1 and config["device"] not in SEVERAL:
        raise ConfigError(f"{key}.gpus: device {config['device']} is one GPU, not {model['gpus']}; use cuda")


def _check_training(key: str, training: Mapping) -> None:
    size, share = training["batch_size"], training["oversample_foreground"]
    if share and not forced_patches(size, share):
        raise ConfigError(
            f"{key}.oversample_foreground: {share} of a batch of {size} is no patch, as nnU-Net rounds it; "
            "0 is none on purpose"
        )


def _check_training_set(config: Config, key: str, train_on: Mapping) -> None:
    _check_known(f"{key}.originals", train_on["originals"], _category_names(config), "category")
    _check_known(f"{key}.completions", train_on["completions"], config.completions, "completion")
    for category in train_on["originals"]:
        if category in _unlabeled(config):
            raise ConfigError(f"{key}.originals: the category {category!r} has no labels to learn from")
    sources = [*train_on["originals"], *(config.completion(item)["category"] for item in train_on["completions"])]
    if not sources:
        raise ConfigError(f"{key}: is empty")
    for category in sources:
        if sources.count(category) > 1:
            raise ConfigError(f"{key}: the category {category!r} would be learned from twice")


def _check_network(key: str, model: Mapping) -> None:
    try:
        architecture = architecture_of(model)
    except ConfigError as error:
        raise ConfigError(f"{key}.{str(error).removeprefix('network: ')}") from error
    for axis, (size, factor) in enumerate(zip(model["patch_size"], architecture.downsampling, strict=True)):
        if size % factor:
            raise ConfigError(
                f"{key}.patch_size: {size} is not a multiple of {factor}, the strides' product along axis {axis}"
            )


def _check_pretrained(config: Config, key: str, model: Mapping, source: str) -> None:
    one, other = architecture_of(model), architecture_of(config.model(source))
    for part in ("depth", "widths", "kernel_sizes"):
        if getattr(one, part) != getattr(other, part):
            raise ConfigError(
                f"{key}.pretrained: {source} has another network ({part} {getattr(other, part)}), whose weights "
                "do not fit"
            )
