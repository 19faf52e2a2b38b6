"""The command line: what users run (`flare23 predict`), and what the workflow's rules run (`flare23 stage ...`).

A command imports only what it needs. Exit codes: 0 for success, 1 for bad input or cases that failed, 2 for bad
usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from flare23_lib import __version__
from flare23_lib.cli import cache, dataset, evaluation, models, stages
from flare23_lib.errors import ConfigError, FlareError, UsageError
from flare23_lib.io.patterns import check_utf8
from flare23_lib.runtime.signals import stopped_by

EXTRAS = {"pydicom": "dicom", "highdicom": "dicom", "gdcm": "dicom"}
"""Module -> what is to be installed for it; `workflow` for all others."""

SIGPIPE = 13
"""The signal that ends most programs whose output is not read; the module has it on POSIX only."""

SPINS = 10_000
"""How often a thread of GNU's OpenMP looks for work before it sleeps, below a millisecond; libgomp takes 300,000.

One that spins keeps a busy machine's cores from the threads that it waits for; one that sleeps at once wakes up late,
which small networks pay for on an idle machine (benchmarks/busy.py).
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="flare23", description="CT segmentation learned from partial labels.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"flare23 {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (dataset, models, evaluation, cache, stages):
        module.register(commands)
    return parser


def _is_unread() -> bool:
    """Return whether nobody reads the output any more, as after `| head`; what is left of it is then dropped."""
    try:
        print(flush=True)  # what could not be written is dropped already
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own backend cannot be loaded here, and nnU-Net would
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    args = make_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.INFO,
        format="%(asctime)s %(message)s" if not sys.stderr.isatty() else "%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for noisy in ("nibabel", "matplotlib", "numexpr", "torch", "highdicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def run() -> int | None:
        for text in sys.argv[1:] if argv is None else argv:
            check_utf8(text, FlareError)
        return args.run(args)

    return exit_code(run, args.debug)


def run_script(job: Callable[[], None], log: str) -> NoReturn:
    """Run a job of the workflow that is a script and end the process; output and the line of an error go to a log."""
    with Path(log).open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.exit(exit_code(job))


def exit_code(job: Callable[[], int | None], debug: bool = False) -> int:
    """Run a job and return its exit code; an error is one line on the standard error, unless it is to be debugged."""
    try:
        code = job() or 0
        print(end="", flush=True)
        return code
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 128 + SIGPIPE
        explained = _explained(error)
        if explained is None or (debug and not isinstance(error, KeyboardInterrupt)):
            raise
        message, code = explained
        sys.stderr.write(f"flare23: {message}\n")
        return code


def _explained(error: BaseException) -> tuple[str, int] | None:
    """Return what an error means to users, in one line, and the exit code; None for an error of the program."""
    match error:
        case FlareError():
            kind = "configuration: " if isinstance(error, ConfigError) and not isinstance(error, UsageError) else ""
            return f"{kind}{error}", error.exit_code
        case ModuleNotFoundError(name=str(name)) if not name.startswith("flare23_lib"):
            install = f"pip install -c constraints.txt -e '.[{EXTRAS.get(name.partition('.')[0], 'workflow')}]'"
            return f"{name} is not installed; {install} brings what this command needs", 1
        case OSError(strerror=str(text)) if text:
            return text if error.filename is None else f"{error.filename}: {text}", 1
        case UnicodeEncodeError():
            part = error.object[max(error.start - 20, 0) : error.end + 20]
            return f"{part!a}: cannot be written as {error.encoding}", 1
        case KeyboardInterrupt():
            number = error.args[0] if error.args else signal.SIGINT
            return stopped_by(number), 128 + number
    return None
