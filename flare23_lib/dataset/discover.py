"""Finding images and labels in the cohort's folders."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from flare23_lib.config.models import Layout
from flare23_lib.errors import CohortError

log = logging.getLogger(__name__)

OF_RELEASES = ({"unlabelTr1800", "unlabeledTr1800"}, {"validation-gt", "val-gt-50cases-for-sanity-check"})
"""Names that one and the same folder has in releases of FLARE23's data."""


@dataclass(frozen=True)
class Found:
    """What lies in the folders: paths by case id, several where an id occurs several times.

    Attributes:
        labeled: images of labeled training cases.
        unlabeled: images of unlabeled ones.
        validation: images of validation cases.
        labels: labels of training cases.
        validation_labels: labels of validation cases.
        twins: files `x.nii.gz` that have an `x.nii` beside them.
        others: NIfTI files in the cohort's folders whose names are neither an image's nor a label's.
        image_folders: the layout's folders of training images, by their name in the layout.
    """

    labeled: Mapping[str, list[Path]] = field(default_factory=dict)
    unlabeled: Mapping[str, list[Path]] = field(default_factory=dict)
    validation: Mapping[str, list[Path]] = field(default_factory=dict)
    labels: Mapping[str, list[Path]] = field(default_factory=dict)
    validation_labels: Mapping[str, list[Path]] = field(default_factory=dict)
    twins: frozenset[Path] = frozenset()
    others: tuple[Path, ...] = ()
    image_folders: Mapping[str, Path] = field(default_factory=dict)

    def folders_of(self, image: Path) -> list[str]:
        """The layout's folder in which a training image lies, the innermost one, by its names in the layout."""
        around = {name: folder for name, folder in self.image_folders.items() if image.is_relative_to(folder)}
        innermost = max(around.values(), key=lambda folder: len(folder.parts), default=None)
        return [name for name, folder in around.items() if folder == innermost]

    def files(self) -> list[Path]:
        """All images and labels."""
        groups = (self.labeled, self.unlabeled, self.validation, self.labels, self.validation_labels)
        return [path for group in groups for paths in group.values() for path in paths]


def _files_below(folder: str) -> list[str]:
    """Return the paths of all files below a folder, hidden files and folders left out.

    Links to folders are followed last, and only to folders that were not listed before: each file is found once, and
    a link to a folder around it ends there.
    """
    found: list[str] = []
    links: list[str] = []
    pending = [folder]
    listed: set[tuple[int, int]] = set()
    while pending or links:
        linked = not pending
        place = (links if linked else pending).pop()
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in listed:
            log.warning("%s: leads to %s, which is listed already; passed over", place, os.path.realpath(place))
            continue
        listed.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    (links if entry.is_symlink() else pending).append(entry.path)
                else:
                    found.append(entry.path.replace(os.sep, "/").removeprefix("./"))
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def place_of(root: Path, folder: str) -> Path:
    """Return where a folder of the layout lies, each place in one spelling: as below the cohort if it is there."""
    base, place = (Path(os.path.normpath(path.absolute())) for path in (root, root / folder))
    return root / place.relative_to(base) if place.is_relative_to(base) else place


def _is_nifti(file: str) -> bool:
    return file.lower().endswith((".nii", ".nii.gz"))


def _check_name(file: str) -> None:
    """Raise CohortError if a file's name cannot be written into tables."""
    try:
        file.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(file).decode("utf-8", "backslashreplace")
        raise CohortError(f"{shown}: its name is not UTF-8; rename it") from error


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


