"""A failing case is named in one line, and the others are done; what is no case's fault ends the job."""

import errno

import pytest

from flare23_lib.errors import CasesFailedError, ImageError, KilledError, LockError, one_line
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.signals import StoppedError


def run(errors):
    """Do five cases, of which some end in an error; returns those that were done."""
    failures, done = CaseFailures(5), []
    for number in range(5):
        with failures.case(f"case{number}", f"{number}.nii.gz"):
            if number in errors:
                raise errors[number]
            done.append(number)
    return failures, done


def test_the_other_cases_are_done_and_the_job_fails_in_one_line(caplog):
    failures, done = run({1: ImageError("1.nii.gz: is empty"), 3: RuntimeError("no memory\nat some place")})
    assert done == [0, 2, 4]
    assert "case1: 1.nii.gz: is empty" in caplog.messages
    assert "case3: 3.nii.gz: RuntimeError: no memory" in caplog.messages
    with pytest.raises(
        CasesFailedError, match=r"^2 of 5 cases failed \(case1, case3\), the others .* is empty; the log"
    ):
        failures.raise_any()


def test_a_job_without_failures_ends_well():
    failures, done = run({})
    failures.raise_any()
    assert len(done) == 5


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device", "x"), OSError(errno.EROFS, "Read-only file system"),
     LockError("no locks"), KilledError("killed"), StoppedError(15), KeyboardInterrupt()],
)  # fmt: skip
def test_what_every_case_would_end_in_ends_the_job(error):
    with pytest.raises(type(error)):
        run({1: error})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EIO, "Input/output error", "other"), "other: Input/output error"),
        (OSError(errno.EIO, "Input/output error"), "file: Input/output error"),
        (MemoryError(), "file: MemoryError: "),
        (ImageError("file: is empty"), "file: is empty"),
        (ImageError("is empty"), "file: is empty"),
        (ValueError("one\ntwo"), "file: ValueError: one"),
    ],
)
def test_an_error_is_one_line_that_names_a_file(error, line):
    assert one_line("file", error) == line
