"""Errors whose message is the one line that a user sees."""

from __future__ import annotations

from collections.abc import Sequence


class FlareError(Exception):
    """Bad input or a broken state; the message says what is wrong, with the file, and what to do.

    Attributes:
        exit_code: of a command that ends with it.
    """

    exit_code = 1


def with_path(path: object, error: object) -> str:
    """Return what an error says, with the file that it is about in front unless it begins with that."""
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; the name of its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def without_file(error: BaseException) -> str:
    """Return what an error says, without the file that errors of the operating system name, for messages that do."""
    return str(getattr(error, "strerror", None) or error)


def listed(values: Sequence[object]) -> str:
    """Return the first five values for a message, and how many more there are."""
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def one_line(path: object, error: BaseException) -> str:
    """Return what an error says in one line, with the file that it is about in front.

    Errors that are not ours have the name of their type in front, those of the operating system their own file.
    """
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        return text if error.filename is not None else f"{path}: {text}"
    if not isinstance(error, FlareError):
        text = f"{type(error).__name__}: {text}"
    return with_path(path, text)


class ConfigError(FlareError):
    """The configuration is wrong; the message names the key."""


class UsageError(ConfigError):
    """An option of the command line is wrong; the message names it."""

    exit_code = 2


class ImageError(FlareError):
    """A file is not the image or label map it should be.

    Attributes:
        kind: which fault it is, a key of the configuration's `quality_issues`; empty where none was given.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class CohortError(FlareError):
    """The cohort's folders or cases are not what the configuration says."""


class StoreError(FlareError):
    """Something that the store should hold is missing or broken."""


class LockError(StoreError):
    """A file cannot be locked, because its file system has no locks."""


class CasesFailedError(FlareError):
    """Cases of a job failed; the others are done."""


class TrainingError(FlareError):
    """A training cannot start or go on."""


class KilledError(FlareError):
    """A process of a job was killed from outside, or lacked memory or a working GPU; another attempt may succeed."""


class GpuError(KilledError):
    """A GPU lacked memory or does not work; another attempt may succeed, and more main memory would not help it."""


class BundleError(FlareError):
    """A model bundle or checkpoint cannot be used."""


class MergeError(FlareError):
    """Labels that do not belong together were to be merged."""


class EvaluationError(FlareError):
    """Predictions and references cannot be compared."""
