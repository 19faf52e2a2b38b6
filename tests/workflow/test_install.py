"""A wheel of the project, installed: what a user without the repository can do in an empty folder.

It is built of a source distribution, which must hold all that the wheel takes.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dicoms import a_series, an_image, save
from engines import a_bundle, a_volume
from places import REPOSITORY

from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.model import ModelLabel
from flare23_lib.io.nifti import write_volume

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of programs of an environment that holds the wheel; other packages are this environment's."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"  # a build leaves files beside it
    written = shutil.ignore_patterns("__pycache__")  # at this moment, by other tests
    shutil.copytree(REPOSITORY / "flare23_lib", source / "flare23_lib", symlinks=True, ignore=written)
    shutil.copytree(REPOSITORY / "presets", source / "presets")
    for name in (
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "config.yaml",
        "constraints.txt",
        "README.md",
        "LICENSE",
    ):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    call = partial(subprocess.run, env=ENVIRONMENT, check=True, timeout=600)
    call([*pip, "install", "--target", root / "tools", "setuptools>=77"])
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    tools = {**ENVIRONMENT, "PYTHONPATH": str(root / "tools")}
    call([sys.executable, "-c", build, root], cwd=source, env=tools, stdout=subprocess.DEVNULL)
    (distribution,) = root.glob("*.tar.gz")
    call([*pip, "wheel", "--no-deps", "--wheel-dir", root, distribution])
    (wheel,) = root.glob("*.whl")
    call([sys.executable, "-m", "venv", "--without-pip", root / "venv"])
    call([*pip, "--python", root / "venv" / "bin" / "python", "install", "--no-deps", wheel])
    (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "venv" / "bin"


def run(programs: Path, folder: Path, *command: object) -> str:
    command = (programs / str(command[0]), *map(str, command[1:]))
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """An empty folder beside a model and images."""
    names = ("background", "liver", "tumor")
    rules = {"tolerance_mm": 2.0, "scored": "volume"}
    labels = tuple(ModelLabel(name, value, "organ", **rules) for value, name in enumerate(names))
    bundle = a_bundle((0, 1, 2), labels=labels, spacing=(2.5, 0.8, 0.7))
    write_bundle(tmp_path / "model", bundle.model, bundle.state_dict)
    volume = a_volume((8, 20, 24), dtype=np.int16)
    write_volume(tmp_path / "images" / "x_0000.nii.gz", volume.array, volume.header)
    save(tmp_path / "dicom", a_series(an_image((8, 20, 24))))
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.slow
def test_a_wheel_predicts_evaluates_and_measures_in_an_empty_folder(installed, folder):
    code = "from flare23_lib.choices import SOURCE_PRESETS; print(*SOURCE_PRESETS.iterdir(), sep='\\n')"
    presets = run(installed, folder, "python", "-c", code).splitlines()
    assert all(path.startswith(str(installed.parent)) for path in presets)
    assert {Path(path).name for path in presets} == {path.name for path in (REPOSITORY / "presets/sources").iterdir()}
    run(installed, folder, "flare23", "predict", "-m", "../model", "-i", "../images", "-o", "labels", "--preview")
    run(installed, folder, "flare23", "predict", "-m", "../model", "-i", "../dicom", "-o", "seg",
        "--output-type", "dicom-seg")  # fmt: skip
    assert (folder / "seg" / "dicom.seg.dcm").exists()
    assert (folder / "labels" / "x.png").exists()
    run(installed, folder, "flare23", "statistics", "--labels", "labels", "--images", "../images", "--output", "s")
    rows = json.loads((folder / "s" / "x.statistics.json").read_text())["labels"]
    assert [row["label"] for row in rows] == ["liver", "tumor"]
    said = run(installed, folder, "flare23", "evaluate", "--model", "../model", "--predictions", "labels",
               "--references", "labels", "--output", "scores")  # fmt: skip
    assert "1 of 1 cases scored" in said
    assert (folder / "scores" / "summary.csv").read_text().count("liver")
    said = run(installed, folder, "flare23", "evaluate", "--predictions", "labels", "--references", "labels",
               "--output", "recipe")  # fmt: skip
    assert "right_kidney" in (folder / "recipe" / "summary.csv").read_text()
