"""Work in several processes: results in order, errors in one line that names the work, and no process left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from machines import PATIENCE, wait_until
from pool_work import work

from flare23_lib.errors import KilledError
from flare23_lib.runtime.processes import in_processes


def name(item):
    return f"case {item}"


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_and_too_little_memory_is_one_line_that_names_the_item(processes):
    items = ["slow", 0, 1, 2]
    results = in_processes(work, [*items, "memory", 3], processes, name)
    found, workers = zip(*(next(results) for _ in items), strict=True)
    assert list(found) == items
    assert (set(workers) == {os.getpid()}) == (processes == 1)
    with pytest.raises(KilledError, match=r"^case memory: there is not enough memory for it; \w+"):
        next(results)


def test_a_single_item_needs_no_other_process():
    assert list(in_processes(work, ["one"], 8)) == [("one", os.getpid())]


def test_a_killed_process_is_one_line_that_names_what_was_being_worked_on():
    with pytest.raises(KilledError) as error:
        list(in_processes(work, [0, "kill", "slow", 1], 2, name))
    names = str(error.value).partition("memory ran out, during work on ")[2].partition("; start again")[0]
    assert "case kill" in names.split(", ")
    assert len(names.split(", ")) <= 2


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 3), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
])  # fmt: skip
def test_processes_end_with_the_one_that_started_them(tmp_path, number, code):
    begun = [tmp_path / "0", tmp_path / "1"]
    program = (
        "import sys; from pathlib import Path; from pool_work import work\n"
        "from flare23_lib.runtime.processes import in_processes\n"
        "try: list(in_processes(work, [*map(Path, sys.argv[1:])], 2))\n"
        "except KeyboardInterrupt: sys.exit(3)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *map(str, begun)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        wait_until(lambda: all(map(Path.exists, begun)), process)
        children = psutil.Process(process.pid).children()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        assert process.wait(30 * PATIENCE) == code
        assert psutil.wait_procs(children, 30 * PATIENCE)[1] == []
        if number == signal.SIGINT:
            assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()
