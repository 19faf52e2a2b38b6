"""`flare23 predict`: a file or a folder of CTs is segmented, and what became of each case is reported."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from flare23_lib import __version__
from flare23_lib.errors import listed, one_line
from flare23_lib.inference.engine import Engine, Segmentation
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.inference.outputs import keep_labels
from flare23_lib.inference.segment_cases import Reader, segment_cases
from flare23_lib.io.atomic import write_json
from flare23_lib.runtime.precision import AUTO
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

PHASES = ("start_up", "weights", "read", "resample", "windows", "labels", "write")
"""start_up: from the start of the process until its modules are imported; weights: loading the model and choosing its
precision; both of the first case only. read and write run in threads of their own, in parallel to other phases."""


def predict(reader: Reader, engine: Engine, start: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Segment cases and write what the reader's outputs ask for, such as `X.nii.gz` for `X_0000.nii.gz`.

    Labels are uint8 with the header of their image, geometry to the last bit. Complete labels that exist are kept,
    unless the reader overwrites them. A case that fails is logged and does not stop the others.

    Args:
        reader: reads the images.
        engine: segments them.
        start: seconds of the phases that come before the first case.

    Returns:
        What became of each case, in the order in which they were finished.
    """
    reports: list[dict[str, Any]] = []
    before, count, others = start or {}, len(reader.cases), list[str]()
    outputs, asked = replace(reader.outputs, precision=engine.precision), engine.model.inference.precision

    def write(case: PredictionCase, segmentation: Segmentation, header: nib.Nifti1Header) -> None:
        outputs.write(case, keep_labels(segmentation.labels, outputs.table), header)

    outcomes = progress(segment_cases(engine, reader, write), total=count)
    for number, outcome in enumerate(outcomes, start=1):
        case, place = outcome.case, f"{number} of {count}"
        for warning in outcome.warnings:
            log.warning("%s: %s: %s", place, case.image, warning)
        message = None
        if outcome.error is not None:
            log.debug("%s", case.image, exc_info=outcome.error)
            message = one_line(case.image, outcome.error)
            log.error("%s: %s", place, message)
        elif outcome.kept:
            log.info("%s: %s exists already", place, outputs.first(case))
            if asked != AUTO and (precision := outputs.kept_precision(case)) not in ("", engine.precision):
                others.append(f"{case.labels} ({precision})")
        else:
            outcome.seconds, before = before | outcome.seconds, {}
            phases = ", ".join(f"{name} {outcome.seconds[name]:.1f} s" for name in PHASES if name in outcome.seconds)
            log.info("%s: %s (%s)", place, outputs.first(case), phases)
        seconds = {name: round(value, 3) for name, value in outcome.seconds.items()}
        report = {
            "case": case.name,
            "image": str(case.image),
            "labels": str(case.labels),
            "kept": outcome.kept,
            "precision": None if outcome.kept or message else engine.precision,
            "seconds": seconds,
            "warnings": outcome.warnings,
            "error": message,
        }
        reports.append(report)
    if others:
        log.warning("kept, though not computed in %s: %s; --overwrite computes it", engine.precision, listed(others))
    return reports


def write_run_report(path: Path, engine: Engine, options: dict[str, Any], cases: Sequence[dict[str, Any]]) -> None:
    """Write what a run was as JSON: versions, device, model, the command's options, and its cases."""
    model, device = engine.model, engine.device
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    versions = {
        "flare23": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "nibabel": nib.__version__,
    }
    content = {
        "versions": versions,
        "device": name,
        "precision": engine.precision,
        "step": model.inference.step,
        "windows": model.inference.windows,
        "tta": len(engine.flips) > 1,
        "model": {"name": model.name, "weights_sha256": model.weights.sha256 if model.weights else None},
        "options": options,
        "cases": cases,
    }
    write_json(path, content)
