import math
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from engines import a_bundle

from flare23_lib.cli import make_parser
from flare23_lib.errors import ConfigError, ImageError
from flare23_lib.inference import image_files
from flare23_lib.inference.engine import Engine
from flare23_lib.inference.image_files import Extras
from flare23_lib.inference.logit_accumulator import UNCOVERED, LogitAccumulator
from flare23_lib.inference.memory import GPU_BASE, MB, CaseSize, Limits, plan, sums_bytes, weight_bytes
from flare23_lib.inference.model import Model, ModelLabel
from flare23_lib.inference.windows import importance_map
from flare23_lib.io.geometry import Geometry
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.preprocessing.intensity import Intensity
from flare23_lib.runtime import machine

LARGEST = CaseSize(image=2 * 2651 * 512 * 512, voxels=2651 * 512 * 512, shape=(742, 297, 297), passes=1)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def a_model(name="stunet_base", patch=(48, 128, 160)):
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    labels = tuple(ModelLabel(f"label_{value}", value) for value in range(15))
    return Model(
        name="m", network=Architecture.named(name, strides), patch_size=patch,
        spacing=(2.5, 1.5, 1.5), intensity=Intensity(-970, 279, 80, 141), orientation="stored", labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["stunet_tiny", "stunet_small", "stunet_base", "stunet_large"])
def test_the_weights_are_counted(name):
    strides = None if name == "stunet_tiny" else a_model().network.strides
    architecture = Architecture.named(name, strides)
    with torch.device("meta"):
        network = STUNet(1, 15, **architecture.to_json())
    true = sum(4 * parameter.numel() for parameter in network.parameters())
    model = a_bundle().model
    object.__setattr__(model, "network", architecture)
    assert weight_bytes(model, 4) == pytest.approx(true, rel=0.02)


def test_the_largest_image_fits_the_defaults_of_the_command_line(monkeypatch):
    monkeypatch.setattr(image_files, "usable_memory", lambda: 64_000 * MB)
    asked = make_parser().parse_args(["predict", "--model", "m", "--input", "i", "--output", "o"])
    limits = Limits(asked.gpu_memory, asked.memory or image_files.default_memory())
    chosen = plan(a_model(), "float32", CPU, LARGEST, limits)
    assert (chosen.batch, chosen.tiles) == (1, 1)
    assert chosen.host < 6000 * MB
    for precision in ("float16", "float32"):
        chosen = plan(a_model(), precision, GPU, LARGEST, limits)
        assert (chosen.tiles, chosen.sums_on_device, chosen.image_on_device) == (1, True, True)


def test_a_plan_never_exceeds_its_limits_and_narrow_limits_make_it_smaller():
    teacher = a_model("stunet_large", (48, 192, 192))
    task = CaseSize(image=400 * MB, voxels=200 * MB, shape=(300, 543, 543), passes=8)
    tiles = []
    for host in (20000, 12000, 10000):
        chosen = plan(teacher, "float32", CPU, task, Limits(host=host))
        assert chosen.host <= host * MB
        tiles.append(chosen.tiles)
    assert tiles[0] == 1
    assert tiles == sorted(tiles)
    assert tiles[-1] > 1


def test_a_gpu_takes_as_many_windows_as_fit_and_gives_up_sums_before_it_gives_up():
    task = CaseSize(image=235 * MB, voxels=117 * MB, shape=(269, 299, 299), passes=1)
    wide, narrow = (plan(a_model(), "float16", GPU, task, Limits(gpu=gpu, host=8000)) for gpu in (16000, 4000))
    assert wide.batch == 8
    assert narrow.gpu <= 4000 * MB
    assert narrow.batch < 8
    teacher = a_model("stunet_large", (48, 192, 192))
    task = CaseSize(image=235 * MB, voxels=117 * MB, shape=(269, 543, 543), passes=8)
    chosen = plan(teacher, "float16", GPU, task, Limits(gpu=4500, host=20000))
    assert not chosen.sums_on_device
    assert chosen.gpu <= 4500 * MB


