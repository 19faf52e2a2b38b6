"""What several tests share: the repository, ways to run its commands, and one finished run of the whole chain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cohorts import Cohort, small_cohort

REPOSITORY = Path(__file__).resolve().parent.parent
CHAIN = REPOSITORY / "tests" / "chain.yaml"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def snakemake_command(
    *arguments: str, configfile: Path = CHAIN, snakefile: Path = REPOSITORY / "Snakefile"
) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--cores", "2",
        "--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--configfile", str(configfile),
        "--quiet", "rules", *arguments,
    ]  # fmt: skip


def run_snakemake(folder: Path, *arguments: str, **options: Path) -> subprocess.CompletedProcess:
    command = snakemake_command(*arguments, **options)
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def flare23(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flare23_lib.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


CONFIGURATION = ["--base-config", str(REPOSITORY / "config.yaml"), "--configfile", str(CHAIN)]


@pytest.fixture(scope="session")
def finished_chain(tmp_path_factory) -> Path:
    """A folder in which the whole chain has run on phantoms: `cohort` and `results`. Not to be changed."""
    folder = tmp_path_factory.mktemp("chain")
    from flare23_lib.phantom import write_cohort

    write_cohort(folder / "cohort", cases=6, validation=2, seed=1, coarseness=2.0)
    done = run_snakemake(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture
def chain(finished_chain, tmp_path) -> Path:
    """A copy of the finished chain, times and all, to be changed at will."""
    folder = tmp_path / "chain"
    shutil.copytree(finished_chain, folder, symlinks=True)
    return folder


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    """A small cohort with a good case of each kind, to be added to and spoiled."""
    return small_cohort(tmp_path)
