"""Files of a folder divided into groups whose names differ in the case alone, and what they hold."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from flare23_lib.dataset.image_info import ImageInfo, read_info
from flare23_lib.io.nifti import SUFFIXES

MAX_LABEL_VALUES = 254
"""A file with more different values is an image."""

MAX_SIGNED_VALUES = 60
"""The same if some are negative."""

MAX_TRIES = 5
"""Of files of one form that are read until one shows what they are."""


@dataclass
class FileGroup:
    """Files of one form: `pattern` with `{case}`, and the files by case, in composed letters as in the cohort.

    In the `short` form what all names begin with is no part of the case. `infos` has the first files that were read.
    """

    pattern: str
    cases: dict[str, Path]
    short: str = ""
    short_cases: dict[str, Path] = field(default_factory=dict)
    infos: dict[Path, ImageInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cases, self.short_cases = (
            {unicodedata.normalize("NFC", case): path for case, path in cases.items()}
            for cases in (self.cases, self.short_cases)
        )

    @property
    def errors(self) -> dict[Path, str]:
        """Why files that were looked at could not be read."""
        return {path: info.error for path, info in self.infos.items() if info.error}

    def first_infos(self) -> Iterator[ImageInfo]:
        """Yield what the first files hold that can be read."""
        for path in islice(self.cases.values(), MAX_TRIES):
            if path not in self.infos:
                self.infos[path] = read_info(path, True)
            if not self.infos[path].error:
                yield self.infos[path]

    def is_label(self) -> bool:
        """Return by the content of the first file that can be read whether these are label maps."""
        return next(map(_is_label, self.first_infos()), False)

    def has_several_values(self) -> bool:
        """Return whether one of the first label maps holds more than one value."""
        return any(len(info.voxels or ()) > 1 for info in self.first_infos())

    def is_mixed(self) -> bool:
        """Return whether images and label maps are among the first files that can be read."""
        return len(set(map(_is_label, self.first_infos()))) > 1

    def forms(self) -> Iterator[tuple[str, dict[str, Path]]]:
        """Yield the pattern and the cases, and those of the short form if there is one."""
        yield self.pattern, self.cases
        if self.short:
            yield self.short, self.short_cases

    def form(self, number: int) -> tuple[str, dict[str, Path]]:
        """Return the pattern and the cases of a form: 1 is the short one if there is one."""
        return list(self.forms())[: number + 1][-1]


def _is_label(info: ImageInfo) -> bool:
    if info.voxels is None:
        return False
    return len(info.voxels) <= (MAX_LABEL_VALUES if min(info.voxels, default=0) >= 0 else MAX_SIGNED_VALUES)


def groups_of(folder: Path, files: Sequence[Path]) -> Iterator[FileGroup]:
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
    kinds: set[tuple[str, ...]] = set()  # folders such as images and labels, whose files have the same names
    for (start, rest), cases in ranked:
        if (
            len(cases) > 1
            and (start, *cases) not in kinds
            and not taken & set(cases.values())
            and all(len(cases) > largest[path] for path in cases.values())
        ):
            group = FileGroup(f"{start}{{case}}{rest}", cases)
            if group.is_mixed():
                kinds.add((start, *cases))
            else:
                taken |= set(cases.values())
                yield group
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


def _of_numbers(start: str, paths: Sequence[Path]) -> FileGroup:
    """Return the group of names that differ in their numbers; numbers that all share are no part of the case."""
    pieces = [re.split(r"(\d+)", path.name) for path in paths]
    varying = [index for index in range(len(pieces[0])) if len({row[index] for row in pieces}) > 1]
    first, last = varying[0], varying[-1]
    suffix, before = "".join(pieces[0][last + 1 :]), "".join(pieces[0][:first])
    whole = {path.name.removesuffix(suffix): path for path in paths}
    short = {case.removeprefix(before): path for case, path in whole.items()}
    return FileGroup(f"{start}{{case}}{suffix}", whole, f"{start}{before}{{case}}{suffix}", short)


def _of_names(start: str, paths: Sequence[Path]) -> FileGroup:
    """Return the group of names of any form: they end in the same, from the last `_`, `-` or `.` that they share."""
    names = [path.name for path in paths]
    suffix = suffix_of(names[0])
    for place in [match.start() for match in re.finditer(r"[_.-]", names[0])]:
        if len(paths) > 1 and place and all(name.endswith(names[0][place:]) for name in names):
            suffix = names[0][place:]
            break
    if len(paths) == 1 and names[0].endswith(f"_0000{suffix}"):  # nnU-Net's channel
        suffix = f"_0000{suffix}"
    cases = {name.removesuffix(suffix): path for name, path in zip(names, paths, strict=True)}
    return FileGroup(f"{start}{{case}}{suffix}", cases)


def suffix_of(name: str) -> str:
    """Return the suffix of a NIfTI file."""
    return next(suffix for suffix in SUFFIXES if name.endswith(suffix))
