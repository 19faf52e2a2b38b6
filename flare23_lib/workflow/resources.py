"""What jobs ask of a machine or a cluster: little where their work is done, more where they failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NOOP_RESOURCES = {"mem_mb": 2000, "runtime": 10, "gpu": 0}
"""What a job asks for that would only find that its work is done."""


def scaled(amount: int, failures: int) -> int:
    """Return half as much again for each failure, up to twice as much."""
    return int(amount * min(1 + failures / 2, 2))


def scale_with_attempt(amount: int) -> Callable[[Any, int], int]:
    """Return a function that gives memory or time: more for each attempt."""
    return lambda wildcards, attempt: scaled(amount, attempt - 1)


def noop_or(is_done: Callable[..., bool], name: str, amount: int) -> Callable[[Any, Any, int], int]:
    """Return a function that gives a resource of a job that goes on where it ended: little if its work is done."""

    def resource(wildcards: Any, input: Any, attempt: int) -> int:
        if attempt == 1 and is_done(wildcards, input):
            return NOOP_RESOURCES[name]
        return scaled(amount, attempt - 1) if name == "mem_mb" else amount

    return resource
