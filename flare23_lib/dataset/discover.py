"""Finding images and labels by the patterns of their sources."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from flare23_lib.config.cohort_models import PATTERN_KEYS, Source
from flare23_lib.errors import CohortError
from flare23_lib.io.folders import files_below
from flare23_lib.io.patterns import MASK, FilePattern, check_utf8

log = logging.getLogger(__name__)

OF_RELEASES = ({"unlabelTr1800", "unlabeledTr1800"}, {"validation-gt", "val-gt-50cases-for-sanity-check"})
"""Names that one and the same folder has in releases of FLARE23's data."""

Files = Mapping[str, list[Path]]
"""Paths by case, several where a name occurs several times."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source by case: images with labels (or that should have them), images without, validation
    images, and the labels of both. Where a label is a file per class, its path holds `{mask}`.

    Attributes:
        folders: the folder of the pattern that a training image was found by.
        masks: by label path with `{mask}`, the files that it stands for.
    """

    name: str
    images: Files = field(default_factory=dict)
    unlabeled_images: Files = field(default_factory=dict)
    validation_images: Files = field(default_factory=dict)
    labels: Files = field(default_factory=dict)
    validation_labels: Files = field(default_factory=dict)
    folders: Mapping[Path, Path] = field(default_factory=dict)
    masks: Mapping[Path, list[Path]] = field(default_factory=dict)

    def files(self) -> Iterator[Path]:
        """All images and labels, masks one by one."""
        groups = (self.images, self.unlabeled_images, self.validation_images, self.labels, self.validation_labels)
        for path in (path for group in groups for paths in group.values() for path in paths):
            yield from self.masks.get(path, [path])


@dataclass(frozen=True)
class FoundFiles:
    """What lies in the cohort's folder: the files of each source, files `x.nii.gz` that have an `x.nii` beside them
    (twins), and NIfTI files beside images or labels that no pattern fits."""

    cohort: Path
    sources: tuple[SourceFiles, ...] = ()
    twins: frozenset[Path] = frozenset()
    others: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """All images and labels of all sources, each once."""
        return list(dict.fromkeys(path for source in self.sources for path in source.files()))


def place_of(root: Path, folder: str) -> Path:
    """Return where a folder of a pattern lies, each place in one spelling: as below the cohort if it is there."""
    base, place = (Path(os.path.normpath(path.absolute())) for path in (root, root / folder))
    return root / place.relative_to(base) if place.is_relative_to(base) else place


def _distinct(files: list[Path]) -> list[Path]:
    """Return files without those that are links to another one of them."""
    if len(files) == 1:
        return files
    seen: dict[object, Path] = {}
    for file in sorted(files, key=lambda file: (file.is_symlink(), file)):
        try:
            status = file.stat()
            seen.setdefault((status.st_dev, status.st_ino), file)
        except OSError:
            seen.setdefault(file, file)
    return sorted(seen.values())


@dataclass(frozen=True)
class _Placed:
    """A pattern of a source, where its folder lies, and the names of the source's masks."""

    key: str
    pattern: FilePattern
    place: Path
    masks: Collection[str]

    @cached_property
    def start(self) -> str:
        """What the paths of its files begin with."""
        place = self.place.as_posix()
        return "" if place == "." else f"{place.rstrip('/')}/"

    @property
    def closeness(self) -> tuple[int, int]:
        """Of two patterns that fit a file, the one in the inner folder counts, then the one with more letters."""
        return len(self.place.parts), self.pattern.weight

    @cached_property
    def _expressions(self) -> list[re.Pattern[str]]:
        named = [self.pattern.naming(self.masks)] if MASK in self.pattern.rest else []
        return [*named, self.pattern.expression]

    def match(self, file: str) -> re.Match[str] | None:
        """Return what fits a file that begins with `start`: the pattern with known masks first; None if nothing."""
        return next(filter(None, (one.fullmatch(file, len(self.start)) for one in self._expressions)), None)


