"""The CRC of a file."""

from __future__ import annotations

from typing import BinaryIO

from isal import isal_zlib

BLOCK_BYTES = 1 << 22
"""A file is read in blocks of this size."""


def crc32_of(handle: BinaryIO) -> str:
    """Return the CRC-32 of all bytes of an open file as 8 hexadecimal digits."""
    handle.seek(0)
    crc = 0
    while block := handle.read(BLOCK_BYTES):
        crc = isal_zlib.crc32(block, crc)
    return f"{crc:08x}"
