"""Whether the sources of a configuration fit its labels, and what they state as annotated."""

from __future__ import annotations

import re

from flare23_lib.config.cohort_models import BACKGROUND, IGNORE, Category, Source
from flare23_lib.config.messages import check_known
from flare23_lib.config.models import Configuration
from flare23_lib.errors import ConfigError
from flare23_lib.io.patterns import MASK, FilePattern


def check_sources(config: Configuration) -> None:
    """Refuse sources that contradict themselves, or name what is not there."""
    for name, source in config.sources.items():
        key = f"sources.{name}"
        if not (source.images or source.unlabeled_images or source.validation_images):
            raise ConfigError(f"{key}: has no images")
        if source.labels and source.masks:
            raise ConfigError(f"{key}.masks: are in place of `labels`, which are given too")
        if source.has_labels and not source.images:
            raise ConfigError(
                f"{key}.{'masks' if source.masks else 'labels'}: there are no `images` that they belong to"
            )
        if source.validation_labels and not source.validation_images:
            raise ConfigError(f"{key}.validation_labels: there are no `validation_images` that they belong to")
        _check_patterns(key, source)
        _check_values(config, key, source)
    unknown = [label.name for label in config.labels if label.name not in annotated_somewhere(config)]
    if unknown:
        raise ConfigError(f"labels: annotated in no source, so that nothing can learn them: {', '.join(unknown)}")
    draw = config.validation
    if draw is not None:
        labeled = [name for name, source in config.sources.items() if source.has_labels]
        check_known("validation.sources", draw.sources, labeled, "source with labels")
        if not labeled:
            raise ConfigError("validation: no source has labels")


def annotated_somewhere(config: Configuration) -> set[str]:
    """Return the labels that a source with labels may hold, as far as the configuration tells."""
    names = {label.name for label in config.labels}
    found: set[str] = set()
    for source in config.sources.values():
        if source.has_labels:
            listed = names if source.stated in (None, "present") else set(source.stated or ())
            found |= listed & set(labels_held(config, source))
    return found


def _check_patterns(key: str, source: Source) -> None:
    of_labels = {"labels", "masks", "validation_labels"}
    images = {text for name, texts in source.patterns.items() if name not in of_labels for text in texts}
    for name, texts in source.patterns.items():
        for text in texts:
            try:
                _ = FilePattern.parse(text).expression
            except re.error as error:
                raise ConfigError(f"{key}.{name}: {text!r} is no regular expression ({error})") from error
            if name in of_labels and text in images:
                raise ConfigError(f"{key}.{name}: {text!r} are images, too: they cannot be told apart")
            has_mask = MASK in text
            if has_mask and (name not in of_labels or name == "labels"):
                raise ConfigError(f"{key}.{name}: {text!r}: {MASK} is for `masks`")
            if not has_mask and (name == "masks" or (name == "validation_labels" and source.masks)):
                raise ConfigError(f"{key}.{name}: {text!r} has no place for {MASK}")


def _check_values(config: Configuration, key: str, source: Source) -> None:
    """Refuse values and annotated labels that are not known, or do not go together."""
    names = [label.name for label in config.labels]
    check_known(f"{key}.values", source.targets, [*names, IGNORE, BACKGROUND], "label")
    for value in source.values:
        if not source.has_masks and not re.fullmatch(r"[1-9][0-9]*", value):
            raise ConfigError(f"{key}.values: {value!r} is not a whole number above 0")
    if source.has_masks and not source.values:
        raise ConfigError(f"{key}.values: the masks that count are missing")
    if source.annotated not in (None, "present"):
        what = "label of `values`" if source.values else "label"
        check_known(f"{key}.annotated", source.annotated, labels_held(config, source), what)


def labels_held(config: Configuration, source: Source) -> list[str]:
    """Return the labels that a source's files can hold."""
    return [label.name for label in config.labels if not source.values or label.name in source.targets]


def label_sources(config: Configuration, category: Category) -> list[Source]:
    """Return the sources whose training labels a category can hold."""
    sources = [config.sources[name] for name in category.sources or config.sources]
    return [source for source in sources if source.has_labels and not category.no_labels]


def sources_state(config: Configuration, category: Category) -> bool:
    """Return whether a source of a category states which labels were looked for in its cases."""
    return any(source.stated is not None for source in label_sources(config, category))


def stated_labels(config: Configuration, category: Category) -> frozenset[str] | None:
    """Return the labels that were annotated in a category, as far as the configuration states it.

    Returns:
        The names in `annotated` of the category, else those that all its sources state, else those that the
        conditions ask for (none where there are no such conditions); None if the annotated labels differ by case.
    """
    if category.annotated is not None:
        return None if category.annotated == "present" else frozenset(category.annotated)
    stated = {source.stated for source in label_sources(config, category)}
    if stated - {None}:
        return None if len(stated) > 1 or "present" in stated else frozenset(*stated)
    return frozenset([*(category.contains_all or ()), *(category.contains_any or ())])
