"""What a folder of CTs and labels holds: which files are images, labels or masks, and how values are named."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from flare23_lib.config.cohort_models import BACKGROUND, IGNORE, Source
from flare23_lib.config.load import read_yaml
from flare23_lib.dataset.discover import SourceFiles, files_below, find
from flare23_lib.dataset.image_info import read_info
from flare23_lib.errors import CohortError
from flare23_lib.io.nifti import SUFFIXES
from flare23_lib.starter.names import identifier, names_of_values

MAX_LABEL_VALUES = 254
"""A file with more different values, or negative ones, is an image."""


@dataclass
class FolderSource:
    """A source in the form of the configuration, and what is in its files.

    Attributes:
        root: the folder that the patterns begin in.
        keys: patterns, and `prefix`, `annotated` or `values` where a preset has them.
        names: names of values, where a table of the folder has them.
        remarks: what a user should know, one line each.
        targets: labels by value, or by mask.
        present: cases in which each value occurs.
    """

    name: str
    root: Path
    keys: dict[str, Any]
    names: Mapping[int, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    files: SourceFiles = field(default_factory=lambda: SourceFiles(""))
    targets: dict[str, Any] = field(default_factory=dict)
    present: Counter[str] = field(default_factory=Counter)

    def find(self, cohort: Path) -> SourceFiles:
        """Return its files, whatever their values are; CohortError if there are none."""
        values = dict.fromkeys(map(str, self.keys.get("values") or ()), BACKGROUND)
        source = Source.model_validate({**self.keys, "values": values, "annotated": None})
        return find(cohort, {self.name: source}).sources[0]

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
    folder = Path(folder)
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    for preset in sorted(presets.glob("*.yaml")) if presets else ():
        for name, keys in read_yaml(preset)["sources"].items():
            for root in (folder, folder.parent):
                source = FolderSource(name, root, keys, remarks=[f"laid out as presets/sources/{preset.name}"])
                if _has_labeled_cases(source, folder):
                    return source
    source = _guess(folder)
    source.names = names_of_values(folder)
    return source


def _has_labeled_cases(source: FolderSource, folder: Path) -> bool:
    """Return whether a source has labeled cases, all of them within a folder."""
    try:
        files = source.find(source.root)
    except CohortError:
        return False
    paired = [path for case, paths in files.images.items() if case in files.labels for path in paths]
    return bool(paired) and all(path.is_relative_to(folder) for path in paired)


@dataclass
class _FileGroup:
    """Files of one form: `pattern` with `{case}`, and the files by case.

    In the `short` form what all names begin with is no part of the case.
    """

    pattern: str
    cases: dict[str, Path]
    short: str = ""
    short_cases: dict[str, Path] = field(default_factory=dict)

    def is_label(self) -> bool:
        """Return by the content of a file whether these are label maps."""
        info = read_info(next(iter(self.cases.values())), True)
        return info.voxels is not None and len(info.voxels) <= MAX_LABEL_VALUES and min(info.voxels, default=0) >= 0

    def forms(self) -> Iterator[tuple[str, dict[str, Path]]]:
        yield self.pattern, self.cases
        if self.short:
            yield self.short, self.short_cases


def _guess(folder: Path) -> FolderSource:
    files = sorted(Path(file) for file in files_below(str(folder)) if file.endswith(SUFFIXES))
    if not files:
        raise CohortError(f"{folder}: holds no NIfTI file (*.nii.gz, *.nii)")
    groups = list(_groups(folder, files))
    labels = [group for group in groups if group.is_label()]
    images = [group for group in groups if group not in labels]
    if not images:
        raise CohortError(f"{folder}: holds no image, label maps only")
    name = identifier(folder.resolve().name)
    if masks := _masks(labels):
        pattern, names, cases = masks
        image = max(images, key=lambda group: len(set(group.cases) & cases))
        values = {mask: identifier(mask) for mask in names}
        return FolderSource(name, folder, {"images": image.pattern, "masks": pattern, "values": values})
    keys: dict[str, Any] = {}
    paired: set[str] = set()
    pairs = [
        (len(set(one[1]) & set(two[1])), one[0], two[0])
        for group, other in product(images, labels)
        for one, two in zip(group.forms(), other.forms(), strict=False)
    ]
    overlap, image_pattern, label_pattern = max(pairs, key=lambda row: row[0], default=(0, "", ""))
    if overlap:
        keys = {"images": image_pattern, "labels": label_pattern}
        paired = {image_pattern, label_pattern}
    others = [group for group in images if not paired & {group.pattern, group.short}]
    if others:
        short = any(group.short == image_pattern for group in images if group.short)
        patterns = [(group.short if short else "") or group.pattern for group in others]
        keys["unlabeled_images" if keys else "images"] = patterns
    remarks = [
        f"{group.pattern} are label maps without an image" for group in labels
        if not paired & {group.pattern, group.short}
    ]  # fmt: skip
    return FolderSource(name, folder, keys, remarks=remarks)


def _groups(folder: Path, files: Sequence[Path]) -> Iterator[_FileGroup]:
    """Divide files into groups whose names differ in the case alone: in a folder's name, or in the file's."""
    above: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    here: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        parts = path.relative_to(folder).parts
        for depth in range(len(parts) - 1):
            start, rest = "/".join((*parts[:depth], "")), "/".join(("", *parts[depth + 1 :]))
            above[start, rest][parts[depth]] = path
        here["/".join((*parts[:-1], "")), re.sub(r"\d+", "#", path.name)].append(path)
    taken: set[Path] = set()
    ranked = sorted(above.items(), key=lambda item: -len(item[1]))
    largest = {path: len(paths) for paths in here.values() for path in paths}
    for (start, rest), cases in ranked:
        if (
            len(cases) > 1
            and not taken & set(cases.values())
            and all(len(cases) > largest[path] for path in cases.values())
        ):
            taken |= set(cases.values())
            yield _FileGroup(f"{start}{{case}}{rest}", cases)
    singles: dict[str, list[Path]] = defaultdict(list)
    for (start, _), paths in here.items():
        left = [path for path in paths if path not in taken]
        if len(left) > 1:
            yield _of_numbers(start, left)
        else:
            singles[start] += left
    for start, paths in singles.items():
        if paths:
            yield _of_names(start, paths)


def _of_numbers(start: str, paths: Sequence[Path]) -> _FileGroup:
    """Return the group of names that differ in their numbers; numbers that all share are no part of the case."""
    pieces = [re.split(r"(\d+)", path.name) for path in paths]
    varying = [index for index in range(len(pieces[0])) if len({row[index] for row in pieces}) > 1]
    first, last = varying[0], varying[-1]
    suffix, before = "".join(pieces[0][last + 1 :]), "".join(pieces[0][:first])
    whole = {path.name.removesuffix(suffix): path for path in paths}
    short = {case.removeprefix(before): path for case, path in whole.items()}
    return _FileGroup(f"{start}{{case}}{suffix}", whole, f"{start}{before}{{case}}{suffix}", short)


def _of_names(start: str, paths: Sequence[Path]) -> _FileGroup:
    """Return the group of names of any form: they end in the same, from the last `_`, `-` or `.` that they share."""
    names = [path.name for path in paths]
    suffix = next(suffix for suffix in SUFFIXES if names[0].endswith(suffix))
    for place in [match.start() for match in re.finditer(r"[_.-]", names[0])]:
        if len(paths) > 1 and place and all(name.endswith(names[0][place:]) for name in names):
            suffix = names[0][place:]
            break
    if len(paths) == 1 and names[0].endswith(f"_0000{suffix}"):  # nnU-Net's channel
        suffix = f"_0000{suffix}"
    cases = {name.removesuffix(suffix): path for name, path in zip(names, paths, strict=True)}
    return _FileGroup(f"{start}{{case}}{suffix}", cases)


def _masks(labels: Sequence[_FileGroup]) -> tuple[str, list[str], set[str]] | None:
    """Return the pattern of masks, their names and cases, if there are several label files in a folder per case."""
    folders: dict[str, list[_FileGroup]] = defaultdict(list)
    for group in labels:
        start, _, name = group.pattern.rpartition("/")
        if "{case}" in start and "{case}" not in name:
            folders[start].append(group)
    start, groups = max(folders.items(), key=lambda item: len(item[1]), default=("", []))
    if len(groups) < 2:
        return None
    suffix = next(suffix for suffix in SUFFIXES if groups[0].pattern.endswith(suffix))
    names = sorted(group.pattern.rpartition("/")[2].removesuffix(suffix) for group in groups)
    return f"{start}/{{mask}}{suffix}", names, set().union(*(group.cases for group in groups))
