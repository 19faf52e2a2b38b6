"""Segment a file or a folder of CTs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from flare23_lib.errors import one_line
from flare23_lib.inference.engine import Engine, Segmentation
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.inference.read_ahead import Reader
from flare23_lib.inference.run_report import CaseReport
from flare23_lib.inference.segment_cases import Outcome, segment_cases
from flare23_lib.inference.timing import PHASES
from flare23_lib.io.images import Image
from flare23_lib.io.tables import write_csv
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be segmented: its name, its image and the reason in one line."""

    case: str
    path: Image
    message: str


def predict(
    reader: Reader,
    engine: Engine,
    timings: Path | None = None,
    start: dict[str, float] | None = None,
    reports: list[CaseReport] | None = None,
) -> list[FailedCase]:
    """Segment cases and write what the reader's outputs ask for, such as `X.nii.gz` for `X_0000.nii.gz`.

    Labels are uint8 with the header of their image, geometry to the last bit. Complete labels that exist are kept,
    unless the reader overwrites them. A case that fails is logged and does not stop the others.

    Args:
        reader: reads the images.
        engine: segments them.
        timings: CSV for the seconds per phase of each case; None for none.
        start: seconds of the phases that come before the first case.
        reports: gets what became of each case.

    Returns:
        The cases that failed.
    """
    failed: list[FailedCase] = []
    rows: list[dict[str, float | str]] = []
    before, count = start or {}, len(reader.cases)

    def write(case: PredictionCase, segmentation: Segmentation, header: nib.Nifti1Header) -> None:
        reader.outputs.write(case, reader.outputs.keep(segmentation.labels), header)

    outcomes = progress(segment_cases(engine, reader, write), total=count)
    for number, outcome in enumerate(outcomes, start=1):
        case, place = outcome.case, f"{number} of {count}"
        if outcome.labels is not None:
            _complete(reader, outcome)
        for warning in outcome.warnings:
            log.warning("%s: %s: %s", place, case.image, warning)
        if outcome.error is not None:
            log.debug("%s", case.image, exc_info=outcome.error)
            failed.append(FailedCase(case.name, case.image, one_line(case.image, outcome.error)))
            log.error("%s: %s", place, failed[-1].message)
        elif outcome.kept:
            log.info("%s: %s exists already", place, case.labels)
        else:
            seconds, before = before | outcome.seconds, {}
            outcome.seconds = seconds
            phases = ", ".join(f"{name} {seconds[name]:.1f} s" for name in PHASES if name in seconds)
            log.info("%s: %s (%s)", place, case.labels, phases)
            rows.append({"case": case.name, **{name: round(value, 3) for name, value in seconds.items()}})
            if timings is not None:
                write_csv(timings, ["case", *PHASES], rows)
        if reports is not None:
            reports.append(_report(outcome))
    return failed


def _complete(reader: Reader, outcome: Outcome) -> None:
    """Make the files that are missing beside labels that existed already."""
    labels, outcome.labels = outcome.labels, None
    if labels is not None:
        try:
            reader.outputs.write(outcome.case, labels.array, labels.header, with_labels=False)
        except Exception as error:  # one case must not stop the others
            outcome.error = error


def _report(outcome: Outcome) -> CaseReport:
    case, error = outcome.case, outcome.error
    seconds = {name: round(value, 3) for name, value in outcome.seconds.items()}
    message = None if error is None else one_line(case.image, error)
    return CaseReport(case.name, str(case.image), str(case.labels), seconds, outcome.warnings, message)
