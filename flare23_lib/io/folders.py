"""Which files lie below a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def files_below(folder: str) -> list[str]:
    """Return the paths of all files below a folder, hidden files and folders left out.

    Links to folders are followed last, and only to folders that were not listed before: each file is found once, and
    a link to a folder around it ends there.
    """
    found: list[str] = []
    links: list[str] = []
    pending = [folder]
    listed: set[tuple[int, int]] = set()
    while pending or links:
        place = (pending or links).pop()
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