class _Folders:
    """The files below the layout's folders, each folder listed once. Plain strings: there may be 100,000 of them."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.image_suffix, self.label_suffix = layout.image_suffix, layout.label_suffix
        self.prefixes = {folder: f"{prefix}_" for folder, prefix in layout.prefixes.items()}
        self.groups = [list(chain(*group.values())) for group in (layout.images, layout.labels)]
        self.places = {folder: place_of(root, folder) for folder in chain(*self.groups)}
        self.listed: dict[str, list[str]] = {}
        self.taken: set[str] = set()

    def _files(self, folder: str) -> list[str]:
        if folder not in self.listed:
            path = self.places[folder]
            try:
                self.listed[folder] = _files_below(str(path)) if path.is_dir() else []
            except OSError as error:
                raise CohortError(f"{error.filename}: cannot be listed ({error.strerror})") from error
            for file in filter(_is_nifti, self.listed[folder]):
                _check_name(file)
        return self.listed[folder]

    def _own_files(self, folder: str, group: Sequence[str]) -> list[str]:
        """Return the files of a folder that lie in none of the group's folders within it."""
        place = self.places[folder]
        others = [self.places[other] for other in group if self.places[other] != place]
        within = tuple(f"{other.as_posix()}/" for other in others if other.is_relative_to(place))
        return [file for file in self._files(folder) if not file.startswith(within)]

    def by_case(self, folders: Sequence[str], suffix: str, other: str, group: Sequence[str]) -> dict[str, list[Path]]:
        """Return files by case; a name that ends in both suffixes is that of the longer one."""
        cases: dict[str, list[Path]] = defaultdict(list)
        not_mine = other if len(other) > len(suffix) and other.endswith(suffix) else None
        prefixes = {
            file: self.prefixes.get(folder, "") for folder in folders for file in self._own_files(folder, group)
        }
        for file, prefix in sorted(prefixes.items()):
            name = file.rpartition("/")[2]
            if not name.endswith(suffix) or len(name) == len(suffix):
                continue
            if not_mine is None or not name.endswith(not_mine):
                # One name can be written in composed or decomposed letters; on the screen they look the same.
                case = unicodedata.normalize("NFC", prefix + name.removesuffix(suffix))
                cases[case].append(Path(file))
                self.taken.add(file)
        return {case: _distinct(files) for case, files in sorted(cases.items())}

    def images(self, folders: Sequence[str]) -> dict[str, list[Path]]:
        return self.by_case(folders, self.image_suffix, self.label_suffix, self.groups[0])

    def labels(self, folders: Sequence[str]) -> dict[str, list[Path]]:
        return self.by_case(folders, self.label_suffix, self.image_suffix, self.groups[1])

    def twins(self) -> set[str]:
        present = {file for files in self.listed.values() for file in files}
        return {file for file in self.taken if file.endswith(".gz") and file.removesuffix(".gz") in present}

    def others(self) -> list[str]:
        known = self.taken | {twin.removesuffix(".gz") for twin in self.twins()}
        files = {file for files in self.listed.values() for file in filter(_is_nifti, files)}
        return sorted(files - known)


def find(cohort: Path, layout: Layout) -> Found:
    """Look for the cohort's files where the layout says.

    Args:
        cohort: the folder that the layout's folders lie in.
        layout: the configuration's `layout`.

    Raises:
        CohortError: there is no such folder, or no training image in it.
    """
    cohort = Path(cohort)
    if not cohort.is_dir():
        raise CohortError(f"cohort: there is no folder {cohort}; give yours with --config cohort=FOLDER")
    folders = _Folders(cohort, layout)
    found = Found(
        labeled=folders.images(layout.training_images),
        unlabeled=folders.images(layout.unlabeled_images),
        validation=folders.images(layout.validation_images),
        labels=folders.labels(layout.training_labels),
        validation_labels=folders.labels(layout.validation_labels),
        image_folders={name: folders.places[name] for name in (*layout.training_images, *layout.unlabeled_images)},
    )
    found = replace(found, twins=frozenset(map(Path, folders.twins())), others=tuple(map(Path, folders.others())))
    if not found.labeled and not found.unlabeled:
        wanted = [*layout.training_images, *layout.unlabeled_images]
        raise CohortError(
            f"{cohort}: no file CASE{layout.image_suffix} in any of its folders {', '.join(wanted)} (a case has "
            "its name from its file, not from a folder)"
        )
    return found


def find_in(images: Path, labels: Path, unlabeled: Path | None, layout: Layout) -> Found:
    """Look for labeled and unlabeled training cases in folders given one by one; CohortError as `find`."""
    for folder in (images, labels, unlabeled):
        if folder is not None and not folder.is_dir():
            raise CohortError(f"there is no folder {folder}")
    given = Layout.of(
        layout,
        training_images=[str(images.absolute())],
        training_labels=[str(labels.absolute())],
        unlabeled_images=[str(unlabeled.absolute())] if unlabeled else [],
        validation_images=[],
        validation_labels=[],
    )
    return find(Path("/"), given)


def notices(found: Found, cohort: Path, layout: Layout, evaluated: Sequence[str]) -> list[str]:
    """Return a line for everything that the configuration asks for and the folders do not have.

    Args:
        found: what `find` found.
        cohort: the folder of the cohort.
        layout: the configuration's `layout`.
        evaluated: names of the models that are to be evaluated.
    """
    lines = []
    for key, folders in (layout.images | layout.labels).items():
        there = {folder for folder in folders if (Path(cohort) / folder).is_dir()}
        told: set[str] = set()
        for folder in folders:
            names = next((names for names in OF_RELEASES if folder in names), {folder})
            if not there & names and folder not in told:
                words = " or ".join(name for name in folders if name in names)
                lines.append(f"layout.{key}: there is no folder {words} in {cohort}; none of its cases takes part")
                told |= names
    if evaluated and not set(found.validation) & set(found.validation_labels):
        lines.append(f"models.{evaluated[0]}.evaluate: there is no validation case with a label; its job will fail")
    return lines


def listing(found: Found) -> list[tuple[str, int, int, int]]:
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
