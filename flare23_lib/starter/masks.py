"""Masks, a file per class: in a folder per case, in a folder per structure, or in files beside each other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import prod
from pathlib import Path

from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.io.anatomy import anatomy_of
from flare23_lib.io.patterns import MASK, FilePattern
from flare23_lib.starter.file_groups import FileGroup, suffix_of
from flare23_lib.starter.names import identifier


@dataclass
class Masks(FileGroup):
    """Masks of one form: `pattern` with `{mask}`, one of the files of each case, and the masks by file."""

    files: dict[Path, str] = field(default_factory=dict)

    @property
    def rarest(self) -> int:
        """In how many cases the mask occurs that is in the fewest."""
        return min(Counter(self.files.values()).values())


def by_volume(masks: Sequence[Masks], infos: dict[Path, ImageInfo]) -> list[str]:
    """Return the names of masks, the largest in its first file that is not empty first: of masks that overlap, the
    later one has the voxels. `infos` has what is known of files, and what was read of others."""
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, mask in (item for group in masks for item in group.files.items()):
        files[mask][str(path)] = path
    firsts = {mask: FileGroup("", paths, infos=infos).first_infos() for mask, paths in files.items()}
    volumes = {mask: next(filter(None, map(_volume, found)), 0.0) for mask, found in firsts.items()}
    return sorted(volumes, key=lambda mask: (-volumes[mask], mask))


def _volume(info: ImageInfo) -> float:
    """Return the volume in cubic mm of all that a file labels."""
    return sum((info.voxels or {}).values()) * prod(info.spacing or ())


def masks_of(
    folder: Path, files: Sequence[Path], labels: Sequence[FileGroup], images: Sequence[FileGroup]
) -> list[Masks]:
    """Return masks where a folder per case of an image has several label files, or label files are named after
    structures: those of most names, and others that share names with them."""
    scans = {path for group in images for path in group.cases.values()}
    others = {path: path.relative_to(folder).as_posix() for path in files if path not in scans}
    found: dict[str, Masks] = {}
    for group in labels:
        start, _, name = group.pattern.rpartition("/")
        if "{case}" in start and "{case}" not in name:
            before, after = map(re.escape, start.split("{case}"))
            form = re.compile(f"{before}([^/]+){after}/([^/]+){re.escape(suffix_of(name))}")
            matches = {path: match for path, text in others.items() if (match := form.fullmatch(text))}
            cases = {match[1]: path for path, match in matches.items()}
            pattern, masks = f"{start}/{{mask}}{suffix_of(name)}", {path: match[2] for path, match in matches.items()}
            found[pattern] = Masks(pattern, cases, pattern, cases, files=masks)
    found |= {group.pattern: group for group in _of_structures(folder, labels, images)}
    ranked = sorted(found.values(), key=lambda group: -len(set(group.files.values())))
    names = set(ranked[0].files.values()) if ranked else set()
    known = {case for group in images for _, cases in group.forms() for case in cases}
    if len(names) < 2 or known.isdisjoint(ranked[0].cases):
        return []
    return [group for group in ranked if not names.isdisjoint(group.files.values())]


def _of_structures(folder: Path, labels: Sequence[FileGroup], images: Sequence[FileGroup]) -> list[Masks]:
    """Return masks in a folder per structure, `labels_liver/{case}.nii.gz`, or in files beside each other,
    `{case}_liver.nii.gz`: of one value, two of them of known structures, and all that are named alike."""
    for number in (0, 1):
        patterns = dict.fromkeys(group.form(number)[0] for group in labels)
        known = Counter(filter(None, map(_with_mask, patterns)))
        found = []
        for pattern in [pattern for pattern, count in known.items() if count > 1]:
            before, after = map(re.escape, pattern.split(MASK))
            form = re.compile(f"{before}([^/]+){after}")
            members = [(group, match[1]) for group in labels if (match := form.fullmatch(group.form(number)[0]))]
            single = [(group, mask) for group, mask in members if not group.has_several_values()]
            cases = {case: path for group, _ in single for case, path in group.form(number)[1].items()}
            masks = {path: mask for group, mask in single for path in group.cases.values()}
            group = Masks(pattern, cases, pattern, cases, files=masks)
            if not _are_divided(images, group) and not _takes_images(folder, pattern, images, number):
                found.append(group)
        if any(group.cases.keys() & image.form(number)[1].keys() for group in found for image in images):
            return found
    return []


def _with_mask(pattern: str) -> str | None:
    """Return a pattern with `{mask}` in place of a known structure, the last in the names of the files and of their
    folder; None if there is none, or no case in the names of the files."""
    above, _, name = pattern.rpartition("/")
    words = list(re.compile("[A-Za-z]+").finditer(pattern, above.rfind("/") + 1))
    runs = [(one.start(), two.end()) for one, two in combinations_with_replacement(words, 2)]
    known = [(first, last) for first, last in runs if _is_structure(pattern[first:last])]
    if not known or "{case}" not in name:
        return None
    first, last = min(known, key=lambda run: (-run[1], run[0]))
    return pattern[:first] + MASK + pattern[last:]


def _is_structure(text: str) -> bool:
    return bool(re.fullmatch("[A-Za-z _-]+", text)) and anatomy_of(identifier(text)) is not None


def _are_divided(images: Sequence[FileGroup], masks: Masks) -> bool:
    """Return whether images are divided by structures, too, and those of several have cases of the same names."""
    named = [image.cases for image in images if any(mask in image.pattern for mask in masks.files.values())]
    return sum(map(len, named)) > len(set().union(*named))


def _takes_images(folder: Path, pattern: str, images: Sequence[FileGroup], number: int) -> bool:
    """Return whether a pattern of masks fits images, and is closer to them than their own."""
    masks, expression = FilePattern.parse(pattern), FilePattern("", pattern).expression
    owns = [FilePattern.parse(image.form(number)[0]) for image in images]
    return any(
        expression.fullmatch(path.relative_to(folder).as_posix())
        for image, own in zip(images, owns, strict=True)
        if (len(own.folder), own.weight) < (len(masks.folder), masks.weight)
        for path in image.cases.values()
    )
