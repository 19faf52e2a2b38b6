"""`flare23 verify`: whether every file that a record lists exists and is as it was written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from flare23_lib.cache.entries import MANIFEST, CacheFolder
from flare23_lib.cache.records import listed_files, records
from flare23_lib.cache.results import COLLECTED, Results
from flare23_lib.choices import MODEL_FILE, WEIGHTS_FILE
from flare23_lib.errors import BundleError
from flare23_lib.io.checksum import is_as_kept, kept_checksums
from flare23_lib.io.tables import read_csv
from flare23_lib.runtime.processes import in_processes

FILES_PER_TASK = 2000


@dataclass
class Verification:
    """Result of `verify`.

    Attributes:
        checked: number of files that were looked at.
        broken: files that are missing or not as they were written.
        withdrawn: what was deleted, so that the next run makes it again: broken files, and the records and bundles
            that depend on them.
    """

    checked: int = 0
    broken: list[Path] = field(default_factory=list)
    withdrawn: list[Path] = field(default_factory=list)

    def withdraw(self, path: Path) -> None:
        """Delete a file."""
        path.unlink(missing_ok=True)
        if path not in self.withdrawn:
            self.withdrawn.append(path)


def verify(results: Results, processes: int = 1, deep: bool = False) -> Verification:
    """Check every file that a record lists, every record, every file with a checksum beside it, and every bundle.

    With `deep` files are read whole and compared with their checksums; else only their sizes and last bytes are
    checked.
    """
    found = Verification()
    listed = list(records(results))
    files = list(dict.fromkeys(file for _, listed_here in listed for file in listed_here or ()))
    faults = dict(zip(files, _check_all(results, files, processes, deep), strict=True))
    found.broken = list(dict.fromkeys(path for paths in faults.values() for path in paths))
    for path in filter(Path.is_file, found.broken):  # else the next run takes one of the right size for whole
        found.withdraw(path)
    for record, listed_here in listed:
        if listed_here is None:
            found.broken.append(record)
        if listed_here is None or any(faults[file] for file in listed_here):
            found.withdraw(record)
            for table in record.parent.glob("*.csv"):
                if table.name in COLLECTED.values():
                    found.withdraw(table)
    for name, table_name in COLLECTED.items():
        for table in sorted(results.root.glob(f"{name}/*/{table_name}")):
            _verify_collected(results.root, table, found)
    small = _verify_checksums(results.root, found) + _verify_manifests(results.root, found)
    bundles = sorted(path.parent for path in (results.root / "models").glob("*/" + MODEL_FILE))
    for bundle in bundles:
        _verify_bundle(bundle, found)
    found.checked = len(files) + small + len(bundles)
    found.broken = list(dict.fromkeys(found.broken))
    return found


def _verify_checksums(root: Path, found: Verification) -> int:
    """Check tables and other text files, and return how many; one that changed is withdrawn with those of its folder.

    Some of a folder's files are made again only together with the others.
    """
    number = 0
    for files in kept_checksums(root):
        number += len(files)
        broken = [path for path in files if not _is_as_kept(path)]
        found.broken += broken
        if broken:
            for path in files:
                found.withdraw(path)
    return number


def _is_as_kept(path: Path) -> bool:
    try:
        return is_as_kept(path, path.read_bytes())
    except OSError:
        return False


def _verify_manifests(root: Path, found: Verification) -> int:
    """Check the keys of all folders of the cache, and return how many; a broken one is written with the next file."""
    manifests = sorted((root / "store").glob(f"*/*/{MANIFEST}"))
    for manifest in manifests:
        if CacheFolder(manifest.parent).read_key() is None:
            found.broken.append(manifest)
            found.withdraw(manifest)
    return len(manifests)


def _verify_collected(root: Path, table: Path, found: Verification) -> None:
    """Check that a table is complete, has the cases of the records beside it, and has right links."""
    broken = [table]
    if listed_files(table) is not None:
        rows = read_csv(table)
        of_number: dict[str, list[str]] = defaultdict(list)
        for record in table.parent.glob("*-of-*.csv"):
            if listed_files(record) is not None:
                of_number[record.stem.partition("-of-")[2]] += [row["case"] for row in read_csv(record)]
        try:
            files = sorted((row["case"], row["file"]) for row in rows if row["file"])
        except KeyError:
            files = []
        if not of_number or [case for case, _ in files] in map(sorted, of_number.values()):
            links = {table.with_name(f"{case}.nii.gz"): root / file for case, file in files}
            # Not Path.resolve, which refuses links in a circle.
            broken = [link for link, file in links.items() if os.path.realpath(link) != os.path.realpath(file)]
    if broken:
        found.broken += broken
        found.withdraw(table)


def _verify_bundle(bundle: Path, found: Verification) -> None:
    from flare23_lib.inference.bundle import load_bundle

    try:
        load_bundle(bundle)
    except BundleError:
        found.broken.append(bundle / WEIGHTS_FILE)
        found.withdraw(bundle / WEIGHTS_FILE)
        found.withdraw(bundle / MODEL_FILE)


def _check_all(results: Results, files: Sequence[str], processes: int, deep: bool) -> list[list[Path]]:
    parts = [files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)]
    check = partial(_check_part, results, deep)
    return list(chain(*in_processes(check, parts, processes, lambda part: f"{part[0]} to {part[-1]}", "part")))


def _check_part(results: Results, deep: bool, files: Sequence[str]) -> list[list[Path]]:
    return [_check(results, deep, file) for file in files]


def _check(results: Results, deep: bool, file: str) -> list[Path]:
    """Return what is missing or broken of the entry that a file belongs to."""
    entry, path = results.entry(file), results.root / file
    try:
        metadata = entry.metadata()
        if metadata is None:
            return [entry.metadata_path if path.exists() else path]
        return entry.broken_files(metadata, deep)
    except OSError as error:
        return [Path(error.filename)]
