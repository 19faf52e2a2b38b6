"""Reading every file of the cohort once, in parallel, and remembering what was seen.

What is remembered of a file holds as long as its size and modification time do; the next scan reads only what is
new. What was read is written down file by file, so a scan that was killed resumes where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flare23_lib import versions
from flare23_lib.dataset.image_info import ImageInfo, read_info
from flare23_lib.io.atomic import about_path, write_text
from flare23_lib.io.checksum import OWN_CHECKSUM, digest_of
from flare23_lib.io.label_maps import LabelFiles
from flare23_lib.io.locks import lock
from flare23_lib.runtime.processes import in_processes

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """A file to read: an image or a label, whole or only its header; arguments of `read_info`."""

    path: Path
    is_label: bool
    header_only: bool = False
    mapping: str = ""

    def status(self) -> tuple[int, int]:
        """Return size in bytes and modification time in ns; -1 and -1 if the file is missing.

        For a file per class the size of all, and in place of the time a number that is another one when a mask has
        another name, size or time.
        """
        label = LabelFiles(self.path, self.mapping)
        try:
            if not label.has_masks:
                found = self.path.stat()
                return found.st_size, found.st_mtime_ns
            masks = [(name, path.stat()) for name, path in label.mask_files().items()]
        except OSError:
            return -1, -1
        told_apart = digest_of([[name, one.st_size, one.st_mtime_ns] for name, one in masks])
        return sum(one.st_size for _, one in masks), int(told_apart, 16) if masks else -1


Key = tuple[str, bool, bool, int, int, str]
"""What a remembered line holds for: a file as it was, read in one way. Path, is_label, header_only, size and time
(`Task.status`), mapping."""


def _key(task: Task) -> Key:
    return str(task.path), task.is_label, task.header_only, *task.status(), task.mapping


def _read(task: Task) -> ImageInfo:
    return read_info(*task)


def _line(key: Key, info: ImageInfo) -> str:
    parts = [versions.SCAN, *(key if key[-1] else key[:-1])]
    return json.dumps([*parts, {**info.to_json(), OWN_CHECKSUM: digest_of([*parts, info.to_json()])}])


def _remembered(memory: Path) -> dict[Key, ImageInfo]:
    """Return what the memory holds; lines of another version, damaged or cut off by a kill, are passed over."""
    known: dict[Key, ImageInfo] = {}
    if memory.exists():
        with about_path(memory), memory.open("rb") as handle:
            for line in handle:
                try:
                    *parts, info = json.loads(line)
                    digest = info.pop(OWN_CHECKSUM)
                    version, path, is_label, header_only, size, mtime, *mapping = parts
                    if version == versions.SCAN and digest == digest_of([*parts, info]):
                        key = path, is_label, header_only, size, mtime, "".join(mapping)
                        known[key] = ImageInfo.from_json(info)
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue
    return known


def remembered(memory: Path) -> dict[Path, ImageInfo]:
    """Return what the memory holds of each image or label, whether or not the file has changed since."""
    return {Path(key[0]): info for key, info in _remembered(memory).items()}


def read_files(tasks: Sequence[Task], memory: Path, processes: int = 1) -> dict[Task, ImageInfo]:
    """Read files that are new or changed and take the rest from memory, a file that is made if missing.

    A file that could not be read (`cannot_be_read`) is tried again: its permissions may have changed. KilledError as
    `in_processes`; what was read is kept.
    """
    with lock(memory.with_name(memory.name + ".lock"), lambda: log.info("another scan is running; waiting for it")):
        known = _remembered(memory)
        keys = {task: _key(task) for task in tasks}
        fresh = [task for task, key in keys.items() if known.get(key, _UNREAD).issue == "cannot_be_read"]
        log.info("%d files, %d of them new or changed", len(tasks), len(fresh))
        sizes = [max(0, keys[task][3]) for task in fresh]
        with about_path(memory), memory.open("a", encoding="utf-8") as handle:
            infos = in_processes(_read, fresh, processes, lambda task: str(task.path), "file", sizes)
            for task, info in zip(fresh, infos, strict=True):
                known[keys[task]] = info
                handle.write("\n" * (handle.tell() > 0) + _line(keys[task], info))
                handle.flush()
        if len(known) > 2 * len(keys):
            write_text(memory, "\n".join(_line(key, known[key]) for key in keys.values()))
        return {task: known[key] for task, key in keys.items()}


_UNREAD = ImageInfo(issue="cannot_be_read")
