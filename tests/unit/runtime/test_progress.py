"""What is shown of work under way, with a terminal and without one."""

import io
import re
import time

import pytest

from flare23_lib.runtime import progress as module
from flare23_lib.runtime.progress import Bar, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, as a list with one number of seconds."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_a_line_a_minute_tells_how_long_it_takes(clock, caplog):
    with caplog.at_level("INFO"):
        for _ in progress(range(10)):
            clock[0] += 25
    assert caplog.messages == [
        "3 of 10 cases, about 3 min left", "6 of 10 cases, about 2 min left", "9 of 10 cases, about 25 s left"
    ]  # fmt: skip


def test_the_time_left_follows_from_bytes_where_those_are_given(clock, caplog):
    with caplog.at_level("INFO"):
        for size in progress([900, 50, 50], unit="file", sizes=[900, 50, 50]):
            clock[0] += size / 10
    assert caplog.messages == ["1 of 3 files, about 10 s left"]


def test_what_was_done_before_counts_as_done_and_not_as_fast(clock, caplog):
    with caplog.at_level("INFO"), Bar(100, "iteration", "epoch 2 of 3", done=90) as bar:
        clock[0] += 60
        bar.update(note="loss 0.5")
    assert caplog.messages == ["epoch 2 of 3: 91 of 100 iterations, about 9 min left; loss 0.5"]


def test_a_short_work_and_a_hidden_one_log_nothing(clock, caplog):
    with caplog.at_level("INFO"), Bar(3, "iteration", hidden=True) as bar:
        for _ in progress(range(10)):
            clock[0] += 5
        clock[0] += 100
        bar.update()
    assert caplog.messages == []


def test_on_a_terminal_it_is_a_bar_with_its_note(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level("INFO"), Bar(4, "iteration", "epoch 1 of 2", done=1) as bar:
        for _ in range(3):
            time.sleep(0.11)  # tqdm draws ten times a second
            bar.update(note="loss 0.25")
    assert re.search(r"epoch 1 of 2: 100%.*4/4 .*loss 0\.25", terminal.getvalue())
    assert terminal.getvalue().endswith(" \r"), "the bar of a part does not stay"
    list(progress([1, 2], unit="file", sizes=[1000, 3000]))
    assert re.search(r"2 of 2 files: 100%.*4\.00k/4\.00k", terminal.getvalue())
    assert caplog.messages == []
