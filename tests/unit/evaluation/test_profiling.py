import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pynvml
import pytest
from machines import PATIENCE

from flare23_lib import cli
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation import profiling
from flare23_lib.evaluation.efficiency import add_measurement, efficiency_row, format_efficiency
from flare23_lib.evaluation.profiling import find_gpu, poll, profile_command
from flare23_lib.io.tables import read_csv


class FakeCommand:
    """A command whose time moves when it is waited for, and by `cost` for each reading of its load.

    Its memory and CPU time, and the memory of the GPU, are functions of the seconds since it began.
    """

    name = "fake GPU"

    def __init__(self, ends, memory, cpu=lambda seconds: 0.0, cost=0.0):
        self.started, self.ended = 100.0, 100.0 + ends
        self.time = self.started
        self.memory, self.cpu, self.cost = memory, cpu, cost

    def wait(self, seconds):
        self.time += seconds
        if self.time < self.ended:
            raise psutil.TimeoutExpired(seconds)
        self.time = self.ended

    @property
    def seconds(self):
        return min(self.time, self.ended) - self.started

    def load(self):
        self.time += self.cost
        return self.memory(self.seconds), self.cpu(self.seconds)

    def used_mb(self):
        return self.memory(self.seconds)


def recorded(ends, memory, cpu=lambda seconds: 0.0, with_gpu=True, cost=0.0):
    command = FakeCommand(ends, memory, cpu, cost)
    return poll(command.wait, command, command if with_gpu else None, command.started, lambda: command.time)


GPU = FakeCommand(1, lambda seconds: 0.0)


def ramp(seconds):
    """Up from 0 to 2000 MB in 1 s, level for 1 s, down to 0 in 0.5 s: an area of 1000 + 2000 + 500 MB s."""
    if seconds <= 1:
        return 2000 * seconds
    return 2000.0 if seconds <= 2 else max(0.0, 2000 - 4000 * (seconds - 2))


def test_peak_and_area_are_exact_for_a_curve_of_straight_lines():
    profile = recorded(2.5, ramp)
    assert profile.seconds[-1] == pytest.approx(2.5)
    assert profile.gpu_mb.max() == pytest.approx(2000)
    assert profile.area(profile.gpu_mb) == pytest.approx(3500)
    assert profile.area(profile.ram_mb) == pytest.approx(3500)


def test_the_area_goes_to_the_command_s_end_and_not_to_the_next_poll():
    profile = recorded(0.131, lambda seconds: 1000.0)
    assert profile.seconds == pytest.approx([0, 0.1, 0.131])
    assert profile.area(profile.gpu_mb) == pytest.approx(131)


def test_the_official_sum_is_that_of_polls_with_a_sleep_between_them():
    """A level of 1000 MB for 10 s: polls that take no time sum up to the area, polls that take 30 ms to less."""
    free = recorded(9.999, lambda seconds: 1000.0)
    assert free.official_area(free.gpu_mb) == pytest.approx(10_000, rel=0.011)
    slow = recorded(9.999, lambda seconds: 1000.0, cost=0.03)
    assert slow.official_area(slow.gpu_mb) < 0.9 * 9999
    assert slow.area(slow.gpu_mb) == pytest.approx(9999, rel=0.001)


def test_utilization_is_the_share_of_all_cores():
    """Two of four cores are busy for a second, then none."""
    profile = recorded(2.0, ramp, cpu=lambda seconds: 2 * min(seconds, 1.0))
    assert max(profile.utilization(cores=4)) == pytest.approx(50)
    assert profile.utilization(4)[0] == 0
    assert profile.utilization(4)[-1] == pytest.approx(0, abs=1e-6)
    row = efficiency_row("a", profile, GPU, cores=4)
    assert row["CPU_Area"] == 50  # 2 core seconds of 4 cores, in percent seconds
    assert row["AUC_CPU_Time"] == pytest.approx(50, rel=0.05)


