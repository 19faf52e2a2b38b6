"""The stage that measures inference, with a small program in place of the prediction."""

import sys
from pathlib import Path

import pytest
from engines import a_bundle

from flare23_lib.cache.results import Results
from flare23_lib.cli import make_parser
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation import efficiency
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.segmentations import ModelUse
from flare23_lib.io.tables import read_csv
from flare23_lib.workflow.verify import records, verify

PREDICTION = """
import sys, pathlib
image, calls, output = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[-1])
with calls.open("a") as handle:
    handle.write(image + "\\n")
if pathlib.Path(image).exists():
    sys.exit("flare23: " + image + " is broken")
output.mkdir()
(output / "case.nii.gz").write_bytes(b"labels")
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three validation cases and a model; the list of predictions made is in `calls`."""
    results = Results(tmp_path / "results")
    names = ["c", "a", "b"]
    cases = [Case(name, str(tmp_path / name), None, "validation", {}, image_id=f"id-{name}") for name in names]
    write_cases(results.cases, cases)
    bundle = a_bundle()
    write_bundle(results.bundle("student"), bundle.model, bundle.state_dict)
    calls = tmp_path / "calls"

    def command(bundle, image, model):
        return [sys.executable, "-c", PREDICTION, str(image), str(calls)]

    monkeypatch.setattr(efficiency, "predict_command", command)
    return results


def measure(results, cases=2, threads=2, inference=None):
    output = results.root / "evaluation" / "student" / "efficiency.csv"
    inference = inference or InferenceSettings(tile_step_size=0.8, precision="float32")
    efficiency.measure(results, ModelUse("student", inference, "cpu", threads), cases, output)
    return read_csv(output)


def called(results):
    path = results.root.parent / "calls"
    return [line.rsplit("/", 1)[-1] for line in path.read_text().split()] if path.exists() else []


def test_the_first_cases_are_measured_one_at_a_time_in_processes_of_their_own(results):
    rows = measure(results)
    assert [row["Name"] for row in rows] == ["a", "b"]
    assert called(results) == ["a", "b"]
    assert all(float(row["Time"]) > 0 and row["MaxGPU_Mem"] == "" and row["GPU_Backend"] == "" for row in rows)
    assert list(read_csv(results.root / rows[0]["file"])[0]) == ["seconds", "gpu_mb", "ram_mb", "cpu_seconds"]


def test_what_was_measured_is_kept_and_only_what_is_new_is_measured(results):
    first = measure(results)
    (results.root / "evaluation" / "student" / "efficiency.csv").unlink()
    assert measure(results) == first
    assert called(results) == ["a", "b"]
    measure(results, cases=3)
    assert called(results) == ["a", "b", "c"]
    assert [row["Name"] for row in measure(results, cases=1)] == ["a"]


@pytest.mark.parametrize("change", [{"threads": 1}, {"inference": InferenceSettings(precision="float32")}])
def test_another_setting_is_another_measurement(results, change):
    measure(results, cases=1)
    measure(results, cases=1, **change)
    measure(results, cases=1)
    assert called(results) == ["a", "a"]


def test_a_prediction_that_fails_is_named_and_the_others_are_kept(results):
    broken = results.root.parent / "a"
    broken.write_text("")
    with pytest.raises(EvaluationError, match="1 predictions of student failed: a"):
        measure(results)
    assert not (results.root / "evaluation" / "student" / "efficiency.csv").exists()
    broken.unlink()
    assert [row["Name"] for row in measure(results)] == ["a", "b"]
    assert called(results) == ["a", "b", "a"]


def test_a_lost_curve_withdraws_the_table_so_that_it_is_measured_again(results):
    rows = measure(results)
    assert [file for _, files in records(results) for file in files] == [row["file"] for row in rows]
    (results.root / rows[0]["file"]).unlink()
    found = verify(results)
    assert found.withdrawn == [results.root / "evaluation" / "student" / "efficiency.csv"]
    measure(results)
    assert called(results) == ["a", "b", "a"]


def test_without_validation_cases_it_says_what_to_set(results):
    write_cases(results.cases, [])
    with pytest.raises(EvaluationError, match="efficiency_cases: 0"):
        measure(results)


def test_the_prediction_is_a_command_that_the_command_line_takes(tmp_path):
    use = ModelUse("student", InferenceSettings(precision="float32"), "cpu", 2)
    command = efficiency.predict_command(tmp_path, Path("x.nii.gz"), use)
    assert command[1:3] == ["-m", "flare23_lib.cli"]
    args = make_parser().parse_args([*command[3:], "--output", "labels"])
    assert (args.model, args.input) == (tmp_path, Path("x.nii.gz"))
    assert (args.device, args.threads, args.precision) == ("cpu", 2, "float32")