def nifti_files(places: Collection[Path]) -> list[str]:
    """Return the NIfTI files below folders, sorted, each file once, also names that end in capitals.

    A hidden folder is listed where it is itself one of `places`. Plain strings: there may be 100,000.
    CohortError if a folder cannot be listed, or a name is not UTF-8.
    """
    found: set[str] = set()
    for place in places:
        try:
            if place.is_dir() and not any(_is_seen_from(other, place) for other in places):
                found.update(file for file in files_below(str(place)) if file.lower().endswith((".nii", ".nii.gz")))
        except OSError as error:
            raise CohortError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    files = sorted(found)
    for file in files:
        check_utf8(file, CohortError)
    return files


def _is_seen_from(folder: Path, place: Path) -> bool:
    """Return whether a place is below a folder, and in no hidden one there."""
    return folder in place.parents and not any(part.startswith(".") for part in place.relative_to(folder).parts)


def _beginning_with(start: str, files: Sequence[str]) -> Iterator[str]:
    """Return those of sorted files whose paths begin so."""
    return takewhile(lambda file: file.startswith(start), files[bisect_left(files, start) :])


def find(cohort: Path, sources: Mapping[str, Source]) -> FoundFiles:
    """Find the files that fit the sources' patterns, which begin in the cohort's folder; CohortError if there is no
    such folder, or no training image in it."""
    cohort = Path(cohort)
    if not cohort.is_dir():
        raise CohortError(f"cohort: there is no folder {cohort}; give yours with --config cohort=FOLDER")
    placed = {name: _placed(cohort, source) for name, source in sources.items()}
    present = nifti_files({one.place for patterns in placed.values() for one in patterns})
    taken: set[str] = set()
    files = tuple(_source_files(name, sources[name], patterns, present, taken) for name, patterns in placed.items())
    twins = {file for file in taken if file.endswith(".gz")} & {f"{file}.gz" for file in present}
    known = taken | {twin.removesuffix(".gz") for twin in twins}
    flat = {one.start for patterns in placed.values() for one in patterns if one.pattern.is_flat}
    others = sorted({file for start in flat for file in _beginning_with(start, present)} - known)
    if not any(source.images or source.unlabeled_images for source in files):
        wanted = [text for source in sources.values() for text in (*source.images, *source.unlabeled_images)]
        raise CohortError(f"{cohort}: no file fits {' or '.join(wanted)}")
    return FoundFiles(cohort, files, frozenset(map(Path, twins)), tuple(map(Path, others)))


def _placed(cohort: Path, source: Source) -> list[_Placed]:
    patterns = [(key, FilePattern.parse(text)) for key in PATTERN_KEYS for text in getattr(source, key)]
    return [_Placed(key, pattern, place_of(cohort, pattern.folder), source.values) for key, pattern in patterns]


def _source_files(
    name: str, source: Source, patterns: Sequence[_Placed], present: Sequence[str], taken: set[str]
) -> SourceFiles:
    """Give each file to the closest pattern that fits it, and add it to those that are taken."""
    closest: dict[str, tuple[_Placed, re.Match[str]]] = {}
    for one in patterns:
        for file in _beginning_with(one.start, present):
            found = one.match(file)
            if found and (file not in closest or one.closeness > closest[file][0].closeness):
                closest[file] = one, found
    prefix = f"{name}_" if source.prefix is None else source.prefix
    groups: dict[str, dict[str, list[Path]]] = {key: defaultdict(list) for key in PATTERN_KEYS}
    folders = {}
    masks: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(closest):
        one, found = closest[file]
        case, path = found["case"], Path(file)
        if "/" in case:
            raise CohortError(
                f"{file}: sources.{name}.{one.key}: {one.pattern.rest!r} takes {case!r} for the name of its case, "
                "which can have no slash: use [^/] in place of a dot"
            )
        taken.add(file)
        if MASK in one.pattern.rest:
            if found["mask"] not in source.values:
                continue
            path = Path(one.pattern.with_mask(found))
            masks[path].append(Path(file))
        elif one.key in ("images", "unlabeled_images"):
            folders[path] = one.place
        # One name can be written in composed or decomposed letters; on the screen they look the same.
        paths = groups[one.key][unicodedata.normalize("NFC", prefix + case)]
        if path not in paths:
            paths.append(path)
    plain = {
        key: dict(sorted((case, _distinct(paths)) for case, paths in group.items())) for key, group in groups.items()
    }
    plain["labels"] |= plain.pop("masks")
    if not source.has_labels:
        plain["unlabeled_images"] |= plain["images"]
        plain["images"] = {}
    return SourceFiles(name, **plain, folders=folders, masks=dict(masks))