def test_without_a_gpu_its_columns_are_empty_and_never_zero_or_ram():
    row = efficiency_row("a", recorded(1.0, ramp, with_gpu=False), None, cores=2)
    gpu = {key: value for key, value in row.items() if "GPU" in key}
    assert set(gpu) == {"MaxGPU_Mem", "AUC_GPU_Time", "GPU_Area", "GPU_Before", "GPU_Backend", "GPU"}
    assert set(gpu.values()) == {None}
    assert row["MaxRAM"] == 2000
    assert row["RAM_Backend"] == "psutil"


def test_a_gpu_s_memory_that_cannot_be_read_any_more_leaves_its_columns_empty():
    def lost(seconds):
        if seconds > 0.5:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return 1000.0

    command = FakeCommand(1.0, ramp)
    gpu = FakeCommand(1.0, lambda seconds: lost(command.seconds))
    profile = poll(command.wait, command, gpu, command.started, lambda: command.time)
    assert profile.gpu_mb[:5].tolist() == [1000] * 5
    row = efficiency_row("a", profile, gpu, cores=2)
    assert [row[name] for name in ("MaxGPU_Mem", "AUC_GPU_Time", "GPU_Area")] == [None] * 3
    assert (row["Time"], row["RAM_Area"]) == (1.0, 1000)
    assert "no GPU was measured" in format_efficiency(row)


def test_a_command_that_ends_at_once_has_a_row():
    row = efficiency_row("a", recorded(0.0, lambda seconds: 7.0), GPU, cores=2)
    assert (row["Time"], row["MaxRAM"], row["RAM_Area"], row["MaxCPU_Utilization"]) == (0, 7, 0, 0)


def test_the_table_begins_with_the_challenge_s_columns_and_names_the_backend(tmp_path):
    profile = recorded(2.5, ramp)
    row = efficiency_row("a", profile, GPU, cores=2)
    header = add_measurement(tmp_path, row, profile).read_text().splitlines()[0].split(",")
    assert header[:8] == [
        "Name", "Time", "MaxGPU_Mem", "AUC_GPU_Time", "MaxCPU_Utilization", "AUC_CPU_Time", "MaxRAM", "AUC_RAM_Time",
    ]  # fmt: skip
    assert header[8:] == [
        "GPU_Area", "CPU_Area", "RAM_Area", "GPU_Before", "GPU_Backend", "RAM_Backend", "GPU", "Cores", "file",
    ]  # fmt: skip
    assert (row["Time"], row["MaxGPU_Mem"], row["GPU_Area"]) == (2.5, 2000, 3500)
    assert (row["GPU_Backend"], row["GPU"], row["GPU_Before"]) == ("nvml", "fake GPU", 0)


def test_measurements_of_one_folder_stand_in_one_table(tmp_path):
    profile = recorded(1.0, ramp, with_gpu=False)
    for name in ("b", "a", "b"):
        table = add_measurement(tmp_path, efficiency_row(name, profile, None, 2), profile)
    assert [(row["Name"], row["file"]) for row in read_csv(table)] == [("a", "curves/a.csv"), ("b", "curves/b.csv")]
    samples = read_csv(tmp_path / "curves" / "a.csv")
    assert (samples[5]["seconds"], samples[5]["ram_mb"], samples[5]["gpu_mb"]) == ("0.5000", "1000.0", "")


def test_a_table_with_other_columns_is_not_overwritten(tmp_path):
    (tmp_path / "efficiency.csv").write_text("Name,Time\nx,1\n")
    profile = recorded(1.0, ramp, with_gpu=False)
    with pytest.raises(EvaluationError, match="other columns"):
        add_measurement(tmp_path, efficiency_row("a", profile, None, 2), profile)
    assert (tmp_path / "efficiency.csv").read_text() == "Name,Time\nx,1\n"


# The real thing

SELF_LOGGING = """
import json, os, sys, time
page = os.sysconf("SC_PAGESIZE")
log = []
def note():
    with open("/proc/self/statm") as handle:
        log.append([time.monotonic(), int(handle.read().split()[1]) * page / 2**20])
def hold(megabytes):
    blocks = []
    while len(blocks) < megabytes // 20:  # step by step, so that the log knows the rise too
        blocks.append(bytearray(b"x") * (20 * 2**20))
        note()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        time.sleep(0.01)
        note()
    while blocks:
        blocks.pop()
        note()
note()
hold(400)
note()
hold(100)
note()
json.dump(log, open(sys.argv[1], "w"))
"""


