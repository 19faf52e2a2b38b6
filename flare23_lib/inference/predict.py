"""Segment a file or a folder of CTs."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flare23_lib.errors import FlareError, ImageError
from flare23_lib.images import read_volume, write_volume
from flare23_lib.inference.bundle import Bundle
from flare23_lib.inference.engine import Engine

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")
CHANNEL_SUFFIX = "_0000"
"""What nnU-Net and FLARE append to an image's name, and its labels' name lacks."""


@dataclass(frozen=True)
class Fault:
    """A case that could not be segmented: its name, its image and the reason in one line."""

    case: str
    path: Path
    message: str


@dataclass(frozen=True)
class Case:
    """An image to segment and where its labels go."""

    name: str
    image: Path
    labels: Path


def case_name(path: Path) -> str | None:
    """Return the name of an image's case, `X` for `X_0000.nii.gz`; None if the file is not NIfTI by its name."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix).removesuffix(CHANNEL_SUFFIX)
    return None


def find_cases(inputs: Path, output: Path) -> list[Case]:
    """List the images of a file or folder, sorted, with the file for each one's labels.

    Args:
        inputs: a NIfTI file, or a folder whose `*.nii.gz` and `*.nii` are taken (hidden ones not).
        output: a folder; for a single file it may be a NIfTI file's name.

    Raises:
        ImageError: nothing there, two images for one name, or labels that would replace their image.
    """
    if inputs.is_dir():
        images = [
            path
            for path in sorted(inputs.iterdir())
            if case_name(path) and not path.name.startswith(".") and path.is_file()
        ]
        if not images:
            raise ImageError(f"{inputs}: the folder holds no *.nii.gz or *.nii")
    elif inputs.is_file():
        if not case_name(inputs):
            raise ImageError(f"{inputs}: is not named *.nii.gz or *.nii")
        images = [inputs]
    else:
        raise ImageError(f"{inputs}: there is no such file or folder")
    if case_name(output) and not output.is_dir():
        if inputs.is_dir():
            raise ImageError(f"{output}: must be a folder, as {inputs} is one")
        cases = [Case(case_name(inputs), inputs, output)]
    else:
        cases = [Case(case_name(image), image, output / f"{case_name(image)}.nii.gz") for image in images]
    _refuse_collisions(cases)
    return cases


def _refuse_collisions(cases: Iterable[Case]) -> None:
    taken: dict[Path, Path] = {}
    for case in cases:
        if case.labels.exists() and case.labels.samefile(case.image):
            raise ImageError(f"{case.image}: its labels would replace it; give another output folder")
        if case.labels in taken:
            raise ImageError(f"{case.image}: would give the same {case.labels.name} as {taken[case.labels]}")
        taken[case.labels] = case.image


def is_whole(path: Path) -> bool:
    """Tell whether a file is there and reads to its end."""
    try:
        read_volume(path)
    except ImageError:
        return False
    return True


def predict(
    inputs: str | Path,
    output: str | Path,
    bundle: Bundle,
    *,
    device: torch.device | str = "cpu",
    step: float | None = None,
    tta: bool | None = None,
    precision: str | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
) -> list[Fault]:
    """Segment a file or a folder and write `X.nii.gz` for each `X_0000.nii.gz` or `X.nii.gz`.

    Labels are uint8 with the header of their image, geometry to the last bit. What is there and whole is not made
    again. A case that fails is logged and does not stop the others.

    Args:
        inputs: a NIfTI file or a folder of them.
        output: a folder; for a single file it may be a NIfTI file's name.
        bundle: the model.
        device: where to compute.
        step: as `Engine`.
        tta: as `Engine`.
        precision: as `Engine`.
        batch_size: as `Engine`.
        overwrite: make again what is there.

    Returns:
        The cases that failed.

    Raises:
        ImageError: the inputs are not there, or the output would replace them.
        ConfigError: an option is out of range.
    """
    cases = find_cases(Path(inputs), Path(output))
    engine = Engine(bundle, device, step=step, tta=tta, precision=precision, batch_size=batch_size)
    faults = []
    for number, case in enumerate(_with_progress(cases), start=1):
        if not overwrite and is_whole(case.labels):
            log.info("%d of %d: %s is there already", number, len(cases), case.labels)
            continue
        started = time.perf_counter()
        fault = _segment_case(engine, case)
        if fault:
            log.error("%d of %d: %s", number, len(cases), fault.message)
            faults.append(fault)
        else:
            seconds = time.perf_counter() - started
            log.info("%d of %d: %s in %.1f s", number, len(cases), case.labels, seconds)
    return faults


def _segment_case(engine: Engine, case: Case) -> Fault | None:
    try:
        volume = read_volume(case.image)
        write_volume(case.labels, engine.segment(volume).labels, volume.header)
    except Exception as error:  # one case must not stop the others, whatever is wrong with it
        log.debug("%s", case.image, exc_info=True)
        return Fault(case.name, case.image, _one_line(case.image, error))
    return None


def _one_line(path: Path, error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    if not isinstance(error, FlareError):
        text = f"{type(error).__name__}: {text}"
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _with_progress(cases: list[Case]) -> Iterator[Case]:
    """Go through cases under a progress bar if a person watches."""
    watched = sys.stderr.isatty()
    with logging_redirect_tqdm() if watched else contextlib.nullcontext():
        yield from tqdm(cases, unit="case", disable=not watched)
