"""Each write and each read of a stage fails, and a kill comes at each write: the next start heals it.

What the faults are and what they do not reach is in `faults.py`, the jobs and the comparison in `sweep.py`. By
default a spread of the faults of each stage is tried; FLARE23_SWEEP=N tries every N-th of them, 1 all.
"""

import json
import os
from pathlib import Path

import pytest
import sweep
from faults import Fault, Shim
from processes import CONTEXT

from flare23_lib.io.atomic import read_json, write_json

SPREAD = 12
"""Faults of each stage that are tried by default."""

STAGES = ["cohort", "preprocess", "train", "bundle", "pseudo_label", "complete", "predict", "evaluate",
          "flare23 predict"]  # fmt: skip


def chosen(stage, faults):
    """Return every N-th fault; the first differs from stage to stage, so that different calls are hit."""
    step = int(os.environ.get("FLARE23_SWEEP", max(1, len(faults) // SPREAD)))
    return faults[STAGES.index(stage) % step :: step]


def sweep_into(folder, output):
    tallies = sweep.sweep_all(folder, chosen)
    output.write_text(json.dumps([vars(tally) for tally in tallies]))
    print(sweep.table(tallies))


@pytest.fixture(scope="module")
def tallies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    process = CONTEXT.Process(target=sweep_into, args=(folder / "trials", folder / "tallies.json"))
    process.start()
    process.join()
    assert process.exitcode == 0
    return {tally["stage"]: tally for tally in json.loads((folder / "tallies.json").read_text())}


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600 if "FLARE23_SWEEP" in os.environ else 1800)
@pytest.mark.parametrize("stage", STAGES)
def test_after_any_fault_the_next_start_makes_what_an_undisturbed_run_makes(tallies, stage):
    tally = tallies[stage]
    assert tally["errors"] + tally["kills"] + tally["read_errors"] > 0
    assert not tally["failures"], "\n".join(tally["failures"])


def replace_a_record(folder, fault):
    """Write a record, read it and write another in a process with a fault; return the status and what was raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        shim, text = Shim(folder, fault), ""
        shim.install()
        try:
            write_json(folder / "record.json", {"cases": 2})
            read_json(folder / "record.json")
        except Exception as error:
            text = f"{getattr(error, 'filename', None)} {error}"
        os.write(writing, json.dumps([shim.calls, text]).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    return status, *(json.loads(text) if text else ([], ""))


def sweep_a_record(folder):
    path = folder / "record.json"
    _, calls, _ = replace_a_record(folder, None)
    writes = sum(kind == "write" for kind, *_ in calls)
    reads = len(calls) - writes
    assert writes > 5
    assert reads > 1
    faults = [Fault("write", number, kill) for number in range(writes) for kill in (False, True)]
    for fault in [*faults, *(Fault("read", number) for number in range(reads))]:
        path.write_text('{"cases": 1}')
        status, _, text = replace_a_record(folder, fault)
        assert (status != 0) == fault.kill, fault
        assert read_json(path)["cases"] in (1, 2), fault
        call = [name for kind, name, _ in calls if kind == fault.kind][fault.number]
        if not fault.kill and call != "chmod":  # some file systems have none
            assert str(path) in text or str(folder) in text, fault
        replace_a_record(folder, None)
        assert read_json(path) == {"cases": 2}, fault
        assert [file.name for file in folder.iterdir()] == ["record.json"], fault


def test_whichever_call_fails_a_record_is_the_old_or_the_new_one(tmp_path):
    process = CONTEXT.Process(target=sweep_a_record, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_write_that_is_hit_has_written_half(tmp_path):
    shim = Shim(tmp_path, Fault("write", 1))
    with pytest.raises(OSError, match="No space left on device"), shim._open(tmp_path / "x", "wb", 0) as file:
        file.write(b"12345678")
    assert (tmp_path / "x").read_bytes() == b"1234"
    assert [name for _, name, _ in shim.calls] == ["open", "write"]


def test_files_outside_the_folder_are_not_counted(tmp_path):
    shim = Shim(tmp_path / "inside", Fault("write", 0))
    with shim._open(tmp_path / "x", "w") as file:
        file.write("text")
    assert not shim.calls
    assert Path(tmp_path / "x").read_text() == "text"
