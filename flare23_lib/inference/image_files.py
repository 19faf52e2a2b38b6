"""Which images are segmented, where their labels go, and reading them ahead.

This module imports no torch: the first image is read while torch is being imported.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flare23_lib.cache.entries import Shard
from flare23_lib.choices import MODEL_FILE
from flare23_lib.dataset.image_info import header_facts
from flare23_lib.dataset.quality import file_faults, image_faults
from flare23_lib.errors import BundleError, ImageError
from flare23_lib.io.nifti import SUFFIXES, Stream, Volume, open_volume, read_geometry, read_volume, stem

if TYPE_CHECKING:
    from flare23_lib.inference.engine import Engine
    from flare23_lib.inference.memory import MemoryPlan

log = logging.getLogger(__name__)

CHANNEL_SUFFIX = "_0000"
"""What nnU-Net and FLARE append to an image's name, and its labels' name lacks."""

MB = 10**6

Check = Callable[[Path], object]
"""Looks at an image, and raises what speaks against reading it."""

HOST_BASE = 700 * MB
"""A process that has imported torch and run a network, without weights: 620 MB were measured, on a processor."""


def model_file(bundle: Path) -> Path:
    """Return the path of a bundle's description; BundleError if it is not there."""
    path = bundle / MODEL_FILE
    if not path.is_file():
        raise BundleError(f"{path}: is missing; {bundle} is no model bundle")
    return path


@dataclass(frozen=True)
class PredictionCase:
    """An image to segment and where its labels go."""

    name: str
    image: Path
    labels: Path


@dataclass
class Reading:
    """A case that was read, or need not be.

    Attributes:
        volume: the image; None if the case's labels are there and whole.
        seconds: how long reading took.
        warnings: what makes it no sound CT, a line each.
    """

    volume: Volume | None
    seconds: float
    warnings: tuple[str, ...] = ()

    def release(self) -> None:
        """Let go of the image."""
        self.volume = None


def case_name(path: Path) -> str | None:
    """Return the name of an image's case, `X` for `X_0000.nii.gz`; None if the file is not NIfTI by its name."""
    name = stem(path)
    return None if name is None else name.removesuffix(CHANNEL_SUFFIX)


def find_cases(inputs: Path, output: Path, shard: Shard | None = None) -> list[PredictionCase]:
    """List the images of a file or folder, sorted, with the file for each one's labels.

    Args:
        inputs: a NIfTI file, or a folder whose `*.nii.gz` and `*.nii` are taken, links among them even if they lead
            nowhere; hidden ones are not, and one whose name ends so in capitals is passed over with a warning.
        output: a folder; for a single file it may be a NIfTI file's name.
        shard: only the cases whose name hashes to it; None for all.

    Raises:
        ImageError: nothing there, two images for one name, or labels that would replace their image.
    """
    if inputs.is_dir():
        files = [path for path in sorted(inputs.iterdir()) if not path.name.startswith(".") and not path.is_dir()]
        images = {path: name for path in files if (name := case_name(path))}
        for path in files:
            if path.name.lower().endswith(SUFFIXES) and path not in images:
                log.warning("%s: is passed over; the names of images end in .nii.gz or .nii", path)
        if not images:
            raise ImageError(f"{inputs}: the folder holds no *.nii.gz or *.nii")
    elif inputs.is_file():
        if not (name := case_name(inputs)):
            raise ImageError(f"{inputs}: is not named *.nii.gz or *.nii")
        images = {inputs: name}
    else:
        raise ImageError(f"{inputs}: there is no such file or folder")
    if case_name(output) and not output.is_dir():
        if inputs.is_dir():
            raise ImageError(f"{output}: must be a folder, as {inputs} is one")
        cases = [PredictionCase(name, inputs, output) for name in images.values()]
    else:
        cases = [PredictionCase(name, image, output / f"{name}.nii.gz") for image, name in images.items()]
    if inputs.is_dir() and output.is_dir() and output.samefile(inputs):
        raise ImageError(f"{output}: holds the images; give another folder for the labels")
    _refuse_collisions(cases)
    return [case for case in cases if shard is None or case.name in shard]


