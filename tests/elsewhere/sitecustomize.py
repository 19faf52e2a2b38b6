"""Take from an interpreter what Linux has and macOS or Windows has not; with this folder in PYTHONPATH."""

import builtins
import io
import os
import signal
import sys
import time

import filelock  # noqa: F401
import psutil

psutil._common.open = open  # it and filelock have code for each system, which cannot run on another one
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "getuid", "geteuid", "sysconf", "fork", "symlink", "link"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
del time.CLOCK_BOOTTIME


def without_proc(function):
    def call(path, *args, **kwargs):
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)

    return call


for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "scandir")):
    setattr(module, name, without_proc(getattr(module, name)))
