"""What several tests share: the repository, ways to run its commands, and one finished run of the whole chain."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

# Tests run in as many processes as there are cores, and on small arrays; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import processes
import pytest
from cohorts import Cohort, small_cohort
from filelock import FileLock
from hypothesis import HealthCheck, settings
from places import BASE_CONFIG, REPOSITORY
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from flare23_lib.config import configuration
from flare23_lib.config.load import read_yaml

if TYPE_CHECKING:
    from flare23_lib.cache.results import Results
    from flare23_lib.nnunet.trainer import FlareTrainer

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in a shell's background; what tests start would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHAIN = REPOSITORY / "tests" / "chain.yaml"
CHAIN_SECONDS = 3600
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


UNTIMED = settings(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNTIMED, max_examples=30, derandomize=True)
settings.register_profile("thorough", UNTIMED, max_examples=1000, print_blob=True)
settings.load_profile("quick")


def snakemake_command(
    *arguments: str, configfile: Path = CHAIN, snakefile: Path = REPOSITORY / "Snakefile", profile: str = "default"
) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--cores", "2",
        "--workflow-profile", str(REPOSITORY / "profiles" / profile), "--configfile", str(configfile), *arguments,
    ]  # fmt: skip


def run_from_scratch(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command with its imports, of which a test expects something."""
    environment = {**ENVIRONMENT, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_snakemake(folder: Path, *arguments: str, **options: Path | str) -> subprocess.CompletedProcess:
    return processes.run(snakemake_command("--quiet", "rules", *arguments, **options), folder, ENVIRONMENT)


def flare23(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return processes.run([sys.executable, "-m", "flare23_lib.cli", *arguments], folder, ENVIRONMENT)


CONFIGURATION = [*BASE_CONFIG, "--configfile", str(CHAIN)]


@pytest.fixture(scope="session", autouse=True)
def files_are_parsed_once() -> Iterator[None]:
    """Parse the repository's files once: the recipe takes 16 ms, and some 500 tests begin with it."""
    parsed = lru_cache(read_yaml)

    def read(path: Path) -> dict:
        return deepcopy(parsed(path)) if Path(path).is_relative_to(REPOSITORY) else read_yaml(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configuration, "read_yaml", read)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--begin-within", type=float, metavar="SECONDS", help="skip the tests that have not begun by then"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of the finished chain as slow, and put them first and drills last: what has no time left is a drill.

    Within these, tests with a time limit of their own, which are long, come last. While the chain is made, by
    Snakemake on all cores, the other processes of pytest wait for it: within the time limit of one of its tests,
    which is CHAIN_SECONDS therefore.
    """
    drills = {item.module for item in items if item.get_closest_marker("slow")}
    uses = {item.module for item in items if "finished_chain" in item.fixturenames}
    for item in items:
        if "finished_chain" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    long = {item.module for item in items if item.get_closest_marker("timeout")}
    for item in items:
        if "finished_chain" in item.fixturenames and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CHAIN_SECONDS))

    def place(item: pytest.Item) -> tuple[int, bool]:
        return 0 if item.module in uses else 2 if item.module in drills else 1, item.module in long

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Leave the quick tests that start commands to one process: another would import all that they need once more."""
    return OneStartsCommands(config, log) if config.getoption("markexpr") == "not slow" else None


class OneStartsCommands(LoadFileScheduling):
    """A file of tests runs in one process, and all files that start commands (`processes`) in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "commands" if _starts_commands(REPOSITORY / file) else file


@lru_cache
def _starts_commands(file: Path) -> bool:
    return re.search(r"\b((flare23|run_snakemake|processes\.run|Command)\(|CONTEXT\b)", file.read_text()) is not None


def pytest_collection_finish() -> None:
    """Keep what was imported out of further garbage collections, which take a tenth of the time otherwise."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.begun = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("begin_within")
    if seconds is not None and time.monotonic() - item.session.begun > seconds:
        pytest.skip(f"no time is left for {item.nodeid}")


UNDER_WAY: set[str] = set()


def pytest_runtest_logstart(nodeid: str) -> None:
    UNDER_WAY.add(nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    UNDER_WAY.discard(nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was cut short by a signal; what did not begin in time is among the skipped tests."""
    for nodeid in sorted(UNDER_WAY):
        terminalreporter.write_line(f"CUT SHORT {nodeid}")


def pytest_sessionfinish() -> None:
    processes.end_all()


@pytest.fixture(scope="session")
def finished_chain(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder in which the whole chain has run on phantoms: `cohort` and `results`. Not to be changed.

    It is made once for all processes of pytest-xdist.
    """
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent
    folder, error = shared / "chain", shared / "chain.error"
    with FileLock(shared / "chain.lock"):
        if not folder.exists():
            from flare23_lib.phantom import PhantomLayout, write_cohort

            write_cohort(folder / "cohort", cases=6, validation=2, seed=1, layout=PhantomLayout(coarseness=2.0))
            done = subprocess.run(
                snakemake_command("--quiet", "rules"),
                cwd=folder,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
            )
            error.write_text(done.stderr[-4000:] if done.returncode else "")
    assert not error.read_text(), error.read_text()
    return folder


@pytest.fixture
def chain(finished_chain: Path, tmp_path: Path) -> Path:
    """A copy of the finished chain, times and all, to be changed at will."""
    folder = tmp_path / "chain"
    shutil.copytree(finished_chain, folder, symlinks=True)
    return folder


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    """A small cohort with a good case of each kind, to be added to and spoiled."""
    return small_cohort(tmp_path)


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A few cases that are preprocessed for a tiny training, whose protocol the module may have in `PREPARED_FOR`."""
    from trainings import prepare

    return prepare(tmp_path_factory.mktemp("prepared"), **getattr(request.module, "PREPARED_FOR", {}))


@pytest.fixture
def made(prepared: Results, tmp_path: Path) -> Callable[..., FlareTrainer]:
    """A function that makes a trainer with changes to the protocol; several go on in one folder."""
    from trainings import settings, trainer_of

    return lambda **training: trainer_of(prepared, tmp_path, settings(**training))
