"""The examples of README.md and docs/predict.md run as they stand, and those of all pages name options that exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import a_bundle, a_volume
from places import REPOSITORY

from flare23_lib.cli import make_parser
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.model import ModelLabel
from flare23_lib.io.nifti import read_volume, write_volume


def blocks(page, language, what):
    """The code blocks of a page in a language that hold a text."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", (REPOSITORY / page).read_text(), re.M | re.S)
    return [block for block in found if what in block]


@pytest.fixture
def folder(tmp_path):
    labels = (ModelLabel("background", 0), ModelLabel("liver", 1), ModelLabel("tumor", 2))
    bundle = a_bundle((0, 1, 2), labels=labels, spacing=(2.5, 0.8, 0.7))
    write_bundle(tmp_path / "results" / "models" / "student", bundle.model, bundle.state_dict)
    volume = a_volume((8, 20, 24), dtype=np.int16)
    write_volume(tmp_path / "ct.nii.gz", volume.array, volume.header)
    return tmp_path


@pytest.mark.slow  # six commands in processes of their own
@pytest.mark.parametrize("page", ["README.md", "docs/predict.md"])
def test_the_one_liners_run(page, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (shell,) = blocks(page, "bash", "--input ct.nii.gz")
    (script,) = blocks(page, "python", "Predictor")
    more = blocks(page, "bash", "flare23 statistics --labels labels")
    program = f"{sys.executable} -m flare23_lib.cli"  # this library, wherever another is installed
    commands = "".join([shell, *more]).replace("flare23 ", f"{program} ")
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    for command in (["sh", "-ec", commands], [sys.executable, "-c", script]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "liver" in done.stdout
    assert read_volume(folder / "labels" / "ct.nii.gz").array.shape == (8, 20, 24)


def commands(page):
    """The lines of a page's shell examples that are commands of ours, with and without what is optional."""
    text = "".join(blocks(page, "bash", "flare23 ")).replace("\\\n", " ")
    lines = [" ".join(shlex.split(line, comments=True)) for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("flare23 ")]
    return {re.sub(r"\[(.*?)\]", part, line) for line in lines for part in ("", r"\1")}


PAGES = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"))]
EXAMPLES = sorted({line for page in PAGES for line in commands(page)})


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_commands_have_these_options(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        make_parser().parse_args(line.split()[1:])
    except SystemExit as ended:
        assert ended.code == 0, line  # --help
