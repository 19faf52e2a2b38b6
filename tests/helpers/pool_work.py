"""What the processes of a test's pool do; they import nothing else of the tests, which would take them long."""

import os
import signal
import time
from pathlib import Path


def work(item):
    """Do what the item says; the result is the item and the process that worked on it."""
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "memory":
        raise MemoryError("Unable to allocate 2.00 GiB")
    if isinstance(item, Path):
        item.touch()
        time.sleep(1000)
    time.sleep(0.1 * (item == "slow"))
    return item, os.getpid()
