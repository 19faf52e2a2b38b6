"""Attempts at a long job within one run of the workflow, and when to give up.

The workflow starts a training again when it ended before its last epoch, up to `max_training_restarts` times: that is
how a training of days passes through time limits. It does not know why a job ended. So a failure that another attempt
would only repeat leaves a marker, and the attempts that are left print it and end at once. The first attempt of a
run, which the user starts, removes the marker and tries again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flare23_lib.errors import FlareError, GpuError, KilledError, TrainingError, one_line
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.runtime.signals import StoppedError

FAILED = "failed.json"
COUNTED = "attempts.json"
READ = "read.json"
"""Stands in a job's folder when an attempt of this run has read its input whole."""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 2
"""Attempts without a new checkpoint after which there is no reason for another."""


@contextlib.contextmanager
def attempt(folder: Path, number: int, progress: Callable[[], object]) -> Iterator[None]:
    """Work on a job as one of several attempts.

    Args:
        folder: of the job; it holds the markers.
        number: of the attempt in this run of the workflow, from 1.
        progress: returns what changes with every checkpoint (plain data).

    Raises:
        TrainingError: an earlier attempt of this run failed in a way that another one would repeat.
    """
    failed, counted = folder / FAILED, folder / COUNTED
    if number <= 1:
        forget(folder)
    elif failed.exists():
        raise TrainingError(f"given up in this run of the workflow: {read_json(failed)['message']}")
    known: dict[str, Any] = {"progress": None, "without": 0, "begun": 0, "stopped": 0}
    if counted.exists():
        known = read_json(counted)
    now = progress()
    without = known["without"] + 1 if known["progress"] == [now] else 0
    if without >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
        last = known.get("last") or "ended by force"  # which nothing can write down
        message = f"{without} attempts ended without a new checkpoint; the last one: {last}"
        write_json(failed, {"message": message})
        raise TrainingError(message)
    known |= {"progress": [now], "without": without, "begun": known["begun"] + 1, "last": ""}
    write_json(counted, known)
    try:
        yield
    except Exception as error:
        if isinstance(error, StoppedError):  # no failure, before the first checkpoint either
            write_json(counted, known | {"progress": None, "stopped": known["stopped"] + 1})
        elif isinstance(error, FlareError) and not isinstance(error, KilledError):
            write_json(failed, {"message": str(error)})
        else:
            on_gpu = isinstance(error, GpuError)
            write_json(counted, known | {"last": one_line(folder, error), "stopped": known["stopped"] + on_gpu})
        raise
    forget(folder)


def forget(folder: Path) -> None:
    """Remove the markers of earlier attempts."""
    for name in (FAILED, COUNTED, READ):
        (folder / name).unlink(missing_ok=True)


def is_given_up(folder: Path) -> bool:
    """Return whether an attempt of this run failed in a way that another one would repeat."""
    return (folder / FAILED).exists()


def killed(folder: Path) -> int:
    """Return how many attempts of this run may have lacked main memory: neither stopped nor failed on a GPU."""
    counted = folder / COUNTED
    if not counted.exists():
        return 0
    known = read_json(counted)
    return known["begun"] - known["stopped"]