@pytest.mark.slow  # two seconds of a growing process
def test_each_reading_is_within_5_percent_of_the_program_s_own_log_at_its_time(tmp_path):
    log = tmp_path / "log.json"
    before = time.monotonic()
    profile, code = profile_command([sys.executable, "-c", SELF_LOGGING, str(log)], None)
    assert code == 0
    moments, own = np.array(json.loads(log.read_text())).T
    assert 400 < own.max() < 600
    compared = []
    for reading, polled, following in zip(profile.ram_mb, profile.seconds, profile.seconds[1:], strict=False):
        # It was taken between its poll and the next one, and the command began between `before` and its first entry,
        # however busy the machine was. An entry each 20 MB or 0.01 s: with one more at both ends.
        first = np.searchsorted(moments, before + polled) - 1
        last = np.searchsorted(moments, moments[0] + following, side="right")
        if first >= 0 and last < len(own):
            window = own[first : last + 1]
            assert 0.95 * window.min() < reading < 1.05 * window.max()
            compared.append(reading)
    assert compared
    assert profile.ram_mb[-1] == 0
    assert profile.seconds[-1] >= moments[-1] - moments[0]


CHILD = f"""
import pathlib, sys, time
x = bytearray(b"x") * (150 * 2**20)
until = time.monotonic() + {60 * PATIENCE}
while not pathlib.Path(sys.argv[1]).exists() and time.monotonic() < until:
    time.sleep(0.01)
"""


def test_the_processes_that_a_command_starts_are_part_of_it(tmp_path, monkeypatch):
    """The child keeps its memory until a poll has seen it."""
    seen, load = tmp_path / "seen", profiling.ProcessTree.load

    def noted(tree):
        found = load(tree)
        if found[0] > 150:
            seen.touch()
        return found

    monkeypatch.setattr(profiling.ProcessTree, "load", noted)
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True)"
    profile, _ = profile_command([sys.executable, "-c", parent, CHILD, str(seen)], None)
    assert profile.ram_mb.max() > 150


BUSY = """
import pathlib, sys, time
while time.process_time() < 0.4: pass
pathlib.Path(sys.argv[1]).write_text(str(time.process_time()))
"""


def test_the_processor_time_of_a_busy_command_is_counted_once_and_to_its_end(tmp_path):
    profile, _ = profile_command([sys.executable, "-c", BUSY, str(tmp_path / "own")], None)
    own = float((tmp_path / "own").read_text())
    assert 0.9 * own < profile.cpu_seconds[-1] < 2 * own


def test_the_exit_code_is_handed_on_and_a_missing_program_is_named():
    assert profile_command([sys.executable, "-c", "raise SystemExit(7)"], None)[1] == 7
    with pytest.raises(EvaluationError, match="no-such-program: cannot be run"):
        profile_command(["no-such-program"], None)


MEASURE = """
import sys
from flare23_lib import cli
from flare23_lib.evaluation import profiling
poll = profiling.poll
profiling.poll = lambda *given: (print("polling", flush=True), poll(*given))[1]
sys.exit(cli.main(["measure", *sys.argv[1:]]))
"""


