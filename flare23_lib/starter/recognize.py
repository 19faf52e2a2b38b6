"""What a folder of CTs and labels holds: which files are images, labels or masks, and how values are named."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations, product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flare23_lib.config.cohort_models import BACKGROUND, IGNORE, Source
from flare23_lib.config.load import read_yaml
from flare23_lib.config.messages import explain
from flare23_lib.dataset.discover import SourceFiles, find, nifti_files
from flare23_lib.errors import CohortError
from flare23_lib.io.nifti import SUFFIXES
from flare23_lib.starter.file_groups import FileGroup, groups_of
from flare23_lib.starter.masks import Masks, by_volume, masks_of
from flare23_lib.starter.names import identifier, name_of

HELD_OUT = re.compile(r"[a-z](Ts|Val?)$|(?i:(^|[_-])(test(ing)?|val(id(ation)?)?)$)")
"""Folders of images that are not for training."""

NEARLY_ALL = 0.9
"""Share of the cases in which each mask occurs where masks are a file per class."""


@dataclass
class FolderSource:
    """A source in the form of the configuration, and what is in its files.

    Attributes:
        root: the folder that the patterns begin in.
        keys: patterns, and `prefix`, `annotated` or `values` where a preset has them.
        folder: whose tables name its values; None for that of a preset's layout, whose values have names.
        remarks: what a user should know, one line each.
        targets: labels by value, or by mask.
        present: cases in which each value occurs.
    """

    name: str
    root: Path
    keys: dict[str, Any]
    folder: Path | None = None
    remarks: list[str] = field(default_factory=list)
    files: SourceFiles = field(default_factory=lambda: SourceFiles(""))
    targets: dict[str, Any] = field(default_factory=dict)
    present: Counter[str] = field(default_factory=Counter)

    @property
    def _source(self) -> Source:
        """The source in the configuration, whatever its values are; CohortError if its keys are wrong."""
        values = dict.fromkeys(map(str, self.keys.get("values") or ()), BACKGROUND)
        try:
            return Source.model_validate({**self.keys, "values": values, "annotated": None})
        except ValidationError as error:
            raise CohortError(f"sources.{self.name}.{explain(error)}") from error

    def find(self, cohort: Path) -> SourceFiles:
        """Return its files; CohortError if there are none, or its keys are wrong."""
        return find(cohort, {self.name: self._source}).sources[0]

    def begins_in(self, name: str) -> bool:
        """Return whether a pattern of its images begins with a folder of this name."""
        return any(fnmatchcase(name, pattern.partition("/")[0]) for pattern in self._source.images)

    @property
    def labels(self) -> list[str]:
        """The labels that its values stand for, one for each of them or one for each side."""
        return [name for target in self.targets.values() for name in labels_of(target)]

    @property
    def has_unlabeled(self) -> bool:
        """Whether it has images without labels."""
        return bool(self.files.unlabeled_images) or not self.targets


def labels_of(target: Any) -> list[str]:
    """Return the labels that a value stands for: one, those of two sides, or none."""
    if isinstance(target, Mapping):
        return list(target["sides"])
    return [] if target in (None, BACKGROUND, IGNORE) else [target]


def recognize(folder: Path, presets: Path | None = None) -> FolderSource:
    """Look at a folder: is it laid out as a preset, or what else is it? CohortError if it is missing, or holds no
    image."""
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    folder = folder.absolute()  # the current folder has a name, too
    for preset in sorted(presets.glob("*.yaml")) if presets else ():
        for name, keys in read_yaml(preset)["sources"].items():
            for root in (folder, folder.parent):
                source = FolderSource(name, root, keys, remarks=[f"laid out as presets/sources/{preset.name}"])
                if (root is folder or source.begins_in(folder.name)) and _has_labeled_cases(source, folder):
                    if root is folder and (unused := _unused_folders(source)):
                        source.remarks.append(f"not used: {', '.join(unused)}; give `flare23 init` a folder for each")
                    return source
    return _guess(folder)


def _has_labeled_cases(source: FolderSource, folder: Path) -> bool:
    """Return whether a source has labeled cases, all of them within a folder."""
    try:
        files = source.find(source.root)
    except CohortError:
        return False
    paired = [path for case, paths in files.images.items() if case in files.labels for path in paths]
    return bool(paired) and all(path.is_relative_to(folder) for path in paired)


def _unused_folders(source: FolderSource) -> list[str]:
    """Return the folders in its root that hold NIfTI files, but none that fits its patterns."""
    files = (Path(path).relative_to(source.root).parts for path in nifti_files([source.root]))
    used = {path.relative_to(source.root).parts[0] for path in source.find(source.root).files()}
    return sorted({first for first, *rest in files if rest} - used)


def _guess(folder: Path) -> FolderSource:
    named = sorted(map(Path, nifti_files([folder])))
    files = [file for file in named if file.name.endswith(SUFFIXES)]
    capitals = [file.name for file in named if not file.name.endswith(SUFFIXES)]
    skipped = [f"skipped {capitals[0]} and all others that end in capitals; rename them"] if capitals else []
    if not files:
        raise CohortError("; ".join([f"{folder}: holds no NIfTI file (*.nii.gz, *.nii)", *skipped]))
    groups = list(groups_of(folder, files))
    labels = [group for group in groups if group.is_label()]
    images = [group for group in groups if group not in labels]
    if not images:
        raise CohortError("; ".join([f"{folder}: holds no image, label maps only", *skipped]))
    name = identifier(folder.resolve().name)
    errors = {path: error for group in groups for path, error in group.errors.items()}
    remarks = [*skipped, *(f"{path.relative_to(folder)} cannot be read: {error}" for path, error in errors.items())]
    masks = masks_of(folder, files, labels, images)
    files_of_masks = {path for group in masks for path in group.files}
    others = [group for group in labels if files_of_masks.isdisjoint(group.cases.values())]
    if masks and (preferred := next((group for group in others if _is_preferred(group, masks[0])), None)):
        remarks += [f"{group.pattern} are masks beside label maps of several values, not used" for group in masks]
        masks, labels = [], sorted(others, key=lambda group: group is not preferred)
    keys, unpaired, folder_of_table = _paired(folder, images, masks or labels)
    if masks:
        remarks += [f"{pattern} are images without masks, not used" for pattern in keys.pop("unlabeled_images", ())]
        remarks += [f"{pattern} are label maps beside masks, not used" for pattern in _short_list(others)]
        keys = {"masks" if key == "labels" else key: value for key, value in keys.items()}
        patterns = [keys["masks"]] if isinstance(keys["masks"], str) else keys["masks"]
        infos = {path: info for group in groups for path, info in group.infos.items()}
        names = by_volume([group for group in masks if group.pattern in patterns], infos)
        keys["values"] = {mask: name_of(number, mask) for number, mask in enumerate(names, start=1)}
    return FolderSource(name, folder, keys, folder_of_table, remarks + unpaired)


def _is_preferred(group: FileGroup, masks: Masks) -> bool:
    """Return whether label maps of several values have all cases of masks that are instances, or of few cases."""
    return (
        masks.cases.keys() <= {*group.cases, *group.short_cases}
        and masks.rarest < NEARLY_ALL * len(group.cases)
        and group.has_several_values()
    )


def _short_list(groups: Sequence[FileGroup]) -> list[str]:
    """Return the patterns of groups, one for all that lie in the same folders."""
    folders = Counter(group.pattern.rpartition("/")[0] for group in groups)
    places = ((group.pattern, group.pattern.rpartition("/")[0]) for group in groups)
    return list(dict.fromkeys(pattern if folders[place] == 1 else f"{place}/*" for pattern, place in places))


@dataclass(frozen=True)
class _Pair:
    """Groups of images and labels with cases in common, and the form in which they have them."""

    image: FileGroup
    label: FileGroup
    form: int
    cases: frozenset[str]

    @property
    def patterns(self) -> tuple[str, str]:
        """Of the images and of the labels."""
        return self.image.form(self.form)[0], self.label.form(self.form)[0]

    @property
    def is_held_out(self) -> bool:
        return _is_held_out(self.image)

    @property
    def folder(self) -> str:
        """The folder that holds both the images and the labels; empty if it is the one looked at."""
        return os.path.commonpath([pattern.rpartition("/")[0] for pattern in self.patterns])

    @property
    def table(self) -> Path | None:
        """The closest dataset.json above the labels; masks have names without."""
        if isinstance(self.label, Masks):
            return None
        folders = next(iter(self.label.cases.values())).parents
        return next((table for folder in folders if (table := folder / "dataset.json").is_file()), None)

    def fits_beside(self, other: _Pair) -> bool:
        """Return whether a known pair leaves room for this one.

        Images in several places can share a folder of labels, under one pattern and key: of two patterns that a label
        fits it is found by one.
        """
        shares = (self.form, self.is_held_out) == (other.form, other.is_held_out) and not self.cases & other.cases
        return self.image is not other.image and (self.label is not other.label or shares)


def _paired(folder: Path, images: Sequence[FileGroup], labels: Sequence[FileGroup]) -> tuple[dict, list[str], Path]:
    """Return the patterns of images with labels, of those without and of those held out, remarks, and the folder of
    the only dataset.json, or the given one.

    Raises:
        CohortError: images in several places have cases of the same names, or not the same dataset.json.
    """
    predictions = _predictions(images, labels)
    references = [group for group in labels if group not in predictions]
    pairs: list[_Pair] = []
    for pair in sorted(_pairs(images, references), key=lambda pair: (pair.is_held_out, -len(pair.cases))):
        if all(pair.fits_beside(other) for other in pairs):
            pairs.append(pair)
    training = [pair for pair in pairs if not pair.is_held_out] or pairs
    held_out = [pair for pair in pairs if pair not in training]
    folder_of_table = _folder_of_table(folder, pairs, training)
    for one, two in combinations(training, 2):
        if one.cases & two.cases:
            raise CohortError(
                f"{folder}: {one.patterns[0]} and {two.patterns[0]} have cases of the same names: give "
                "`flare23 init` a folder for each"
            )
    keys: dict[str, Any] = {}
    for start, chosen in (("", training), ("validation_", held_out)):
        for number, kind in enumerate(("images", "labels")):
            patterns = list(dict.fromkeys(pair.patterns[number] for pair in chosen))
            if patterns:
                keys[start + kind] = patterns[0] if len(patterns) == 1 else patterns
    paired = [group for pair in pairs for group in (pair.image, pair.label)]
    others = [(group, _why_images_unused(group, pairs, training)) for group in images if group not in paired]
    form = pairs[0].form if pairs else 0
    labeled = [pair.patterns[0] for pair in training]
    left = dict.fromkeys(group.form(form)[0] for group, why in others if not why)
    if unlabeled := [pattern for pattern in left if pattern not in labeled]:
        keys["unlabeled_images" if keys else "images"] = unlabeled
    others += [(group, "look like predictions (a dataset.json of their own), not used") for group in predictions]
    others += [(group, _why_labels_unused(group, images, pairs)) for group in references if group not in paired]
    return keys, [f"{group.pattern} {why}" for group, why in others if why], folder_of_table


def _folder_of_table(folder: Path, pairs: Sequence[_Pair], training: Sequence[_Pair]) -> Path:
    """Return the folder of the pairs' only dataset.json within a folder, or that folder.

    Raises:
        CohortError: the pairs have several, or some training pairs none.
    """
    tables = {table for pair in pairs if (table := pair.table)}
    without = {pair.folder for pair in training if not pair.table} - {pair.folder for pair in pairs if pair.table}
    without.discard("")  # it holds the others
    names = ", ".join(sorted(table.parent.name for table in tables))
    differ = "so that a value may differ between them: give `flare23 init` a folder for each"
    if len(tables) > 1:
        raise CohortError(f"{folder}: {names} have a dataset.json each, {differ}")
    if tables and without:
        raise CohortError(f"{folder}: {names} has a dataset.json, {', '.join(sorted(without))} none, {differ}")
    return next((table.parent for table in tables if table.is_relative_to(folder)), folder)


def _why_images_unused(group: FileGroup, pairs: Sequence[_Pair], training: Sequence[_Pair]) -> str:
    """Return what a user should know of images in no pair; empty if they are used, without labels."""
    if not pairs:
        return ""
    if _is_held_out(group):
        why = "look held out and are not used; as `unlabeled_images` they would be learned from"
        for pair in training:
            pattern, cases = pair.label.form(pair.form)
            held_out = group.form(pair.form)[1].keys()
            if cases.keys() & held_out and not pair.cases & held_out:
                return f"{why}, as `validation_images` of their own source with `validation_labels: {pattern}` scored"
        return why
    names = group.form(pairs[0].form)[1].keys()
    if any(names & pair.image.form(pair.form)[1].keys() for pair in pairs):
        return "have cases of the same names, not used; if they are others, make a source of their own"
    return ""


def _why_labels_unused(group: FileGroup, images: Sequence[FileGroup], pairs: Sequence[_Pair]) -> str:
    """Return what a user should know of label maps that are in no pair."""
    cases = {*group.cases, *group.short_cases}
    if taken := [pair for pair in pairs if pair.cases & cases]:
        fits = f"are label maps that fit the images of {taken[0].patterns[1]}, too, not used"
        return f"{fits}; if each is of one structure, they are `masks` (docs/your_cohort.md)"
    if fitting := [image for image in images if cases & {*image.cases, *image.short_cases}]:
        return f"fit other images of {fitting[0].pattern}; make a source of their own with the same `images`"
    stored = set().union(*(image.cases for image in images))
    if channels := [f"{case}_0000 and {case}_0001" for case in group.cases if f"{case}_0001" in stored]:
        return f"are label maps without an image; {channels[0]} are channels of one image: leave that of the CT alone"
    return "are label maps without an image"


def _predictions(images: Sequence[FileGroup], labels: Sequence[FileGroup]) -> list[FileGroup]:
    """Return label maps with a dataset.json beside them, as nnU-Net writes it, below the folder of that of others."""
    tables = {pair.label.pattern: table for pair in _pairs(images, labels) if (table := pair.table)}
    outer = {table.parent for table in tables.values()}
    return [
        group
        for group in labels
        if (table := tables.get(group.pattern))
        and table.parent == next(iter(group.cases.values())).parent
        and not outer.isdisjoint(table.parent.parents)
    ]


def _pairs(images: Sequence[FileGroup], labels: Sequence[FileGroup]) -> Iterator[_Pair]:
    """Yield the pairs of groups, the full names' form first."""
    for image, label in product(images, labels):
        for form, (one, two) in enumerate(zip(image.forms(), label.forms(), strict=False)):
            pair = _Pair(image, label, form, frozenset(one[1].keys() & two[1].keys()))
            if pair.cases:
                yield pair


def _is_held_out(group: FileGroup) -> bool:
    return any(HELD_OUT.search(part) for part in group.pattern.split("/")[:-1])
