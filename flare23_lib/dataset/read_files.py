"""Reading every file of the cohort once, in parallel, and remembering what was seen.

What is remembered of a file holds as long as its size and modification time do; the next scan reads only what is
new. What was read is written down file by file, so a scan that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from flare23_lib import versions
from flare23_lib.dataset.image_info import Facts, read_facts
from flare23_lib.errors import CohortError
from flare23_lib.io.atomic import write_text
from flare23_lib.io.locks import lock
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

SMALL_FILE_BYTES = 1 << 20
"""Files smaller than this on average are handed to processes several at a time."""


class Task(NamedTuple):
    """A file to read: an image or a label, whole or only its header."""

    path: Path
    is_label: bool
    header_only: bool = False


class Key(NamedTuple):
    """What a remembered line holds for: a file as it was, read in one way."""

    path: str
    is_label: bool
    header_only: bool
    size: int
    mtime: int


def _key(task: Task) -> Key:
    try:
        status = task.path.stat()
    except OSError:
        return Key(str(task.path), task.is_label, task.header_only, -1, -1)
    return Key(str(task.path), task.is_label, task.header_only, status.st_size, status.st_mtime_ns)


def _read(task: Task) -> Facts:
    return read_facts(task.path, task.is_label, task.header_only)


def _line(key: Key, facts: Facts) -> str:
    return json.dumps([versions.SCAN, *key, facts.to_json()])


def _remembered(memory: Path) -> dict[Key, Facts]:
    """Return what the memory holds; lines of another version, or cut off by a kill, are passed over."""
    known: dict[Key, Facts] = {}
    if memory.exists():
        with memory.open(encoding="utf-8") as handle:
            for line in handle:
                try:
                    version, *key, facts = json.loads(line)
                    if version == versions.SCAN:
                        known[Key(*key)] = Facts.from_json(facts)
                except (ValueError, TypeError, KeyError):
                    continue
    return known


def remembered(memory: Path) -> dict[Path, Facts]:
    """Return what the memory holds of each image or label, whether or not the file has changed since."""
    return {Path(key.path): facts for key, facts in _remembered(memory).items()}


def scan(tasks: Sequence[Task], memory: Path, processes: int = 1) -> dict[Path, Facts]:
    """Read files that are new or changed and take the rest from memory.

    A file that could not be read (`cannot_be_read`) is tried again: its permissions may have changed.

    Args:
        tasks: every file.
        memory: the file that remembers; made if missing.
        processes: how many files are read at once.

    Raises:
        CohortError: a process was killed.
    """
    memory.parent.mkdir(parents=True, exist_ok=True)
    with lock(memory.with_name(memory.name + ".lock"), lambda: log.info("another scan is running; waiting for it")):
        known = _remembered(memory)
        keys = {task: _key(task) for task in tasks}
        fresh = [task for task, key in keys.items() if known.get(key, _UNREAD).fault == "cannot_be_read"]
        log.info("%d files, %d of them new or changed", len(tasks), len(fresh))
        sizes = [max(0, keys[task].size) for task in fresh]
        with memory.open("a", encoding="utf-8") as handle:
            for task, facts in zip(fresh, _run(fresh, sizes, processes), strict=True):
                known[keys[task]] = facts
                handle.write("\n" * (handle.tell() > 0) + _line(keys[task], facts))
                handle.flush()
        if len(known) > 2 * len(keys):
            write_text(memory, "\n".join(_line(key, known[key]) for key in keys.values()))
        return {task.path: known[key] for task, key in keys.items()}


_UNREAD = Facts(fault="cannot_be_read")


def _run(tasks: Sequence[Task], sizes: Sequence[int], processes: int) -> Iterable[Facts]:
    """Read the files in order, several at a time; progress is counted in bytes."""
    if processes <= 1 or len(tasks) < 4:
        yield from progress(map(_read, tasks), total=len(tasks), unit="file", sizes=sizes)
        return
    chunk = 16 if sum(sizes) < SMALL_FILE_BYTES * len(tasks) else 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        results = pool.map(_read, tasks, chunksize=chunk)
        try:
            yield from progress(results, total=len(tasks), unit="file", sizes=sizes)
        except BrokenProcessPool as error:
            raise CohortError(
                "a reading process was killed, probably for want of memory; what was read is kept, start again"
            ) from error