def test_a_stopped_measurement_ends_its_command_and_names_the_signal(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(1000)"]
    measure = [sys.executable, "-c", MEASURE, "--output", str(tmp_path / "out"), "--", *command]
    process = subprocess.Popen(measure, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "polling\n"
    children = psutil.Process(process.pid).children()
    process.terminate()
    _, messages = process.communicate(timeout=10 * PATIENCE)
    assert (process.returncode, messages) == (128 + signal.SIGTERM, "flare23: stopped by SIGTERM\n")
    ended, alive = psutil.wait_procs(children, timeout=10 * PATIENCE)
    assert (len(ended), alive) == (1, [])


def test_processes_that_started_others_are_ended_first():
    """A shell whose command ends before it does runs the next one."""
    ended = []

    class FakeProcess:
        def __init__(self, name, children=()):
            self.name, self.below = name, children

        def children(self, recursive):
            return [process for child in self.below for process in (child, *child.children(recursive))]

        def is_running(self):
            return True

        def terminate(self):
            ended.append(self.name)

    profiling.ProcessTree(FakeProcess("shell", [FakeProcess("script", [FakeProcess("program")])])).terminate()
    assert ended == ["shell", "script", "program"]


class FakeNvml:
    """What `find_gpu` needs of pynvml, with two GPUs."""

    class NVMLError(Exception):
        pass

    class Memory:
        total, free = 16 * 2**30, 13 * 2**30

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"GPU {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return self.Memory


def test_the_gpu_s_memory_is_that_of_the_whole_device(monkeypatch):
    monkeypatch.setattr(profiling, "pynvml", FakeNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpu().used_mb() == 3 * 1024
    assert (find_gpu().name, find_gpu(1).name, find_gpu(position=1).name) == ("GPU 0", "GPU 1", "GPU 1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert (find_gpu().name, find_gpu(position=1).name) == ("GPU 1", "GPU 0")
    assert find_gpu(position=2) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_gpu() is None
    with pytest.raises(EvaluationError, match="--gpu 2: there is no such GPU"):
        find_gpu(2)


def test_a_gpu_whose_memory_cannot_be_read_is_none(monkeypatch):
    class WithoutMemory(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
            raise self.NVMLError("Not Supported")

    monkeypatch.setattr(profiling, "pynvml", WithoutMemory())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpu() is None
    with pytest.raises(EvaluationError, match=r"--gpu 0: .* its memory cannot be read \(Not Supported\)"):
        find_gpu(0)


def test_processes_are_looked_for_less_often_where_that_takes_long(monkeypatch):
    """A clock that is set by hand: a look takes 0.2 s."""
    tree, looked, now = profiling.ProcessTree(psutil.Process()), [], [100.0]

    def slow(process, recursive):
        looked.append(now[0])
        now[0] += 0.2
        return []

    monkeypatch.setattr(psutil.Process, "children", slow)
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for seconds in (0, 1.9, 0.2, 1.9):
        now[0] += seconds
        tree.load()
    assert looked == pytest.approx([100, 102.3])


# The command


def test_measure_writes_a_row_and_a_curve_and_says_that_there_is_no_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    output = str(tmp_path / "out")
    assert cli.main(["measure", "--output", output, "--name", "case", "--", sys.executable, "-c", "pass"]) == 0
    said = capsys.readouterr().out
    assert "no GPU was measured: its columns are empty" in said
    (row,) = read_csv(tmp_path / "out" / "efficiency.csv")
    assert (row["Name"], row["MaxGPU_Mem"], row["GPU_Backend"]) == ("case", "", "")
    assert len(read_csv(tmp_path / "out" / row["file"])) >= 2


def test_measure_hands_on_a_failed_command_s_exit_code_and_writes_nothing(tmp_path, capsys):
    code = cli.main(["measure", "--output", str(tmp_path / "out"), "--", sys.executable, "-c", "raise SystemExit(3)"])
    assert code == 3
    assert "failed (exit code 3); nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "x" * 300])
def test_measure_refuses_a_name_that_no_file_can_have(tmp_path, capsys, name):
    assert cli.main(["measure", "--output", str(tmp_path), "--name", name, "--", "touch", str(tmp_path / "run")]) == 2
    assert f"flare23: --name '{name}'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", ["other columns", "folder"])
def test_measure_refuses_another_table_before_the_command_runs(tmp_path, capsys, table):
    if table == "folder":
        (tmp_path / "efficiency.csv").mkdir()
    else:
        (tmp_path / "efficiency.csv").write_text("Name,Time\nx,1\n")
    assert cli.main(["measure", "--output", str(tmp_path), "--", "touch", str(tmp_path / "run")]) == 1
    assert "efficiency.csv" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
