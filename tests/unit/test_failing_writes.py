"""Each write, sync and rename of a stage fails once: one line names a path, nothing half-written stays, and the next
start ends with what an undisturbed run makes."""

import errno
import os
from pathlib import Path

import blosc2
import pytest
import trainings
from places import RECIPE

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import write_cases
from flare23_lib.errors import CasesFailedError
from flare23_lib.io import atomic
from flare23_lib.io.atomic import TEMPORARY_MARK
from flare23_lib.preprocessing.preprocess_cases import preprocess

SHARD = Shard(0, 1)
CALLS = [(os, "fsync"), (os, "replace"), (atomic, "_temporary"), (Path, "write_bytes"), (Path, "write_text")]


class Faults:
    """Counts the mutating calls, and fails one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int | None) -> None:
        self.count = 0
        for owner, name in CALLS:
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), failing))

    def _wrapped(self, call, failing):
        def called(*arguments, **options):
            self.count += 1
            if self.count - 1 == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return called


def started(results: Results) -> None:
    settings = Config.load([RECIPE], trainings.CHANGES).preprocessing_settings(trainings.MODEL)
    record = results.shard("preprocessed", trainings.MODEL, SHARD)
    preprocess(results, settings, [8, 16, 16], SHARD, record)


def content(results: Results) -> dict:
    """Files by their paths: arrays for blosc2, whose compressed bytes may differ, and bytes of all others."""
    files = {path.relative_to(results.root): path for path in sorted(results.root.rglob("*")) if path.is_file()}
    return {
        name: blosc2.open(str(path), mode="r")[:].tobytes() if path.suffix == ".b2nd" else path.read_bytes()
        for name, path in files.items()
        if path.suffix != ".json" and not path.name.startswith(".lock")  # metadata have checksums of those bytes
    }


@pytest.fixture
def cases(tmp_path):
    return [trainings.write_case(tmp_path, number) for number in range(2)]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_whichever_write_of_preprocessing_fails_the_next_start_ends_as_if_none_had(tmp_path, cases, step):
    undisturbed = Results(tmp_path / "undisturbed")
    write_cases(undisturbed.cases, cases)
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults = Faults(monkeypatch, None)
        started(undisturbed)
    expected = content(undisturbed)
    assert faults.count > 20
    for failing in range(0, faults.count, step):
        results = Results(tmp_path / f"failing{failing}")
        write_cases(results.cases, cases)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Faults(monkeypatch, failing)
            with pytest.raises((CasesFailedError, OSError)) as caught:
                started(results)
        named = str(caught.value if isinstance(caught.value, CasesFailedError) else caught.value.filename)
        assert str(results.root) in named, failing
        assert not list(results.root.rglob(f"{TEMPORARY_MARK}*")), failing
        started(results)
        assert content(results) == expected, failing