def _refuse_collisions(cases: Iterable[PredictionCase]) -> None:
    taken: dict[Path, Path] = {}
    for case in cases:
        if case.labels.exists() and case.labels.samefile(case.image):
            raise ImageError(f"{case.image}: its labels would replace it; give another output folder")
        if case.labels in taken:
            raise ImageError(f"{case.image}: would give the same {case.labels.name} as {taken[case.labels]}")
        taken[case.labels] = case.image


def is_done(case: PredictionCase) -> bool:
    """Tell whether a case's labels are there, read to their end and lie on its image.

    Raises:
        ImageError: the file is an image of its own, which is not to be replaced unasked.
    """
    try:
        labels, image = read_volume(case.labels), read_geometry(case.image)
    except ImageError:
        return False
    if labels.array.dtype != np.uint8:
        raise ImageError(
            f"{case.labels}: is there and holds {labels.array.dtype} voxels, no labels; give another output, or "
            "replace it with --overwrite"
        )
    return labels.geometry.difference(image) is None


def held_bytes(stream: Stream) -> int:
    """Return how much memory an image takes while it is read; a scaled one is held as stored and as float64."""
    return (stream.dtype.itemsize + (0 if stream.scaling == (1, 0) else 8)) * math.prod(stream.shape)


def image_warnings(path: Path, volume: Volume) -> tuple[str, ...]:
    """Return what the scan of a cohort would say of an image that was read, a line each."""
    with open_volume(path) as stream:
        facts = header_facts(stream)
    if volume.array.size:
        facts = replace(facts, low=float(volume.array.min()), high=float(volume.array.max()))
    found = (*file_faults(facts, has_twin=False, shear_limit=math.inf), *image_faults(facts))
    return tuple(message for _, message in found)


def can_prefetch(engine: Engine, plan: MemoryPlan, following: Path, held: int = 0, left: int = 0) -> bool:
    """Tell whether the next image may be read while a case is computed, within the engine's limit of memory.

    Args:
        engine: with its limits.
        plan: of the case that is about to be computed.
        following: the next image; one that cannot be read, or not be segmented within the limit, is not read ahead.
        held: bytes that are taken until then beside the two.
        left: bytes that this case takes while the next one is computed.
    """
    try:
        with open_volume(following) as stream:
            geometry, size = stream.geometry(), held_bytes(stream)
        after = engine.plan(geometry, size).host + left
    except Exception:  # whatever is wrong with it is reported when it is its turn
        return False
    return max(plan.host + size + held, after) <= engine.limits.host_bytes()


class Reader:
    """Reads cases one by one in a thread, each when it is asked for.

    Args:
        cases: in the order in which they are wanted.
        overwrite: read also those whose labels are there and whole.
    """

    def __init__(self, cases: Sequence[PredictionCase], overwrite: bool = False) -> None:
        self.cases = cases
        self._overwrite = overwrite
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._started: dict[int, Future[Reading]] = {}

    def start(self, index: int, check: Check | None = None) -> None:
        """Begin to read a case, unless that was done or there is none.

        Args:
            index: of the case.
            check: raises what speaks against reading its image; asked if its labels are not there already.
        """
        if index < len(self.cases) and index not in self._started:
            self._started[index] = self._thread.submit(self._read, self.cases[index], check)

    def start_early(self, limit: int) -> None:
        """Begin to read the first case if that alone stays within a limit of memory, in bytes.

        Whether it can be computed within the limit is only known with the model.
        """
        if self.cases:
            try:
                with open_volume(self.cases[0].image) as stream:
                    fits = HOST_BASE + held_bytes(stream) <= limit
            except Exception:  # whatever is wrong with it is reported when it is its turn
                return
            if fits:
                self.start(0)

    def started(self, index: int) -> bool:
        """Tell whether a case is read or being read."""
        return index in self._started

    def get(self, index: int, check: Check | None = None) -> Reading:
        """Return a case, once; raises what reading or checking it raised. Arguments as `start`."""
        self.start(index, check)
        return self._started.pop(index).result()

    def close(self) -> None:
        """Give up what has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, case: PredictionCase, check: Check | None) -> Reading:
        started = time.perf_counter()
        done = not self._overwrite and is_done(case)
        if done:
            return Reading(None, time.perf_counter() - started)
        if check is not None:
            check(case.image)
        volume = read_volume(case.image)
        return Reading(volume, time.perf_counter() - started, image_warnings(case.image, volume))
