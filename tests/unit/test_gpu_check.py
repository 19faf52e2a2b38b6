"""What is to be run on a GPU can be run: its parts guard each other, their options are right, and all of it ends."""

import argparse
import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ENVIRONMENT
from machines import PATIENCE
from places import REPOSITORY

from flare23_lib.io.atomic import read_json

BENCHMARKS = REPOSITORY / "benchmarks"

SCRIPTS = {
    "good.py": "write({'figure': 1})",
    "bad.py": "print('the reason'); sys.exit(3)",
    "slow.py": "child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
    "write({'figure': 2, 'child': child.pid})\n"
    "child.wait()",
    "together.py": "write({})\nwhile len([*target.parent.glob('together*.json')]) < 3: time.sleep(0.05)",
}
HEAD = """
import json, os, pathlib, subprocess, sys, time
target = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
def write(content):
    target.with_suffix(".part").write_text(json.dumps(content))
    target.with_suffix(".part").replace(target)
"""


@pytest.fixture
def gpu(monkeypatch):
    """The module of the check."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def check(gpu, monkeypatch, tmp_path):
    """A function that makes a check whose time ends after some seconds; its parts are small scripts.

    The time of a part begins when it has written something, or has ended.
    """
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(HEAD + text)
    monkeypatch.setattr(gpu, "BENCHMARKS", tmp_path)
    begin = gpu.Check._start

    def begun(self, part):
        begin(self, part)
        for one in self.running[-1:]:
            while not one.result.exists() and one.process.poll() is None:
                time.sleep(0.05)
            one.began = time.monotonic()

    monkeypatch.setattr(gpu.Check, "_start", begun)

    def make(seconds, tiny=False):
        until = time.monotonic() + seconds
        return gpu.Check(tmp_path, tmp_path, "cpu", tiny, until, dict(os.environ), {"tiny": tiny})

    return make


def runs(pid):
    """Whether a process runs; one that nobody has waited for yet, after its end, does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow  # processes that import torch or wait
def test_a_part_that_fails_or_runs_out_of_time_leaves_the_others_their_results(gpu, check, tmp_path):
    parts = [gpu.Part(name, 300, f"{name}.py", None) for name in ("bad", "good")]
    check(600).run([gpu.Part("slow", 1, "slow.py", None), *parts], 2)
    found = read_json(tmp_path / "gpu.json")["parts"]
    assert {name: entry["status"] for name, entry in found.items()} == {
        "slow": "out of time",
        "bad": "failed with exit code 3",
        "good": "done",
    }
    assert found["good"]["result"] == {"figure": 1}
    assert found["bad"]["log"] == ["the reason"]
    assert found["slow"]["result"]["figure"] == 2, "what was written before the time was out"
    until = time.monotonic() + 10 * PATIENCE  # only the part itself has been waited for
    while runs(found["slow"]["result"]["child"]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(found["slow"]["result"]["child"])
    assert "the reason" in (tmp_path / "gpu.log").read_text()


def test_what_has_no_time_left_is_left_out(gpu, check, tmp_path):
    check(gpu.MIN_SECONDS - 1).run([gpu.Part("good", 30, "good.py", None)], 1)
    assert read_json(tmp_path / "gpu.json")["parts"]["good"] == {"status": "left out", "reason": "no time was left"}


@pytest.mark.slow  # processes that import torch or wait
def test_parts_that_measure_no_speed_run_beside_each_other(gpu, check, tmp_path):
    """Each waits for the others."""
    names = [f"together_{number}" for number in range(3)]
    check(600).run([gpu.Part(name, 120, "together.py", None) for name in names], 3)
    found = read_json(tmp_path / "gpu.json")["parts"]
    assert [found[name]["status"] for name in names] == ["done"] * 3


@pytest.mark.parametrize("tiny", [False, True])
def test_every_part_has_options_that_its_script_takes(gpu, monkeypatch, tmp_path, tiny):
    class Parsed(Exception):  # noqa: N818
        pass

    def parse(*args, **kwargs):
        taken.append(original(*args, **kwargs))
        raise Parsed

    original, taken = argparse.ArgumentParser.parse_args, []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    commands = [part.tiny if tiny else part.command for part in gpu.PARTS]
    for command in filter(None, commands):
        line = command.format(case=tmp_path, equal="float16", fast="bfloat16", threads=2)
        script, *options = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [script, *options, "--device", "cuda", "--output", "x.json"])
        with pytest.raises(Parsed):
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert all(made.device == "cuda" and made.output == Path("x.json") for made in taken)
    assert len(taken) == sum(command is not None for command in commands) > 6


@pytest.mark.slow  # processes that import torch or wait
def test_nnunet_is_satisfied_with_an_empty_simpleitk(tmp_path):
    (tmp_path / "SimpleITK.py").write_text("")
    code = "import nnunet_side; print(type(nnunet_side.reader_writer()).__name__)"
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["NibabelIO"], done.stderr[-2000:]


def test_wheels_are_of_pinned_packages():
    text = (BENCHMARKS / "gpu_wheels.sh").read_text()
    names = " ".join(re.findall(r"^(?:compiled|pure)=\(([^)]*)\)", text, re.MULTILINE)).split()
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    assert len(names) > 10
    assert {name.lower() for name in names} <= pinned


@pytest.mark.slow
def test_everything_runs_to_its_end_on_a_cpu_in_tiny_sizes(tmp_path):
    command = [str(BENCHMARKS / "gpu.sh"), "--output", str(tmp_path), "--tiny"]
    done = subprocess.run(
        command, env={**ENVIRONMENT, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "gpu.log").read_text()[-6000:]
    found = read_json(tmp_path / "gpu.json")
    results = {name: entry["result"] for name, entry in found["parts"].items() if entry["status"] == "done"}
    assert {name for name, entry in found["parts"].items() if entry["status"] == "left out"} == {
        "case_large",
        "training_large",
        "compiled_base",
        "training_large_compiled",
    }
    assert all("no GPU" in figures["tf32"] for figures in results["float32"]["settings"].values())
    assert results["float32"]["not_float32"] == []
    assert results["resumed"]["as_undisturbed"]
    assert results["survival"]["whole"]
    (image,) = results["parity"]["images"].values()
    assert image["float32"]["different"] == 0
    assert "not_run" in image["float16"]
    assert image["nnunet_float32"]["different_share"] < 0.01
    for name, sides in (("predict_base", 3), ("tta_large", 2)):
        measured = [side for side in results[name].values() if isinstance(side, dict) and "seconds" in side]
        assert len(measured) == sides
        assert all("no GPU" in side["gpu_memory"] for side in measured)
    (training,) = results["training_base"]["networks"]
    assert abs(training["first_step"]["ours"]["loss_difference"]) < 1e-5
    assert training["first_step"]["ours"]["largest_weight_difference"] < 1e-5
