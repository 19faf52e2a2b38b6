"""Names of devices, and what becomes of them on machines that are made up."""

import subprocess
import sys

import pytest
import torch
from places import RECIPE

from flare23_lib import cli
from flare23_lib.config import Config
from flare23_lib.errors import ConfigError, KilledError
from flare23_lib.runtime import devices


@pytest.fixture
def machine(monkeypatch):
    """A function that gives the machine CUDA GPUs and Metal, and returns the list of what is claimed."""

    def make(count=0, mps=False):
        claimed = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(devices, "claim", claimed.append)
        return claimed

    return make


@pytest.mark.parametrize(
    ("name", "count", "chosen", "claims"),
    [
        ("auto", 0, "cpu", [1]),
        ("auto", 2, "cuda", [1]),
        ("cuda", 2, "cuda", [1]),
        ("cuda:1", 2, "cuda:1", []),
        ("cpu", 2, "cpu", []),
    ],
)
def test_a_gpu_that_is_named_by_its_number_is_that_one(machine, name, count, chosen, claims):
    claimed = machine(count)
    assert devices.choose(name, claimed=1) == torch.device(chosen)
    assert claimed == claims


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_job_of_slurm_does_not_train_on_the_cpu_because_its_gpu_is_broken(machine, monkeypatch, name):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # also set by hand
    assert devices.choose("auto") == torch.device("cpu")
    monkeypatch.setenv("SLURM_JOB_GPUS", "3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(KilledError, match="SLURM gave this job GPU 3, and PyTorch finds none"):
        devices.choose(name, claimed=1)
    monkeypatch.setattr(torch.version, "cuda", None)  # a CPU build
    assert devices.choose("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "count", "claimed", "words"),
    [
        ("cuda", 0, 1, "cuda was requested, and PyTorch finds no GPU"),
        ("cuda:0", 0, 1, "cuda:0 was requested, and PyTorch finds no GPU"),
        ("cuda:2", 2, 1, "cuda:2 was requested, and the last GPU that PyTorch finds is cuda:1"),
        ("cuda:1", 2, 2, "cuda:1 is one GPU, and 2 are to share the work"),
        ("cuda", 1, 2, "2 GPUs are to share the work, and PyTorch finds 1"),
        ("auto", 3, 4, "4 GPUs are to share the work, and PyTorch finds 3"),
        ("mps", 0, 1, "mps was requested, and PyTorch has no Metal here"),
        ("gpu", 1, 1, "'gpu' is not auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(machine, name, count, claimed, words):
    machine(count)
    with pytest.raises(ConfigError, match=words) as refused:
        devices.choose(name, claimed)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("factor", "right"), [(1, True), (1.1, False), (float("nan"), False)])
def test_metal_is_taken_if_it_computes_what_the_cpu_does(machine, monkeypatch, factor, right):
    machine(mps=True)
    compute, to = torch.nn.functional.conv3d, torch.Tensor.to
    places = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, place: (places.append(place), to(tensor, "cpu"))[1])
    monkeypatch.setattr(
        torch.nn.functional, "conv3d",
        lambda *given, **options: compute(*given, **options) * (factor if places[-1] == "mps" else 1),
    )  # fmt: skip
    if right:
        assert devices.choose("mps") == torch.device("mps")
        assert {"cpu", "mps"} == set(places)
    else:
        with pytest.raises(ConfigError, match="computes 3-D convolutions wrongly"):
            devices.choose("mps")


def test_convolutions_have_channels_last_but_on_metal():
    assert devices.memory_format(torch.device("cpu")) == torch.channels_last_3d
    assert devices.memory_format(torch.device("cuda:1")) == torch.channels_last_3d
    assert devices.memory_format(torch.device("mps")) == torch.contiguous_format


@pytest.mark.parametrize(
    "command", [["predict", "--model", "m", "--input", "i", "--output", "o"], ["stage", "train"]]
)
def test_the_command_line_takes_the_same_names(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main([*command, "--device", "cuda1"])
    assert "argument --device: 'cuda1' is not auto, cpu, cuda, cuda:N or mps" in capsys.readouterr().err


def test_the_configuration_takes_the_same_names():
    for name in ("auto", "cpu", "cuda", "cuda:3", "mps"):
        assert Config.load([RECIPE], {"device": name}).device == name
    with pytest.raises(ConfigError, match="device: 'gpu:0' is not auto"):
        Config.load([RECIPE], {"device": "gpu:0"})
    shared = {"device": "cuda:1", "models": {"student": {"gpus": 2}}}
    with pytest.raises(ConfigError, match=r"models\.student\.gpus: device cuda:1 is one GPU, not 2"):
        Config.load([RECIPE], shared)


def test_names_are_checked_without_torch():
    code = "import sys, flare23_lib.cli, flare23_lib.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
