"""The commands for deployment run where there is no /proc (macOS), no fcntl and no signal beyond C's (Windows)."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from bundles import a_checkpoint
from conftest import ENVIRONMENT
from engines import a_volume
from places import BASE_CONFIG, REPOSITORY

from flare23_lib.io.nifti import read_volume, write_volume
from flare23_lib.io.tables import read_csv
from flare23_lib.runtime import machine

TAKEN = REPOSITORY / "tests" / "elsewhere"
ELSEWHERE = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join((str(TAKEN), str(REPOSITORY)))}


def run(folder, *command, environment=ELSEWHERE):
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def flare23(folder, *arguments):
    configured = BASE_CONFIG if arguments[0] not in ("predict", "export") else []
    return run(folder, "-m", "flare23_lib.cli", *arguments, *configured)


def write(path, array, spacing=(3.0, 2.0, 2.0)):
    volume = a_volume(array.shape, np.diag([*spacing[::-1], 1.0]), dtype=array.dtype)
    write_volume(path, array, volume.header)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, labels, a checkpoint of a model, and labels that it would have to predict."""
    folder = tmp_path_factory.mktemp("elsewhere")
    random = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((10, 12, 12), np.uint8)
        labels[2:8, 2:8, 3:9] = 1
        labels[4:6, 4:6, 4:6] = 14 if number else 2
        image = (random.normal(0, 40, labels.shape) + 100 * labels).astype(np.int16)
        write(folder / "images" / f"case{number}_0000.nii.gz", image)
        write(folder / "labels" / f"case{number}.nii.gz", labels)
    a_checkpoint(folder / "checkpoint.pth")
    return folder


def test_the_tests_really_take_away_what_linux_has(tmp_path):
    for code, error in (
        ("import fcntl", "import of fcntl halted"),
        ("open('/proc/self/stat')", "No such file"),
        ("import os; os.sched_getaffinity(0)", "no attribute 'sched_getaffinity'"),
        ("import signal; signal.SIGUSR1", "no attribute 'SIGUSR1'"),
    ):
        done = subprocess.run([sys.executable, "-c", code], env=ELSEWHERE, capture_output=True, text=True)
        assert done.returncode == 1
        assert error in done.stderr


@pytest.mark.slow  # five commands in processes of their own
def test_a_model_is_exported_predicts_is_scored_and_ranked(folder):
    flare23(folder, "export", "--checkpoint", "checkpoint.pth", "--output", "model")
    flare23(folder, "predict", "--model", "model", "--input", "images", "--output", "predicted", "--precision",
            "float32", "--run-report", "run.json")  # fmt: skip
    predicted = sorted((folder / "predicted").glob("*.nii.gz"))
    assert [read_volume(path).array.shape for path in predicted] == [(10, 12, 12)] * 4
    for predictions in ("predicted", "labels"):
        done = flare23(folder, "evaluate", "--predictions", predictions, "--references", "labels", "--output",
                       f"scores/{predictions}", "--processes", "2")  # fmt: skip
        assert "4 of 4 cases scored" in done.stdout
    flare23(folder, "rank", "scores/predicted", "scores/labels", "--output", "ranking.csv")
    assert [row["folder"] for row in read_csv(folder / "ranking.csv")] == ["scores/labels", "scores/predicted"]
    assert json.loads((folder / "run.json").read_text())["cases"][0]["seconds"]["start_up"] > 0.1


def test_a_cohort_is_categorised(folder):
    flare23(folder, "categorise", "--images", "images", "--labels", "labels", "--output", "cohort",
            "--processes", "2")  # fmt: skip
    rows = read_csv(folder / "cohort" / "cases.csv")
    assert [row["case"] for row in rows] == [f"case{number}" for number in range(4)]


def test_without_proc_the_start_counts_from_the_import_of_the_library(tmp_path):
    code = "from flare23_lib.runtime.machine import seconds_since_start; print(seconds_since_start())"
    began = time.perf_counter()
    assert 0 <= float(run(tmp_path, "-c", code).stdout) <= time.perf_counter() - began


def test_without_proc_the_processor_has_a_name(monkeypatch):
    monkeypatch.setattr(machine, "Path", lambda name: REPOSITORY / "nowhere" / name.lstrip("/"))
    assert machine.processor_name()


def test_cores_are_counted_where_no_affinity_is_known(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.available_cores() == os.cpu_count()
