import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, flare23

from flare23_lib import cli, images


def write(path, array):
    images.write_volume(path, array, images.header_for(array.shape, np.diag([-2.0, -2, 5, 1]), array.dtype))


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("one", "two"):
        write(tmp_path / "images" / f"{case}_0000.nii.gz", rng.integers(-1000, 500, (3, 4, 5)).astype(np.int16))
        label = np.zeros((3, 4, 5), np.uint8)
        label[0, 0, :2] = (1, 14) if case == "one" else (2, 3)
        write(tmp_path / "labels" / f"{case}.nii.gz", label)
    return tmp_path


def test_categorise_works_outside_the_workflow(folders):
    done = flare23(
        folders, "categorise", "--images", "images", "--labels", "labels", "--output", "out",
        "--base-config", str(REPOSITORY / "config.yaml"), "--processes", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tumor                      1" in done.stdout
    assert {path.name for path in (folders / "out").glob("*.csv")} == {
        "cases.csv",
        "quarantine.csv",
        "warnings.csv",
        "categories.csv",
    }


def test_evaluate_scores_two_folders(folders):
    done = flare23(
        folders, "evaluate", "--predictions", "labels", "--references", "labels", "--output", "out",
        "--base-config", str(REPOSITORY / "config.yaml"), "--processes", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header = (folders / "out/metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:2] == ["Name", "liver_DSC"]
    assert (folders / "out/summary.csv").exists()


def test_bad_input_is_one_line_and_exit_code_1(tmp_path):
    done = flare23(tmp_path, "predict", "--model", "nowhere", "--input", "x", "--output", "y")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("flare23: ")] == [
        "flare23: nowhere/model.json: is missing; nowhere is no model bundle"
    ]
    assert "Traceback" not in done.stderr


def test_bad_usage_is_exit_code_2(tmp_path):
    assert flare23(tmp_path, "predict").returncode == 2
    assert flare23(tmp_path, "stage", "train", "--shards", "x").returncode == 2


def test_every_command_explains_itself(capsys):
    for command in (["--help"], ["predict", "--help"], ["store", "clean", "--help"], ["stage", "train", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 0
    assert "usage: flare23" in capsys.readouterr().out


def test_a_prediction_imports_neither_nnunet_nor_simpleitk_nor_pandas():
    code = (
        "import sys; import flare23_lib.cli, flare23_lib.inference.predict, flare23_lib.inference.bundle, "
        "flare23_lib.devices; heavy = ('nnunetv2', 'SimpleITK', 'pandas'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
