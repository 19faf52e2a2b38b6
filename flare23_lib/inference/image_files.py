"""Which images are segmented, where their labels go, and what makes an image no sound CT.

This module imports no torch: the first image is read while torch is being imported.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.cache.entries import Shard, fingerprint
from flare23_lib.dataset.image_info import header_info
from flare23_lib.dataset.quality import file_issues, image_issues
from flare23_lib.errors import ImageError
from flare23_lib.io.identity import file_identity
from flare23_lib.io.images import IMAGE_SUFFIXES, Image, files_of, is_dicom, own_warnings
from flare23_lib.io.nifti import Stream, Volume, stem
from flare23_lib.io.patterns import check_utf8
from flare23_lib.runtime.machine import usable_memory

if TYPE_CHECKING:
    from flare23_lib.io.dicom import Irregular, Series

log = logging.getLogger(__name__)

CHANNEL_SUFFIX = "_0000"
"""What nnU-Net and FLARE append to an image's name, and not to its labels' name."""

NAMELESS = f"its name has nothing before {CHANNEL_SUFFIX}, so that its case has none"

MB = 10**6

HOST_BASE = 700 * MB
"""A process that has imported torch and run a network, without weights: 620 MB were measured, on a CPU."""

DEFAULT_MEMORY = 8000
"""Limit of memory on the host, in MB, of the command line and in Python."""

DERIVED = (".seg.dcm", ".rtstruct.dcm")
"""Endings of DICOM files that are made of labels."""

DICOM_SUFFIXES = (".dcm", ".ima", ".zip")

WRITING = 2
"""Copies of a label map that writing it takes, in addition to the map."""


@dataclass(frozen=True)
class Extras:
    """What is made of an image in addition to its labels.

    Attributes:
        votes: how many of the mirrored passes agree at every voxel.
        soft: soft labels: the two strongest classes where the model hesitates between them.
    """

    votes: bool = False
    soft: bool = False

    @property
    def voxel_bytes(self) -> int:
        """Bytes that a voxel takes in labels and extras together."""
        return 1 + self.votes + 4 * self.soft

    @property
    def writing_bytes(self) -> int:
        """Bytes by voxel that writing the largest of them takes, in addition to it."""
        return WRITING * (4 if self.soft else 1)


NO_EXTRAS: Extras = Extras()


@dataclass(frozen=True)
class PredictionCase:
    """An image to segment, a file or a series of DICOM files, and the NIfTI file that its labels go to.

    Label files of other kinds are named after that one.
    """

    name: str
    image: Image
    labels: Path
    extras: Extras = NO_EXTRAS

    @cached_property
    def identity(self) -> str:
        """What tells this image, as it is when this is asked first, from others; ImageError if it cannot be read."""
        image = self.image
        if isinstance(image, Path):
            return fingerprint(*map(file_identity, files_of(image)))
        slices = [(frame.uid, frame.index, frame.position) for frame in image.frames]
        earlier = fingerprint(image.uid, image.orientation, image.matrix, slices)
        values = [(frame.slope, frame.intercept) for frame in image.frames]
        sizes = [file.size for file in image.files]
        return f"{earlier}-{fingerprint(image.patient, image.pixel_spacing, values, sizes)}"

    def beside(self, suffix: str) -> Path:
        """Return the file beside the labels that has another suffix, such as `.seg.dcm`."""
        return self.labels.with_name((stem(self.labels) or self.labels.name) + suffix)


def default_memory() -> int | None:
    """Return the limit on the host where none is given, in MB; None for what is usable here if that is less."""
    return None if usable_memory() < DEFAULT_MEMORY * MB else DEFAULT_MEMORY


def case_name(path: Path) -> str | None:
    """Return the name of an image's case, `X` for `X_0000.nii.gz`; None if the name is not that of an image file.

    It is empty for `_0000.nii.gz`.
    """
    name = stem(path, IMAGE_SUFFIXES)
    return None if name is None else name.removesuffix(CHANNEL_SUFFIX)


def find_cases(
    inputs: Path,
    output: Path,
    shard: Shard | None = None,
    series: str | None = None,
    irregular: Irregular = "refuse",
) -> list[PredictionCase]:
    """List the images of a file or folder, sorted, with the file for each one's labels.

    Args:
        inputs: an image file (NIfTI, NRRD, MetaImage), or a folder of them, links among them even if they lead
            nowhere; hidden ones are not taken, and one whose name ends so in capitals is passed over with a warning.
            Or a DICOM file, a zip archive, or a folder without image files: the DICOM series in it.
        output: a folder; for a single image it may be a NIfTI file's name.
        shard: only the cases whose name hashes to it; None for all.
        series: which DICOM series are taken, as `find_series_at`.
        irregular: likewise.

    Raises:
        ImageError: nothing there, two images for one name, a name that is not UTF-8, or labels that would replace
            their image.
    """
    pairs: list[tuple[str, Image]]
    if not inputs.exists():
        raise ImageError(f"{inputs}: no such file or folder")
    files = _image_files(inputs) if inputs.is_dir() else [inputs] if case_name(inputs) else []
    if not files and (inputs.is_dir() or _may_be_dicom(inputs)):
        try:
            pairs = [*find_series_at(inputs, series, irregular)]
        except ImageError as error:
            below = next((path for path in sorted(inputs.glob("*/*")) if case_name(path)), None)
            if below is None:
                raise
            first, *rows = str(error).split("\n")
            raise ImageError("\n".join([f"{first}; {below.parent} holds images: give that folder", *rows])) from error
    elif files:
        if inputs.is_dir() and (other := _dicom_among(inputs, files)):
            raise ImageError(f"{inputs}: holds images ({files[0].name}) and DICOM ({other.name}); give one of them")
        pairs = [(name, path) for path in files if (name := case_name(path))]
    elif case_name(inputs) == "":
        raise ImageError(f"{inputs}: {NAMELESS}")
    else:
        raise ImageError(f"{inputs}: is no DICOM, and is not named {', '.join('*' + end for end in IMAGE_SUFFIXES)}")
    is_file = bool(stem(output)) and not output.is_dir()
    if is_file and (len(pairs) > 1 or (inputs.is_dir() and files)):
        raise ImageError(f"{output}: must be a folder, as {inputs} is one")
    cases = [PredictionCase(name, image, output / f"{name}.nii.gz") for name, image in pairs]
    if is_file:
        cases = [PredictionCase(stem(output) or name, image, output) for name, image in pairs]
    if inputs.is_dir() and output.is_dir() and output.samefile(inputs):
        raise ImageError(f"{output}: holds the images; give another folder for the labels")
    for _, image in pairs:
        check_utf8(image, ImageError)
    _refuse_collisions(cases)
    return [case for case in cases if shard is None or case.name in shard]


def _image_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and not path.is_dir()]
    images = [path for path in files if case_name(path)]
    for path in files:
        if path.name.lower().endswith(IMAGE_SUFFIXES) and path not in images:
            reason = NAMELESS if case_name(path) == "" else "the names of images end in small letters"
            log.warning("%s: is skipped; %s", path, reason)
    return images


def _dicom_among(folder: Path, images: Collection[Path]) -> Path | None:
    """Return a file of a folder that is DICOM, but for segmentations and structure sets of ours; None without one."""
    for path in sorted(folder.iterdir()):
        if path in images or path.name.endswith(DERIVED) or path.name.startswith("."):
            continue
        with contextlib.suppress(OSError), path.open("rb") as handle:  # such as a folder, or one that may not be read
            if is_dicom(handle.read(132)):
                return path
    return None


def _may_be_dicom(path: Path) -> bool:
    """Tell by its first bytes whether a file is DICOM or a zip archive."""
    with path.open("rb") as handle:
        start = handle.read(132)
    return start[:4] == b"PK\3\4" or is_dicom(start)


def find_series_at(inputs: Path, wanted: str | None, irregular: Irregular) -> list[tuple[str, Series]]:
    """Return the wanted DICOM series below a folder, in an archive or in a file, each with its case's name.

    A folder with one volume gives its name to the case; of several each has its number (`numbers_of`) behind it,
    however many are wanted. Volumes of several patients have the names of their folders below the input instead,
    joined, and the number where these are not enough.

    Args:
        wanted: "all", a number of the list or a Series Instance UID; None if there must be one.
        irregular: "refuse", or "resample" for slices that are not equally spaced.

    Raises:
        ImageError: as `choose_series`, or pydicom is not installed.
    """
    if not inputs.exists():
        raise ImageError(f"{inputs}: no such file or folder")
    try:
        from flare23_lib.io.dicom_search import choose_series, find_series, numbers_of
    except ModuleNotFoundError as error:
        raise ImageError(
            f"{inputs}: holds no image files, and for DICOM {error.name} is missing (pip install '.[dicom]')"
        ) from error

    found = find_series(inputs)
    chosen = choose_series(found, inputs, wanted)
    volumes = [series for series in found.series if series.is_volume]
    place = inputs.resolve() if inputs.name in ("", "..") else inputs.absolute()
    name = place.name if place.is_dir() or place.suffix.lower() not in DICOM_SUFFIXES else place.stem
    names = [name] * len(volumes)
    if len({series.patient for series in volumes}) > 1:
        names = ["_".join(series.place.parts) or name for series in volumes]
    images = []
    for number, own, series in zip(numbers_of(volumes), names, volumes, strict=True):
        if series in chosen:
            ending = f"_{number}" if names.count(own) > 1 else ""
            images.append((own + ending, replace(series, irregular=irregular)))
    return images


def _refuse_collisions(cases: Iterable[PredictionCase]) -> None:
    taken: dict[Path, Image] = {}
    for case in cases:
        if isinstance(case.image, Path) and case.labels.exists() and case.labels.samefile(case.image):
            raise ImageError(f"{case.image}: its labels would replace it; give another output folder")
        if case.labels in taken:
            raise ImageError(f"{case.image}: would give the same {case.labels.name} as {taken[case.labels]}")
        taken[case.labels] = case.image


def image_warnings(image: Image, volume: Volume) -> tuple[str, ...]:
    """Return what the scan of a cohort would report of an image that was read, a line each."""
    info = header_info(Stream(Path(str(image)), volume.header, BytesIO()))
    if volume.array.size:
        info = replace(info, low=float(volume.array.min()), high=float(volume.array.max()))
    found = (*file_issues(info, has_twin=False, shear_limit=math.inf), *image_issues(info))
    return (*own_warnings(image), *(message for _, message in found))
