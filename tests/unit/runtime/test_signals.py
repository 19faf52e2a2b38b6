"""Signals are answered while the main thread is in the middle of one long instruction, as a convolution is."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ENVIRONMENT
from engines import a_bundle, a_volume
from machines import PATIENCE
from places import REPOSITORY

from flare23_lib import cli
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.io.nifti import write_volume
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.runtime.signals import Signals, ended_at_once

WORK = """
import hashlib, logging, threading, time
logging.basicConfig(level="INFO", format="%(message)s")
def work():
    clock = time.pthread_getcpuclockid(threading.get_ident())
    begun = time.clock_gettime(clock)
    def tell():
        while time.clock_gettime(clock) < begun + 0.1:
            time.sleep(0.01)
        print("ready")
    threading.Thread(target=tell, daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
"""One instruction, of many minutes; a thread tells when the main one has computed for 0.1 s, and so is in it."""


@pytest.fixture(autouse=True)
def started():
    """The processes of a test; none outlives it."""
    yield STARTED
    while STARTED:
        STARTED.pop().kill()


STARTED: list[subprocess.Popen] = []


def start(folder, *code):
    """Start Python code that calls `work`, and wait until it is in it; what it logs comes on the same pipe."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", "\n".join([WORK, *code])], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    STARTED.append(process)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "SIGTERM: finishing the batch under way, then saving a checkpoint\n"),
        (signal.SIGINT, "SIGINT: finishing the batch under way, then saving a checkpoint; Ctrl-C again stops without "
                        "saving\n"),
    ],
)  # fmt: skip
def test_a_training_tells_at_once_what_it_waits_for(tmp_path, number, line):
    process = start(tmp_path, "from flare23_lib.runtime.signals import Signals", "with Signals(): work()")
    process.send_signal(number)
    assert process.stdout.readline() == line
    assert process.poll() is None
    if number == signal.SIGINT:
        process.send_signal(number)
        assert process.stdout.readline() == "SIGINT again: stopping without saving\n"
    process.kill()
    assert process.communicate()[0] == ""


def test_one_of_several_processes_leaves_the_answer_to_the_one_that_started_them(caplog):
    with caplog.at_level("INFO"), Signals(alone=False) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
    assert caplog.messages == []


def test_a_second_ctrl_c_ends_a_training_and_afterwards_signals_are_what_they_were(caplog):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt), Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert [message.split(":")[0] for message in caplog.messages] == ["SIGTERM", "SIGINT", "SIGINT again"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_loses_nothing_by_it_ends_at_once_and_leaves_nothing_half_written(tmp_path, number):
    process = start(
        tmp_path,
        "from flare23_lib.runtime.signals import ended_at_once",
        "from flare23_lib.io.atomic import atomic_path",
        "with ended_at_once(), atomic_path('labels.txt') as path:",
        "    path.write_text('half'); work()",
    )
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    assert process.communicate(timeout=30 * PATIENCE)[0] == f"flare23: stopped by {signal.Signals(number).name}\n"
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ended_at_once():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_prediction_ends_with_one_line(tmp_path):
    bundle = a_bundle(network=STUNetArchitecture.of([1, 1], [16, 16]), patch_size=(48, 96, 96))
    write_bundle(tmp_path / "model", bundle.model, bundle.state_dict)
    volume = a_volume((96, 192, 192), dtype=np.int16)
    write_volume(tmp_path / "image.nii.gz", volume.array, volume.header)
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", "model", "--input", "image.nii.gz",
               "--output", "labels", "--precision", "float32", "--windows", "all", "--tta"]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        STARTED.append(process)
        for line in process.stderr:
            if "memory: " in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "flare23: stopped by SIGINT\n"
        assert process.wait() == 128 + signal.SIGINT
    assert not (tmp_path / "labels").exists()


def test_every_other_command_ends_with_one_line_too(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.evaluation, "load_config", interrupt)
    assert cli.main(["rank", "a", "b", "--output", "ranking.csv"]) == 130
    assert capsys.readouterr().err == "flare23: stopped by SIGINT\n"