def test_what_earlier_cases_left_with_pytorch_is_free_for_the_next(monkeypatch):
    fractions = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000 * MB, 24_000 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20_000 * MB)
    assert Limits().gpu_bytes(GPU) == int(0.9 * 22_000 * MB) + GPU_BASE
    assert Limits(gpu=5000).gpu_bytes(GPU) == 5000 * MB
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Mock(total_memory=8000 * MB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: fractions.append(given))
    for device in (torch.device("cuda"), torch.device("cuda:1")):
        Limits(gpu=4000).enforce(device, 250 * MB)
        assert fractions == [], "a limit of one model is not one of other networks in the process"
    for device in (torch.device("cuda"), torch.device("cuda:1")):
        Limits(gpu=4000, whole_process=True).enforce(device, 250 * MB)
    # PyTorch takes no device without an index here.
    assert fractions == [((4000 * MB - GPU_BASE) / (8000 * MB), place) for place in (None, torch.device("cuda:1"))]


def test_a_limit_that_cannot_be_kept_is_refused_with_what_is_needed():
    with pytest.raises(ImageError, match=r"needs \d+ MB of memory, the limit is 1000 \(--memory\)"):
        plan(a_model(), "float32", CPU, LARGEST, Limits(host=1000))
    with pytest.raises(ImageError, match=r"MB on the GPU, the limit is 800 \(--gpu-memory\)"):
        plan(a_model(), "float16", GPU, LARGEST, Limits(gpu=800, host=16000))
    with pytest.raises(ConfigError, match="is not a limit"):
        Limits(host=0)


def test_a_limit_below_the_weights_is_refused_before_they_are_loaded():
    with pytest.raises(ConfigError, match=r"gpu-memory 900 MB: CUDA and the weights alone take 950"):
        Limits(gpu=900).enforce(GPU, 250 * MB)


def test_an_image_that_was_padded_is_counted_beside_its_padded_copy():
    engine = Engine(a_bundle(patch_size=(8, 16, 16), spacing=(1, 1, 1)), limits=Limits(host=8000))

    def host(size):
        return engine.plan(Geometry((8, 16, size), np.eye(4), (1, 1, 1)), 0).host

    # The padded shape of both is the same.
    assert host(15) - host(16) == 4 * 8 * 16 * 15 - 8 * 16


def test_votes_are_counted_at_both_resolutions():
    task = CaseSize(image=10 * MB, voxels=200 * MB, shape=(300, 500, 500), passes=8)
    with_vote_count = replace(task, extras=Extras(votes=True))
    hosts = [plan(a_model(), "float32", CPU, one, Limits(host=60000)).host for one in (task, with_vote_count)]
    assert hosts[1] - hosts[0] == 200 * MB + 300 * 500 * 500


@pytest.mark.parametrize(("voxels", "copies"), [(20 * MB, 0), (2000 * MB, 2)])
def test_soft_labels_are_counted_at_both_resolutions_and_while_they_are_written(voxels, copies):
    task = CaseSize(image=10 * MB, voxels=voxels, shape=(8, 16, 16), passes=1)
    tasks = [task, replace(task, extras=Extras(soft=True))]
    hosts = [plan(a_model(), "float32", CPU, one, Limits(host=60000)).host for one in tasks]
    assert hosts[1] - hosts[0] == 4 * (8 * 16 * 16 + voxels) + 3 * copies * voxels


def test_without_a_limit_nine_tenths_of_what_the_machine_has_are_one(monkeypatch):
    for name, value in (("available_memory", 20_000 * MB), ("own_memory", 1000 * MB), ("memory_limit", None)):
        monkeypatch.setattr(machine, name, lambda value=value: value)
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    assert Limits().host_bytes() == 18_900 * MB


def test_what_the_process_holds_already_is_no_less_of_a_limit(monkeypatch):
    """As a machine of 2,600 MB, on which 500 MB are taken by an image that is counted in each plan."""
    start = machine.own_memory()
    monkeypatch.setattr(machine, "available_memory", lambda: 2600 * MB - (machine.own_memory() - start))
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    before, image = Limits().host_bytes(), np.ones(500 * MB, np.uint8)
    assert machine.own_memory() - start > 0.9 * image.nbytes
    assert Limits().host_bytes() == pytest.approx(before, abs=10 * MB)


