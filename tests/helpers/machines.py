"""What machine the tests run on, and how long they wait on it."""

import subprocess
import time
from collections.abc import Callable

import pytest
import torch
from processes import Command

from flare23_lib.runtime.precision import computes_in_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(torch.device("cpu")), reason="this CPU only emulates bfloat16"
)

PATIENCE = 4
"""Tests wait this many times as long as they would on a fast machine; a busy or slow one is no failure."""


def wait_until(condition: Callable[[], object], process: Command | subprocess.Popen) -> None:
    """Wait a minute times PATIENCE for what a process does; AssertionError if it does not, or ends before."""
    end = time.monotonic() + 60 * PATIENCE
    while not condition():
        if process.poll() is not None:
            errors = process.stderr if isinstance(process.stderr, str) else process.stderr.read()
            raise AssertionError(f"the process ended with {process.returncode}: {errors}")
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
