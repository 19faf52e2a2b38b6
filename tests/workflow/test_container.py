"""The container's own steps, without a container engine: in a clean folder, a clean environment, a clean shell."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import flare23
from places import REPOSITORY

from flare23_lib.io.nifti import read_labels

TRAINING = ("nnunetv2", "snakemake", "torchvision")


def steps():
    """The Dockerfile's instructions, in order."""
    text = (REPOSITORY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


class Container:
    """Does what the Dockerfile says in a folder that stands for the root of an image."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.place = root
        self.arguments = {"MODEL": str(model)}
        subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
        self.environment = {"PATH": f"{root / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(root)}
        if "OMP_NUM_THREADS" in os.environ:  # sums of bfloat16 products depend on how they are shared
            self.environment["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]

    def build(self) -> None:
        for instruction, text in steps():
            if instruction in ("WORKDIR", "COPY", "RUN"):
                getattr(self, instruction.lower())(self._filled(text))

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: self.arguments[match[1]], text)

    def _path(self, name: str) -> Path:
        return self.root / name.lstrip("/") if name.startswith("/") else self.place / name

    def workdir(self, text: str) -> None:
        self.place = self._path(text)
        self.place.mkdir(parents=True, exist_ok=True)

    def copy(self, text: str) -> None:
        *sources, target = shlex.split(text)
        for source in sources:
            path, to = REPOSITORY / source, self._path(target)
            if path.is_dir():
                shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, to)

    def run(self, text: str) -> None:
        pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))}
        self._do(["sh", "-c", text.replace(" /workspace", f" {self.root}/workspace")], pip)

    def predict(self, inputs: Path) -> Path:
        outputs = self.root / "workspace" / "outputs"
        places = {
            "FLARE23_MODEL": str(self.root / "workspace" / "model"),
            "FLARE23_INPUTS": str(inputs),
            "FLARE23_OUTPUTS": str(outputs),
        }
        command = next(text for instruction, text in steps() if instruction == "CMD")
        self._do(json.loads(command), places)
        return outputs

    def _do(self, command: list[str], variables: dict[str, str]) -> None:
        done = subprocess.run(
            command, cwd=self.place, env=self.environment | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def container(finished_chain, tmp_path_factory):
    made = Container(tmp_path_factory.mktemp("container"), finished_chain / "results" / "models" / "student")
    made.build()
    return made


@pytest.mark.slow  # a fresh environment is installed: minutes
@pytest.mark.timeout(3600)
def test_the_container_segments_as_flare23_predict_does(container, finished_chain, tmp_path):
    inputs = finished_chain / "cohort" / "validation"
    model = finished_chain / "results" / "models" / "student"
    done = flare23(
        tmp_path, "predict", "--model", str(model), "--input", str(inputs), "--output", str(tmp_path / "o")
    )
    assert done.returncode == 0, done.stderr
    outputs = container.predict(inputs)
    names = sorted(path.name for path in outputs.iterdir())
    assert names == sorted(path.name.replace("_0000", "") for path in inputs.iterdir())
    for name in names:
        assert np.array_equal(read_labels(outputs / name).array, read_labels(tmp_path / "o" / name).array)


@pytest.mark.slow  # a fresh environment is installed: minutes
@pytest.mark.timeout(3600)
def test_the_container_holds_nothing_of_the_training(container):
    listed = subprocess.run(
        ["python3", "-m", "pip", "list"], env=container.environment, capture_output=True, text=True, check=True
    )
    names = {line.split()[0].lower() for line in listed.stdout.splitlines()}
    assert {"torch", "flare23-lib"} <= {name.replace("_", "-") for name in names}
    assert not names & set(TRAINING)


def test_the_contract_takes_the_challenges_folders_unless_told_otherwise(tmp_path):
    (tmp_path / "flare23").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "flare23").chmod(0o755)
    script = ["sh", str(REPOSITORY / "predict.sh"), "--tta"]
    done = subprocess.run(
        script, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "predict", "--model", "/workspace/model", "--input", "/workspace/inputs", "--output", "/workspace/outputs",
        "--no-label-files", "--tta",
    ]  # fmt: skip


def test_the_images_context_holds_what_the_dockerfile_copies():
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for instruction, text in steps():
        if instruction == "COPY":
            for source in shlex.split(text)[:-1]:
                assert source == "${MODEL}" or source.removeprefix("./") in allowed
