"""Finding images and labels in the cohort's folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flare23_lib.errors import CohortError


@dataclass(frozen=True)
class Found:
    """What lies in the folders: paths by case id, several where an id occurs several times."""

    labeled: Mapping[str, list[Path]] = field(default_factory=dict)
    unlabeled: Mapping[str, list[Path]] = field(default_factory=dict)
    validation: Mapping[str, list[Path]] = field(default_factory=dict)
    labels: Mapping[str, list[Path]] = field(default_factory=dict)
    validation_labels: Mapping[str, list[Path]] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """All files, sorted."""
        groups = (self.labeled, self.unlabeled, self.validation, self.labels, self.validation_labels)
        return sorted(path for group in groups for paths in group.values() for path in paths)


def _files_below(folder: Path) -> list[Path]:
    found = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(Path(entry.path))
                elif not entry.name.startswith("."):
                    found.append(Path(entry.path))
    return found


def _by_case(root: Path, folders: Sequence[str], suffix: str) -> dict[str, list[Path]]:
    cases: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        path = root / folder
        if not path.is_dir():
            continue
        try:
            files = _files_below(path)
        except OSError as error:
            raise CohortError(f"{error.filename}: cannot be listed ({error.strerror})") from error
        for file in files:
            if file.name.endswith(suffix) and len(file.name) > len(suffix):
                cases[file.name.removesuffix(suffix)].append(file)
    return {case: sorted(paths) for case, paths in sorted(cases.items())}


def find(cohort: Path, layout: Mapping) -> Found:
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
    image, label = layout["image_suffix"], layout["label_suffix"]
    found = Found(
        labeled=_by_case(cohort, layout["training_images"], image),
        unlabeled=_by_case(cohort, layout["unlabeled_images"], image),
        validation=_by_case(cohort, layout["validation_images"], image),
        labels=_by_case(cohort, layout["training_labels"], label),
        validation_labels=_by_case(cohort, layout["validation_labels"], label),
    )
    if not found.labeled and not found.unlabeled:
        wanted = [*layout["training_images"], *layout["unlabeled_images"]]
        raise CohortError(f"{cohort}: no file *{image} in any of its folders {', '.join(wanted)}")
    return found


def find_in(images: Path, labels: Path, unlabeled: Path | None, layout: Mapping) -> Found:
    """Look for labeled and unlabeled training cases in folders given one by one; CohortError as `find`."""
    for folder in (images, labels, unlabeled):
        if folder is not None and not folder.is_dir():
            raise CohortError(f"there is no folder {folder}")
    nowhere = {"validation_images": [], "validation_labels": []}
    given = {
        "training_images": [str(images.absolute())],
        "training_labels": [str(labels.absolute())],
        "unlabeled_images": [str(unlabeled.absolute())] if unlabeled else [],
    }
    return find(Path("/"), {**layout, **nowhere, **given})


def listing(cohort: Path, layout: Mapping) -> list[tuple[str, int, int]]:
    """Return (path, size in bytes, modification time in ns) of every file that `find` finds.

    It changes whenever the scan has something new to read, and takes no look into any file.
    """
    rows = []
    for path in find(cohort, layout).files():
        try:
            status = path.stat()
        except OSError:
            rows.append((str(path), -1, -1))
        else:
            rows.append((str(path), status.st_size, status.st_mtime_ns))
    return rows
