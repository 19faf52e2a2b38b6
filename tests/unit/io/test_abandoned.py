"""Files that a killed process left half-written are removed by the next one that writes there; those of living ones
are not."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flare23_lib.io import atomic
from flare23_lib.io.atomic import TEMPORARY_MARK, atomic_path, link_to, write_text

WRITER = """
    import sys
    from flare23_lib.io.atomic import atomic_path

    with atomic_path(sys.argv[1]) as temporary:
        temporary.write_bytes(b"half")
        print(temporary, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def as_if_just_started():
    atomic.remove_abandoned.cache_clear()


@contextlib.contextmanager
def writer(path):
    """Yield a process that has written half of a file, and its temporary file."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_write_into_the_folder(tmp_path):
    with writer(tmp_path / "a.csv") as (process, half):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert half.read_bytes() == b"half"
    write_text(tmp_path / "b.csv", "other")
    assert names(tmp_path) == ["b.csv"]


@pytest.mark.parametrize("name", ["a.csv", "b.csv"])
def test_what_a_living_process_writes_is_left_alone_and_it_ends_well(tmp_path, name):
    with writer(tmp_path / "a.csv") as (process, half):
        write_text(tmp_path / name, "other")
        assert half.read_bytes() == b"half"
        process.communicate("\n")
        assert process.returncode == 0
    assert (tmp_path / "a.csv").read_bytes() == b"half"
    assert names(tmp_path) == sorted({"a.csv", name})


def test_what_another_thread_of_the_process_writes_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "a") as one:
        one.write_text("a")
        atomic.remove_abandoned.cache_clear()
        write_text(tmp_path / "b", "b")
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(("seconds", "left"), [(0, True), (2 * atomic.UNTOUCHED_SECONDS, False)])
def test_another_machines_file_is_removed_only_if_it_was_left_alone_for_long(tmp_path, seconds, left):
    half = tmp_path / f"{TEMPORARY_MARK}{0:08x}-abcd_123-case.nii.gz"
    half.write_bytes(b"half")
    os.utime(half, (time.time() - seconds,) * 2)
    write_text(tmp_path / "b", "b")
    assert half.exists() == left


@pytest.mark.parametrize("name", [".partial-dir", ".partial-transfer.csv", "case.partial-0", f"{TEMPORARY_MARK}x"])
def test_files_of_others_with_such_names_stay(tmp_path, name):
    (tmp_path / name).write_text("theirs")
    write_text(tmp_path / "b", "b")
    assert names(tmp_path) == sorted([name, "b"])


def test_a_half_made_link_is_removed_by_the_next_write_and_the_next_link(tmp_path):
    half = tmp_path / f"{atomic.THIS_MACHINE}01234567-nnunet"
    for write in (lambda: write_text(tmp_path / "b", "b"), lambda: link_to(tmp_path / "link", tmp_path / "b")):
        atomic.remove_abandoned.cache_clear()
        half.symlink_to("b")
        write()
        assert not half.is_symlink()


def test_a_link_whose_temporary_is_taken_away_is_made_all_the_same(tmp_path, monkeypatch):
    symlink_to, times = Path.symlink_to, []

    def taken_once(path, target):
        symlink_to(path, target)
        if not times:
            path.unlink()
        times.append(path)

    monkeypatch.setattr(Path, "symlink_to", taken_once)
    link_to(tmp_path / "link", tmp_path / "target")
    assert (tmp_path / "link").readlink() == Path("target")
    assert len(times) == 2
    assert names(tmp_path) == ["link"]


def test_a_file_that_is_taken_away_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = atomic._lock, []

    def taken_once(file, wait=True):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        return lock(file, wait)

    monkeypatch.setattr(atomic, "_lock", taken_once)
    write_text(tmp_path / "a", "a")
    assert len(taken) == 1
    assert names(tmp_path) == ["a"]


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path, monkeypatch):
    half = tmp_path / f"{atomic.THIS_MACHINE}abcd_123-a"
    half.write_bytes(b"half")
    monkeypatch.setattr(atomic, "fcntl", None)
    write_text(tmp_path / "b", "b")
    assert half.exists()
    atomic.remove_partial(tmp_path)
    assert names(tmp_path) == ["b"]


def test_a_folder_is_listed_once_in_a_process(tmp_path, monkeypatch):
    glob, listed = Path.glob, []
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: listed.append(folder) or glob(folder, pattern))
    for number in range(3):
        write_text(tmp_path / str(number), "text")
    assert listed == [tmp_path]