def notices(found: FoundFiles, sources: Mapping[str, Source], draws: bool, evaluated: Sequence[str]) -> list[str]:
    """Return a line for everything that the configuration asks for and the folders do not have.

    `draws` states whether validation cases are drawn, `evaluated` names the models that are to be evaluated.
    """
    lines = []
    for name, source in sources.items():
        for key, texts in source.patterns.items():
            folders = dict.fromkeys(FilePattern.parse(text).folder for text in texts)
            releases = [next((names for names in OF_RELEASES if folder in names), {folder}) for folder in folders]
            for folder_names in dict.fromkeys(tuple(one for one in folders if one in names) for names in releases):
                if not any(place_of(found.cohort, folder).is_dir() for folder in folder_names):
                    missing = f"there is no folder {' or '.join(folder_names)} in {found.cohort}"
                    lines.append(f"sources.{name}.{key}: {missing}; none of its cases takes part")
    lines += [
        f"sources.{source.name}: no image fits its patterns; none of its cases takes part"
        for source in found.sources
        if not (source.images or source.unlabeled_images or source.validation_images)
        and not any(line.startswith(f"sources.{source.name}.") for line in lines)
    ]
    for one in found.sources:
        files = {file for paths in one.masks.values() for file in paths}
        for mask in sources[one.name].values if files else ():
            if not any(Path(str(template).replace(MASK, mask)) in files for template in one.masks):
                lines.append(f"sources.{one.name}.values: no file fits the mask {mask!r}: annotated in no case")
    labeled = any(set(source.validation_images) & set(source.validation_labels) for source in found.sources)
    if evaluated and not draws and not labeled:
        lines.append(f"models.{evaluated[0]}.evaluate: there is no validation case with a label; its job will fail")
    return lines


def listing(found: FoundFiles) -> list[tuple[str, int, int, int]]:
    """Return (path, size in bytes, modification time in ns, mode) of every file that was found or is reported.

    It changes whenever the scan has something new to read, and takes no look into any file.
    """
    rows = []
    twins = [twin.with_suffix("") for twin in found.twins]
    for path in [*found.files(), *twins, *found.others]:
        try:
            status = path.stat()
        except OSError:
            rows.append((str(path), -1, -1, -1))
        else:
            rows.append((str(path), status.st_size, status.st_mtime_ns, status.st_mode))
    return sorted(rows)


def moved(source: Source, images: Path, labels: Path, unlabeled: Path | None) -> Source:
    """Return a source whose files have the same names, in other folders; CohortError if one is not there, or its
    name is not UTF-8."""
    for folder in (images, labels, unlabeled):
        if folder is not None:
            check_utf8(folder.absolute(), CohortError)
            if not folder.is_dir():
                raise CohortError(f"there is no folder {folder}")

    return Source.of(
        source,
        images=_within(images, source.images),
        labels=_within(labels, source.labels),
        masks=_within(labels, source.masks),
        unlabeled_images=_within(unlabeled, source.unlabeled_images or source.images),
        validation_images=[],
        validation_labels=[],
    )


def labels_in(folder: Path, name: str, source: Source) -> Files:
    """Return the labels in a folder that are named as those of a source, by case."""
    texts = (*source.validation_labels, *source.labels, *source.masks)
    source = Source.of(source, **dict.fromkeys(PATTERN_KEYS, ()) | {"labels": _within(folder, texts)})
    patterns = _placed(Path("/"), source)
    return _source_files(name, source, patterns, nifti_files({one.place for one in patterns}), set()).labels


def _within(folder: Path | None, texts: Sequence[str]) -> list[str]:
    """Return patterns that begin in another folder; none without one."""
    rests = dict.fromkeys(FilePattern.parse(text).rest for text in texts) if folder else ()
    return [f"{folder.absolute().as_posix().rstrip('/')}/{rest}" for rest in rests if folder]
