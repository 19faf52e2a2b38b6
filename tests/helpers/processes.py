"""Python commands in processes of their own that do not spend seconds on imports.

`python -m snakemake` imports for 2 seconds and a training for 6, more than most tests need for everything else. Here
a command is forked from a process that has imported these modules and does nothing else. Arguments, folder,
environment, signals, output and exit status are those of a command that was started from a shell. What depends on
the start itself (what is imported, what libraries read from the environment on import) is tested with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "pytest", "snakemake.cli", "flare23_lib.cli", "flare23_lib.config", "flare23_lib.workflow.status",
    "flare23_lib.inference.predict", "flare23_lib.nnunet.trainer",
])  # fmt: skip


def _main(
    module: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    outputs: list[Path],
    session: bool,
) -> None:
    if session:
        os.setsid()
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    if hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(f"{module}.__main__", None)  # a package stays: its modules are attributes of it
    else:
        sys.modules.pop(module, None)  # it runs as __main__ now
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _temporary_file(owner: object) -> Path:
    """Make a file that is deleted with its owner."""
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    weakref.finalize(owner, os.unlink, name)
    return Path(name)


class Command:
    """A started command `[sys.executable, "-m", module, ...]`, used like a `subprocess.Popen`."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        executable, option, module, *arguments = command
        assert (executable, option) == (sys.executable, "-m")
        self._outputs = [_temporary_file(self) for _ in range(2)]
        environment = dict(os.environ if env is None else env)
        folder = cwd or Path.cwd()
        self._process = CONTEXT.Process(
            target=_main, args=(module, arguments, folder, environment, self._outputs, start_new_session)
        )
        self._process.start()
        self.pid = self._process.pid
        while start_new_session and self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)  # a signal to its group, before there is one, would be an error

    @property
    def stdout(self) -> str:
        """What was written to the standard output until now."""
        return self._outputs[0].read_text()

    @property
    def stderr(self) -> str:
        """What was written to the standard error until now."""
        return self._outputs[1].read_text()

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the command runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status; None while the command runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; TimeoutExpired if it does not come."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, not to those that it started."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def run(
    command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run a command to its end; return it with its output, as `subprocess.run` does."""
    process = Command(command, cwd, env)
    return subprocess.CompletedProcess(list(command), process.wait(), process.stdout, process.stderr)


def end_all() -> None:
    """Kill what a failed test left running, for which Python would wait at its end."""
    for process in multiprocessing.active_children():
        process.kill()
