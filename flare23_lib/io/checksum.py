"""Checksums: of files, within JSON objects, and beside the tables and records of a results folder.

A flipped bit in a table gives another table. So what a job of the workflow writes beside its output has a checksum in
the hidden folder `.checksums` there: `.checksums/cases.csv` has a line as `sha256sum` writes it. The files themselves
stay as plain as they are, and a file without a checksum is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from isal import isal_zlib

BLOCK_BYTES = 1 << 22
"""A file is read in blocks of this size."""

CHECKSUMS = ".checksums"
"""Folder of the checksums of the files beside it."""

OWN_CHECKSUM = "checksum"
"""Key of a JSON object: digest of the others."""


def crc32_of(handle: BinaryIO) -> str:
    """Return the CRC-32 of all bytes of an open file as 8 hexadecimal digits."""
    handle.seek(0)
    crc = 0
    while block := handle.read(BLOCK_BYTES):
        crc = isal_zlib.crc32(block, crc)
    return f"{crc:08x}"


def digest_of(content: Any) -> str:
    """Return a digest of plain data that is the same before they are written as JSON and after they are read."""
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with a checksum of its own."""
    return {**content, OWN_CHECKSUM: digest_of(content)}


def without_checksum(content: Any) -> Any:
    """Return plain data without the checksum of their own, if they have one; ValueError if it is another."""
    if not isinstance(content, dict) or OWN_CHECKSUM not in content:
        return content
    rest = {key: value for key, value in content.items() if key != OWN_CHECKSUM}
    if content[OWN_CHECKSUM] != digest_of(rest):
        raise ValueError("it has changed since it was written; if the change is yours, delete its key `checksum`")
    return rest


def checksum_file(path: Path) -> Path:
    """Return where the checksum of a file is kept."""
    return path.parent / CHECKSUMS / path.name


def keep_checksum(path: Path, content: bytes) -> None:
    """Keep the checksum of a file beside it."""
    kept = checksum_file(path)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n", encoding="utf-8")


def is_as_kept(path: Path, content: bytes) -> bool:
    """Whether a file's content has the checksum that is kept of it; True if none is. OSError if it cannot be read."""
    try:
        kept = re.match(rb"[0-9a-f]{64}\b", checksum_file(path).read_bytes())
    except FileNotFoundError:
        return True
    return kept is None or kept.group().decode() == hashlib.sha256(content).hexdigest()


def kept_checksums(root: Path) -> Iterator[list[Path]]:
    """Yield, of each folder of a results folder's parts or directly below them, the files that have a checksum."""
    for folder in sorted([*root.glob(f"*/{CHECKSUMS}"), *root.glob(f"*/*/{CHECKSUMS}")]):
        files = [folder.parent / kept.name for kept in sorted(folder.iterdir())]
        yield [path for path in files if path.exists()]
