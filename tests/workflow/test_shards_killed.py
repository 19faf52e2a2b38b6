"""A shard of pseudo-labels that is killed again and again loses no case, computes none twice, leaves no half file."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import ENVIRONMENT
from engines import write_work
from places import RECIPE
from processes import Command

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.io.atomic import TEMPORARY_MARK, write_json
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv

SHAPE = (12, 24, 24)
INFERENCE = {"step": 0.5, "tta": True, "windows": "all", "precision": "float32"}
SETTINGS = Config.load([RECIPE]).pseudo_label_settings("unlabeled")


def start(results: Results, output: Path) -> Command:
    told = results.root / "settings.json"
    write_json(told, {"settings": SETTINGS.to_json(), "inference": INFERENCE, "teacher": "teacher", "base": None})
    command = [
        sys.executable, "-m", "flare23_lib.cli", "stage", "pseudo-label", "--results", str(results.root),
        "--settings", str(told), "--shard", "0-of-1", "--device", "cpu",
        "--output", str(output),
    ]  # fmt: skip
    return Command(command, env=ENVIRONMENT)


def whole(results: Results) -> dict[Path, int]:
    """The files of the cases that are whole (their note is there), with the times at which they were written."""
    files = {}
    for note in (results.root / "store" / "segmentations").glob("*/case*.json"):
        for path in note.parent.glob(f"{note.stem}.*"):
            files[path] = path.stat().st_mtime_ns
    return files


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "cases"), [(2, 32), (10, 80)])
def test_a_shard_that_is_killed_loses_no_case_and_computes_none_twice(tmp_path, kills, cases):
    results, output = Results(tmp_path / "results"), tmp_path / "results/pseudo_labels/unlabeled/0-of-1.csv"
    write_work(results, "teacher", cases, SHAPE, "training", "unlabeled")
    chance, killed = random.Random(0), 0
    for _ in range(kills):
        before = whole(results)
        process = start(results, output)
        while whole(results) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15) if killed else 0)
        process.kill()
        process.wait()
        if output.exists():  # a busy machine let it come to its end before the kill
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        killed += 1
        after = whole(results)
        assert {path: after.get(path) for path in before} == before
    assert killed
    before = whole(results)
    process = start(results, output)
    assert process.wait() == 0, process.stderr
    after = whole(results)
    assert {path: after[path] for path in before} == before
    rows = read_csv(output)
    assert sorted(row["case"] for row in rows) == sorted(f"case{number}" for number in range(cases))
    assert all(read_labels(results.root / row["file"]).array.shape == SHAPE for row in rows)
    assert len(list((results.root / "store").glob("segmentations/*/case*.json"))) == cases
    others = {path for path in (results.root / "store").glob("segmentations/*/*.nii.gz*")} - set(after)
    assert all(TEMPORARY_MARK in path.name for path in others), "half files lie under temporary names alone"
