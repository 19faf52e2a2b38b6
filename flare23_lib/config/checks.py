"""Whether the parts of a configuration fit together. A refusal is a ConfigError of one line that names the key."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from itertools import pairwise

from flare23_lib.config.cohort_models import Category, label_map, subset_of
from flare23_lib.config.messages import check_known
from flare23_lib.config.models import Configuration
from flare23_lib.config.source_checks import (
    check_sources,
    label_sources,
    labels_held,
    sources_state,
    stated_labels,
)
from flare23_lib.config.training_models import Completion, ModelSettings, TrainingProtocol
from flare23_lib.errors import ConfigError
from flare23_lib.runtime.devices import SEVERAL

MAX_CHARACTERS = 100_000
"""Of a configuration as JSON: rules pass it on in a command line, and Linux takes 131,072 characters of that."""


def check_consistency(config: Configuration) -> None:
    """Refuse a configuration that contradicts itself, names what is not there, or has a circle."""
    _check_labels(config)
    check_sources(config)
    _check_categories(config)
    for name, completion in config.completions.items():
        _check_completion(config, name, completion)
    evaluated = [name for name, model in config.models.items() if model.evaluate]
    for index, pair in enumerate(config.evaluation.compare):
        check_known(f"evaluation.compare[{index}]", pair, evaluated, "evaluated model")
    for name, model in config.models.items():
        _check_model(config, name, model)
    order_of(config)
    sizes = {key: len(json.dumps(part)) for key, part in config.to_json(by_alias=False).items()}
    if sum(sizes.values()) > MAX_CHARACTERS:
        largest = max(sizes, key=sizes.__getitem__)
        raise ConfigError(
            f"{largest}: has {sizes[largest]} characters; a configuration of more than {MAX_CHARACTERS} does not fit "
            "into the command line of a job. Put links to many cases' files into a folder instead of naming each"
        )


def order_of(config: Configuration) -> list[tuple[str, str]]:
    """Return ("models" | "completions", name) so that each follows what it needs; ConfigError for a circle."""
    done: dict[tuple[str, str], None] = {}

    def visit(node: tuple[str, str], *path: tuple[str, str]) -> None:
        if node in path:
            circle = " -> ".join(".".join(step) for step in [*path[path.index(node) :], node])
            raise ConfigError(f"{'.'.join(node)}: needs itself, in a circle ({circle})")
        for need in _needs(config, *node):
            if need not in done:
                visit(need, *path, node)
        done[node] = None

    for table in ("models", "completions"):
        for name in getattr(config, table):
            visit((table, name))
    return [*done]


def _needs(config: Configuration, table: str, name: str) -> list[tuple[str, str]]:
    if table == "models":
        model = config.models[name]
        source = model.pretrained_model
        first = [] if source is None else [("models", source)]
        return first + [("completions", item) for item in model.train_on.label_completions]
    completion = config.completions[name]
    first = [] if completion.base is None else [("completions", completion.base)]
    return [("models", completion.teacher), *first]


def _unlabeled(config: Configuration) -> set[str]:
    return {category.name for category in config.categories if category.no_labels}


def _category_names(config: Configuration) -> list[str]:
    return [category.name for category in config.categories]


def _label_names(config: Configuration) -> list[str]:
    return [label.name for label in config.labels]


def _check_labels(config: Configuration) -> None:
    label_map(config.labels)
    for index, label in enumerate(config.labels):
        check_known(f"labels[{index}].hidden_in", label.hidden_in, _label_names(config), "label")
        if label.name in label.hidden_in:
            raise ConfigError(f"labels[{index}].hidden_in: {label.name!r} cannot be hidden in itself")


def _check_categories(config: Configuration) -> None:
    names = _category_names(config)
    folders = [folder for source in config.sources.values() for folder in source.image_folders]
    for index, category in enumerate(config.categories):
        key = f"categories[{index}]"
        if names.count(category.name) > 1:
            raise ConfigError(f"{key}.name: {category.name!r} is given twice")
        if category.name == "validation":
            raise ConfigError(f"{key}.name: 'validation' is kept for the validation cases")
        if category.to_json().keys() <= {"name", "annotated"}:
            raise ConfigError(f"{key}: {category.name!r} has no condition")
        conditions = {
            "contains_any": (category.contains_any, "no case"),
            "contains_all": (category.contains_all, "every labeled case"),
        }
        for condition, (labels, fits) in conditions.items():
            if labels == ():
                raise ConfigError(f"{key}.{condition}: is empty, {fits} would fit")
            if labels and category.no_labels:
                raise ConfigError(f"{key}.no_labels: cannot be combined with conditions on labels")
            check_known(f"{key}.{condition}", labels or (), sorted(_label_names(config)), "label")
        if category.annotated not in (None, "present"):
            check_known(f"{key}.annotated", category.annotated, _label_names(config), "label")
            if category.annotated and category.no_labels:
                raise ConfigError(f"{key}.annotated: the category {category.name!r} has no labels")
        for condition in ("folders", "sources"):
            if getattr(category, condition) == ():
                raise ConfigError(f"{key}.{condition}: is empty, no case would fit")
        check_known(f"{key}.sources", category.sources or (), config.sources, "source")
        if not category.no_labels and not label_sources(config, category):
            raise ConfigError(f"{key}: its sources have no labels; add `no_labels: true`")
        _check_stated(config, index, category)
        given = {os.path.normpath(folder): folder for folder in category.folders or ()}
        check_known(f"{key}.folders", given, [*map(os.path.normpath, folders)], "folder of training images")
        for earlier in config.categories[:index]:
            if covers(earlier, category):
                raise ConfigError(
                    f"{key}: {category.name!r} gets no case; each that fits it fits {earlier.name!r} before it"
                )


def _check_stated(config: Configuration, index: int, category: Category) -> None:
    """Refuse labels in `annotated` of a category that a source of its cases has no value or mask for."""
    if category.annotated in (None, "present"):
        return
    for name in category.sources or config.sources:
        source = config.sources[name]
        held = labels_held(config, source)
        missing = [label for label in category.annotated if label not in held]
        part = category.model_copy(update={"sources": (name,)})
        can_fit = part.model_copy(update={"subset": None}).fits("", held, source.image_folders, name)
        taken = any(covers(earlier, part) for earlier in config.categories[:index])
        if missing and source.has_labels and can_fit and not taken:
            raise ConfigError(
                f"categories[{index}].annotated: sources.{name}.values has no {', '.join(missing)}, which would "
                "count as absent from its cases; leave it out, or give these cases a category of their own before it"
            )


def covers(category: Category, other: Category) -> bool:
    """Return whether every case that fits another category fits this one, whatever its labels are."""
    for one, two in ((category.folders, other.folders), (category.sources, other.sources)):
        if one is not None and not set(two or ["elsewhere"]) <= set(one):
            return False
    if category.subset is not None and (other.subset is None or not _is_within(other.subset, category.subset)):
        return False
    if category.no_labels or other.no_labels:
        return bool(category.no_labels and other.no_labels)
    others_any, others_all = set(other.contains_any or ()), set(other.contains_all or ())
    if len(others_any) == 1:  # any of one is all of it
        others_all |= others_any
    any_holds = (
        category.contains_any is None
        or bool(set(category.contains_any) & others_all)
        or (other.contains_any is not None and others_any <= set(category.contains_any))
    )
    return any_holds and set(category.contains_all or ()) <= others_all


def _is_within(subset: str, other: str) -> bool:
    """Return whether all cases of a subset are in another one, as those of 1/4 and of 3/4 are in 1/2."""
    one, two = subset_of(subset), subset_of(other)
    return one.total % two.total == 0 and one.index % two.total == two.index


def _check_completion(config: Configuration, name: str, completion: Completion) -> None:
    key, unlabeled = f"completions.{name}", completion.category in _unlabeled(config)
    check_known(f"{key}.category", [completion.category], _category_names(config), "category")
    check_known(f"{key}.teacher", [completion.teacher], config.models, "model")
    check_known(f"{key}.min_component_ml", completion.min_component_ml, _label_names(config), "label")
    if completion.annotated not in (None, "present"):
        check_known(f"{key}.annotated", completion.annotated, _label_names(config), "label")
        if completion.annotated and unlabeled:
            raise ConfigError(f"{key}.annotated: the category {completion.category!r} has no labels")
    for rule, value in completion.chosen.items():
        if unlabeled and completion.base is None and isinstance(value, str):
            raise ConfigError(f"{key}.{rule}: the category {completion.category!r} has no labels that it could meet")
        if "tumor" in rule and not any(label.kind == "tumor" for label in config.labels):
            raise ConfigError(f"{key}.{rule}: no label is of the kind tumor")
    if completion.base is not None:
        check_known(f"{key}.base", [completion.base], config.completions, "completion")
        if config.completions[completion.base].category != completion.category:
            raise ConfigError(f"{key}.base: {completion.base!r} completes another category")
    _check_passes(config, key, completion)


def _check_passes(config: Configuration, key: str, completion: Completion) -> None:
    """Refuse what asks for mirrored passes of a teacher that has none."""
    asking, teacher = completion.asking_for_votes, config.models[completion.teacher]
    if asking and not (teacher.inference.tta and teacher.training.mirror_axes):
        raise ConfigError(
            f"{key}.{asking[0]}: asks how the passes of test-time augmentation agree; models.{completion.teacher} "
            "has none (inference.tta, training.mirror_axes)"
        )


def _check_model(config: Configuration, name: str, model: ModelSettings) -> None:
    key = f"models.{name}"
    _check_training_set(config, f"{key}.train_on", model)
    _check_network(key, model)
    intensity = model.intensity
    if intensity != "measure" and intensity.low >= intensity.high:
        raise ConfigError(f"{key}.intensity: low {intensity.low} is not below high {intensity.high}")
    if model.pretrained_model is not None:
        check_known(f"{key}.pretrained", [model.pretrained_model], config.models, "model")
        _check_pretrained(key, model, model.pretrained_model, config.models[model.pretrained_model])
    _check_training(f"{key}.training", model.training)
    _check_copies(config, f"{key}.training", model)
    if model.inference.precision == "float16" and config.device == "cpu":
        raise ConfigError(f"{key}.inference.precision: float16 is for GPUs, and device is cpu; bfloat16 is for both")
    if model.gpus > model.training.batch_size:
        raise ConfigError(f"{key}.gpus: {model.gpus} cannot share a batch_size of fewer patches")
    if model.gpus > 1 and config.device not in SEVERAL:
        raise ConfigError(f"{key}.gpus: device {config.device} is one GPU, not {model.gpus}; use cuda")


def _check_training(key: str, training: TrainingProtocol) -> None:
    if training.targets == "hard" and training.target_factor != TrainingProtocol().target_factor:
        raise ConfigError(f"{key}.target_factor: has no effect with targets hard")
    if training.label_factor == (1, 1, 1):
        raise ConfigError(f"{key}.target_factor: labels are not finer than the training's grid; use targets hard")
    share = training.oversample_foreground
    if share and not forced_patches(training.batch_size, share):
        raise ConfigError(
            f"{key}.oversample_foreground: {share} of a batch of {training.batch_size} is no patch, as nnU-Net "
            "rounds it; 0 is none on purpose"
        )


def _check_copies(config: Configuration, key: str, model: ModelSettings) -> None:
    training, copies = model.training, model.training.copy_tumors
    if copies is None:
        return
    check_known(f"{key}.copy_tumors.label", [copies.label], _label_names(config), "label")
    if copies.size[0] > copies.size[1]:
        raise ConfigError(f"{key}.copy_tumors.size: the smallest, {copies.size[0]}, is above {copies.size[1]}")
    if training.targets != "hard":
        raise ConfigError(f"{key}.copy_tumors: cannot be combined with targets {training.targets}; use targets hard")
    for name in model.train_on.label_completions:
        if config.completions[name].soft:
            raise ConfigError(f"{key}.copy_tumors: cannot be combined with soft labels, those of {name!r}")


def _check_training_set(config: Configuration, key: str, model: ModelSettings) -> None:
    manual, completions = model.train_on.manual_labels, model.train_on.label_completions
    check_known(f"{key}.manual_labels", manual, _category_names(config), "category")
    check_known(f"{key}.label_completions", completions, config.completions, "completion")
    for category in manual:
        if category in _unlabeled(config):
            raise ConfigError(f"{key}.manual_labels: the category {category!r} has no labels to learn from")
    sources = [*manual, *(config.completions[item].category for item in completions)]
    if not sources:
        raise ConfigError(f"{key}: is empty")
    for category in sources:
        if sources.count(category) > 1:
            raise ConfigError(f"{key}: the category {category!r} would be learned from twice")
    if model.training.loss != "label_sets":
        _check_annotated(config, f"{key}.manual_labels", manual, bool(completions))


def _check_annotated(config: Configuration, key: str, manual: Collection[str], completed: bool) -> None:
    """Refuse a loss that takes unannotated structures for background where some cases lack annotations of others.

    Where there are completed labels, too, manual ones must have all labels annotated, if that is stated of them.
    """
    found = {
        category.name: stated_labels(config, category) for category in config.categories if category.name in manual
    }
    remedy = (
        "and the loss nnunet treats what was not annotated as background: set training.loss to label_sets, complete "
        "the labels of one (`completions`), or give all the same `annotated` if they were annotated alike"
    )
    stated: dict[str, frozenset[str]] = {}
    for name, annotated in found.items():
        if annotated is None:
            raise ConfigError(f"{key}: cases of {name!r} have different labels annotated, {remedy}")
        stated[name] = annotated
    for one, two in pairwise(stated):
        if stated[one] != stated[two]:
            labels = [f"{name!r} ({', '.join(sorted(stated[name])) or 'not stated'})" for name in (one, two)]
            raise ConfigError(f"{key}: {' and '.join(labels)} have different labels annotated, {remedy}")
    if not completed:
        return
    for category in config.categories:
        name = category.name
        if name not in stated or (category.annotated is None and not sources_state(config, category)):
            continue
        if missing := [label.name for label in config.labels if label.name not in stated[name]]:
            raise ConfigError(
                f"{key}: cases of {name!r} lack {', '.join(missing)}, which completed labels can hold, {remedy}"
            )


def _check_network(key: str, model: ModelSettings) -> None:
    try:
        architecture = model.architecture
    except ConfigError as error:
        raise ConfigError(f"{key}.{str(error).removeprefix('network: ')}") from error
    for axis, (size, factor) in enumerate(zip(model.patch_size, architecture.downsampling, strict=True)):
        if size % factor:
            raise ConfigError(
                f"{key}.patch_size: {size} is not a multiple of {factor}, the strides' product along axis {axis}"
            )
    if tuple(model.patch_size) == tuple(architecture.downsampling):
        raise ConfigError(f"{key}.patch_size: the strides leave one voxel of it, which cannot be normalized")


def _check_pretrained(key: str, model: ModelSettings, name: str, source: ModelSettings) -> None:
    one, other = model.architecture.to_json(), source.architecture.to_json()
    for part in sorted({*one, *other} - {"strides"}):
        if one.get(part) != other.get(part):
            raise ConfigError(
                f"{key}.pretrained: {name} has another network ({part} {other.get(part)}), whose weights do not fit"
            )


def forced_patches(batch_size: int, share: float) -> int:
    """Return how many patches of a batch are forced onto foreground (`oversample_foreground`): nnU-Net rounds the
    others to whole patches."""
    return batch_size - round(batch_size * (1 - share))
