"""Every byte of every small file of a finished run, with one bit flipped: noticed, or without effect on results."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CONFIGURATION, flare23, run_snakemake
from faults import flip

from flare23_lib.cache.entries import MANIFEST, CacheFolder, Entry, checksum
from flare23_lib.cache.results import Results, entry_name
from flare23_lib.choices import MODEL_FILE, WEIGHTS_FILE
from flare23_lib.dataset.read_files import remembered
from flare23_lib.errors import BundleError
from flare23_lib.inference.bundle import file_sha256
from flare23_lib.inference.model import read_model
from flare23_lib.io.checksum import CHECKSUMS, is_as_kept

SMALL = 16 << 10
"""Bytes of the largest file of which every byte is flipped; of larger ones 200."""

NOT_READ_AGAIN = (
    "benchmarks/**/*",
    "logs/**/*",
    "report/figures/**/*",
    "report/viewer/**/*",
    "store/training/*/nnunet.log",
    "store/training/*/preprocessed/**/*",
    "store/training/*/results/**/*",
)
"""What no later step of the workflow makes results from (docs/store.md)."""

Check = Callable[[], bool | None]
"""Of a file that has a flipped bit: True if it is noticed, False if it has no effect, None if results change."""


def compared(read: Callable[[], object]) -> Check:
    """Check a file by reading it: it is refused (None), or gives what it gave before."""
    before = read()
    assert before is not None

    def check() -> bool | None:
        found = read()
        return True if found is None else False if found == before else None

    return check


def description(path: Path) -> object:
    try:
        return read_model(path.parent)
    except BundleError:
        return None


def scan_memory(path: Path) -> Check:
    """A damaged line of the scan's memory is passed over, and its file is read again."""
    before = remembered(path)

    def check() -> bool | None:
        found = remembered(path)
        if found == before:
            return False
        return True if found.items() <= before.items() and len(found) >= len(before) - 2 else None

    return check


def of_an_entry(path: Path) -> Check:
    entry = Entry(CacheFolder(path.parent), entry_name(path) or "")
    metadata = entry.load()
    assert metadata is not None
    if path == entry.metadata_path:
        return compared(entry.metadata)
    expected = metadata["files"][path.name.removeprefix(entry.name)]
    assert checksum(path, deep=True) == expected
    return lambda: True if checksum(path, deep=True) != expected else None


def check_of(path: Path) -> Check:
    if path.parent.name == CHECKSUMS:
        table = path.parent.parent / path.name
        return lambda: not is_as_kept(table, table.read_bytes())
    if path.name == "files.jsonl":
        return scan_memory(path)
    if path.name == MANIFEST:
        return compared(CacheFolder(path.parent).read_key)
    if path.parts[-3] == "models" and path.name == MODEL_FILE:
        return compared(lambda: description(path))
    if path.parts[-3] == "models" and path.name == WEIGHTS_FILE:
        sha256 = read_model(path.parent).weights.sha256
        return lambda: True if file_sha256(path) != sha256 else None
    if entry_name(path) is not None:
        return of_an_entry(path)
    return lambda: True if not is_as_kept(path, path.read_bytes()) else None


def flips(path: Path, step: int) -> Iterator[None]:
    """Flip a bit of every so manieth byte, in place, and flip it back."""
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(path.read_bytes()):
            if place % step == 0:
                for written in (byte ^ 1 << place % 8, byte):
                    file.seek(place)
                    file.write(bytes([written]))
                    if written != byte:
                        yield


def checked_files(root: Path) -> list[Path]:
    skipped = {path for pattern in NOT_READ_AGAIN for path in root.glob(pattern)}
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if path not in skipped and path.stat().st_size]


def flip_all(root: Path) -> tuple[Counter[str], list[Path]]:
    """Return how many files and flips there were, and the files of which one changed results."""
    counts, wrong = Counter[str](), []
    for path in checked_files(root):
        check, size = check_of(path), path.stat().st_size
        found = Counter(check() for _ in flips(path, 1 if size <= SMALL else size // 200))
        counts += {"files": 1, "noticed": found[True], "without effect": found[False]}
        if found[None]:
            wrong.append(path)
    return counts, wrong


@pytest.mark.timeout(1800)
def test_every_byte_of_every_small_file_is_watched(chain):
    counts, wrong = flip_all(chain / "results")
    print(dict(counts))
    assert wrong == []
    assert counts["noticed"] > 20 * counts["without effect"]


def test_what_was_flipped_is_named_deleted_and_made_again(chain):
    results = chain / "results"
    names = [
        "cohort/quarantine.csv", "evaluation/student/distances.csv", "evaluation/tables/table6.md",
        "completed_labels/tumor/confusion.csv", "predictions/student/predictions.csv", "models/student/README.md",
        "models/organ_teacher/model.json", "training/student/training.json", "report/index.html",
    ]  # fmt: skip
    before = {name: (results / name).read_bytes() for name in names}
    for path in map(results.joinpath, names):
        flip(path, path.stat().st_size // 2)
    found = flare23(chain, "verify", *CONFIGURATION)
    assert found.returncode == 1
    for name in names:
        assert f"missing or broken: results/{name}\n" in found.stdout
        assert not (results / name).exists()
    trained = sorted(path.stat().st_mtime_ns for path in Results(results).root.glob("store/training/*/model.json"))
    done = run_snakemake(chain)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert trained == sorted(path.stat().st_mtime_ns for path in (results / "store/training").glob("*/model.json"))
    assert {name: (results / name).read_bytes() for name in names if name != "report/index.html"} == {
        name: content for name, content in before.items() if name != "report/index.html"
    }
    assert flare23(chain, "verify", *CONFIGURATION).returncode == 0