def rolling(depth, passes=1):
    return LogitAccumulator(importance_map((4, 3, 3)), (slice(0, depth), slice(0, 5), slice(0, 3)), 2, passes)


def window(start, value, row=0):
    box = (slice(start, start + 4), slice(row, row + 3), slice(0, 3))
    return box, torch.full((4, 3, 3, 2), float(value))


def test_slices_come_out_once_with_the_one_before_them():
    sums, parts = rolling(12), []
    for start, following in ((0, 3), (3, 8), (8, None)):
        sums.open(start)
        sums.add(window(start, start + 1)[0], [window(start, start + 1)[1]])
        part = sums.close(following)
        parts.append((part.start, part.seen, len(part.sums)))
        means = part.sums / part.weights[..., None]
        if start == 3:
            assert means[2:5, 0, 0, 0].tolist() == pytest.approx([4] * 3)
            # Slice 3 is in two windows: between their values.
            assert 1 < means[1, 0, 0, 0] < 4
            assert means[0, 0, 0, 0] == pytest.approx(1)
    # Slice 7 lies between the second and the third window; the last of 12 slices is 11.
    assert parts == [(0, 0, 3), (2, 1, 6), (7, 1, 5)]


def test_where_there_is_no_window_is_background():
    sums = rolling(20)
    sums.open(0)
    sums.add(*[[part] if index else part for index, part in enumerate(window(0, -3))])
    part = sums.close(15)
    assert (part.start, len(part.sums)) == (0, 6)
    assert part.sums[4:, :, :, 0].eq(0).all()
    assert part.sums[4:, :, :, 1].eq(UNCOVERED).all()
    assert part.sums[:4, 3:, :, 1].eq(UNCOVERED).all()
    assert part.weights.min() > 0
    sums.open(15)
    sums.add(*[[part] if index else part for index, part in enumerate(window(15, 5))])
    part = sums.close(None)
    # It begins with the slice before the window, which none covers.
    assert (part.start, part.seen, len(part.sums)) == (14, 0, 6)
    assert part.sums[0, :, :, 1].eq(UNCOVERED).all()


@pytest.mark.slow  # a process that imports torch
def test_the_memory_of_the_sums_is_what_was_counted():
    patch, shape = (24, 64, 64), (24, 200, 200)
    code = (
        "import torch, resource; from flare23_lib.inference.logit_accumulator import LogitAccumulator;"
        "from flare23_lib.inference.windows import importance_map;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; before = peak();"
        "region = slice(0, 99), slice(0, 200), slice(0, 200);"
        f"sums = LogitAccumulator(importance_map({patch}), region, 15, 4);"
        "sums.open(0); [b.fill_(1) for b in sums._buffers]; sums.open(12); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.1 * sums_bytes(patch, shape, 1, 15, 4)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/slurm/job7/step0", {"slurm/job7/memory.max": 3000, "slurm/job7/step0/memory.max": "max"}, 3000),
        ("0::/", {"memory.max": 5000}, 5000),
        ("5:cpu,cpuacct:/a\n4:memory:/b/c", {"memory/b/memory.limit_in_bytes": 4000, "a/memory.max": 1}, 4000),
        ("0::/slurm", {"slurm/memory.max": "max"}, None),
        ("0::/../outside", {}, None),
    ],
)
def test_the_limit_of_a_control_group_is_that_of_the_narrowest(tmp_path, monkeypatch, groups, files, limit):
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "self")
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path / "root")
    assert machine.memory_limit() is None
    (tmp_path / "self").write_text(groups + "\n")
    for name, value in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(f"{value}\n")
    assert machine.memory_limit() == limit
    assert Limits().host_bytes() <= 0.9 * (limit or math.inf)


def test_without_a_limit_a_job_of_slurm_takes_no_more_than_it_asked_for(monkeypatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    whole = Limits().host_bytes()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert Limits().host_bytes() == int(0.9 * 100 * 1024**2) < whole
    assert Limits(host=200).host_bytes() == 200 * MB
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert Limits().host_bytes() == int(0.9 * 200 * 1024**2)
