"""What tells one version of a user's file from another."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flare23_lib.errors import ImageError
from flare23_lib.io import nifti
from flare23_lib.io.checksum import crc32_of


def file_identity(path: str | Path) -> str:
    """Return what tells one version of a user's file from another; ImageError if it cannot be read.

    It is never the path or time, but the size and

    - for a gzip stream of one member its trailer: CRC and length of what it holds. A trailer covers its own member
      only; that there is just one is known from the length, which is that of header and voxels.
    - for every other gzip stream a SHA-256 of its bytes. A CRC of them would miss changes: data that are stored
      uncompressed and followed by their own CRC leave it as it was.
    - for a file that is not compressed the CRC of its bytes.
    """
    path = Path(path)
    return identity_of(path, _inflated_length(path))


def identity_of(path: Path, length: int | None) -> str:
    """Return a file's identity as `file_identity`, where `Stream.inflated_length` is known already."""
    try:
        with path.open("rb") as handle:
            is_gzip = handle.read(2) == b"\x1f\x8b"
            size = handle.seek(0, os.SEEK_END)
            if size >= 18 and length is not None and length < 1 << 32:
                handle.seek(-8, os.SEEK_END)
                trailer = handle.read(8)
                if int.from_bytes(trailer[4:], "little") == length:
                    return f"{size}-{trailer.hex()}"
            handle.seek(0)
            if is_gzip:
                return f"{size}-{hashlib.file_digest(handle, 'sha256').hexdigest()[:32]}"
            return f"{size}-{crc32_of(handle)}"
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})", "cannot_be_read") from error


def _inflated_length(path: Path) -> int | None:
    """Return the bytes that a gzip stream holds by its NIfTI header; None if it is not NIfTI in gzip."""
    try:
        with nifti.open_volume(path) as stream:
            return stream.inflated_length
    except ImageError as error:
        if error.kind == "cannot_be_read":
            raise
        return None
