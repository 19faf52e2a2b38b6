"""Patterns of file names: `{case}` stands for a case's name, `{mask}` for that of a file per class.

`{case:EXPRESSION}` takes only names that a regular expression matches, such as `{case:amos_0[0-4]\\d+}`.

`*` and `?` match within a name of a file or folder, `**/` any folders in between, and everything else itself. A
pattern begins with the names of the folders that are listed: `Task03_Liver/imagesTr/{case}.nii.gz`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from flare23_lib.errors import FlareError

CASE, MASK, ANY_FOLDERS = "{case", "{mask}", "**/"

_SPECIAL = re.compile(r"(\*\*/|\*|\?|\{case(?::[^{}]*)?\}|\{mask\})")
_MEANING = {ANY_FOLDERS: "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}


def check_utf8(path: object, error: type[FlareError]) -> None:
    """Raise an error if a path is not UTF-8, as tables and JSON are, or if it is not read as such in this locale."""
    try:
        str(path).encode()
    except UnicodeEncodeError as cause:
        name = os.fsencode(str(path))
        try:
            message = f"{name.decode()}: its name cannot be read in this locale; set PYTHONUTF8=1"
        except UnicodeDecodeError:
            message = f"{name.decode('utf-8', 'backslashreplace')}: its name is not UTF-8; rename it"
        raise error(message) from cause


@dataclass(frozen=True)
class FilePattern:
    """A pattern, in two parts: the folder before the first part of the path that has a wildcard or a place for a name
    (it may be empty), and the rest."""

    folder: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> FilePattern:
        """Divide a pattern into its folder and the rest; the last part of the path always belongs to the rest."""
        parts = text.split("/")
        fixed = next((index for index, part in enumerate(parts[:-1]) if _SPECIAL.search(part) or part == "**"), None)
        cut = len(parts) - 1 if fixed is None else fixed
        return cls("/".join(parts[:cut]) or ("/" if cut and not parts[0] else ""), "/".join(parts[cut:]))

    @property
    def weight(self) -> int:
        """Characters that stand for themselves in the rest; of two patterns the one with more of them is closer."""
        return len(_SPECIAL.sub("", self.rest))

    @property
    def is_flat(self) -> bool:
        """Whether the case's name is in the name of the file, rather than that of a folder only."""
        return CASE in self.rest.rpartition("/")[2]

    @property
    def suffix(self) -> str | None:
        """What follows the case's name in the file's name, if nothing precedes it; None otherwise."""
        start, *rest = _SPECIAL.split(self.rest.rpartition("/")[2])
        return rest[1] if not start and len(rest) == 2 and rest[0].startswith(CASE) else None

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """What matches the path of a file below `folder`, with groups `case` and `mask`, which are the same wherever
        they occur."""
        return self.naming(())

    def naming(self, masks: Collection[str]) -> re.Pattern[str]:
        """Return `expression` for masks of these names, the longest that fits; for masks of any name without any."""
        names = []
        for mask in sorted(masks, key=len, reverse=True):
            longer = (other for other in masks if other.endswith(mask) and other != mask)
            not_after = "".join(f"(?<!{re.escape(other.removesuffix(mask))})" for other in longer)
            names.append(not_after + re.escape(mask))
        seen: list[str] = []
        found = []
        for part in _SPECIAL.split(self.rest):
            if part == MASK or part.startswith(CASE):
                name, _, matched = ("mask", "", "|".join(names)) if part == MASK else part[1:-1].partition(":")
                again = f"(?P<{name}{seen.count(name)}>(?P={name}))"
                found.append(again if name in seen else f"(?P<{name}>{matched or '[^/]+'})")
                seen.append(name)
            else:
                found.append(_MEANING.get(part) or re.escape(part))
        return re.compile("".join(found))

    @staticmethod
    def with_mask(found: re.Match[str]) -> str:
        """Return the path that `expression` was found in, with `{mask}` in place of the mask's name."""
        path = found.string
        for start, end in sorted(found.span(name) for name in found.re.groupindex if name.startswith("mask"))[::-1]:
            path = path[:start] + MASK + path[end:]
        return path
