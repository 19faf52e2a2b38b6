"""How jobs of one machine divide its GPUs."""

import sys
from types import SimpleNamespace

import pytest

from flare23_lib.runtime import devices


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that begins a job, which claims GPUs of a machine of three, and returns what it then sees."""
    nvml = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 3, nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}".encode(),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    held = []
    monkeypatch.setattr(devices, "_held", held)
    monkeypatch.setattr(devices, "PATIENCE", -1)

    def job(count=1, visible=None):
        monkeypatch.delenv(devices.VISIBLE, raising=False)
        if visible is not None:
            monkeypatch.setenv(devices.VISIBLE, visible)
        devices.claim(count)
        return devices.os.environ.get(devices.VISIBLE)

    yield job
    for lock in held:
        lock.close()


def test_each_job_gets_gpus_of_its_own_as_long_as_there_are_any(machine):
    assert machine() == "GPU-0"
    assert machine(count=2) == "GPU-1,GPU-2"
    assert machine() is None
    devices._held.pop(0).close()  # the first job ends
    assert machine(count=2) is None
    assert machine() == "GPU-0"  # what the job that got nothing had locked is free again


def test_a_job_waits_for_another_to_end(machine, monkeypatch):
    assert machine(count=2) == "GPU-0,GPU-1"
    monkeypatch.setattr(devices, "PATIENCE", 60)
    monkeypatch.setattr(
        devices.time, "sleep", lambda seconds: devices._held.pop(0).close()
    )  # the other ends meanwhile
    assert machine(count=2) == "GPU-0,GPU-2"


def test_gpus_that_the_environment_names_are_chosen_from_and_single_ones_left_alone(machine):
    assert machine(visible="1,2") == "1"
    assert machine(visible="1,2") == "2"
    assert machine(visible="1, 2") == "1, 2"
    assert machine(visible="1") == "1"
    assert machine(visible="") == ""
    assert machine(count=3) is None


def test_without_a_driver_nothing_is_claimed(machine, monkeypatch):
    def no_driver():
        raise RuntimeError("driver not loaded")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", no_driver)
    assert machine() is None
    assert devices.visible_gpus() == []
