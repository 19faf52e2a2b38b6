"""The series in a folder of DICOM files or an archive: files by their content, slices by what their headers say.

`choose_series` takes those that are segmented, or lists what there is.
"""

from __future__ import annotations

import contextlib
import logging
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from flare23_lib.errors import ImageError, without_file
from flare23_lib.io.dicom import MIN_SLICES, DicomFile, DicomFrame, Series, drop_undecodable, frame_attributes
from flare23_lib.io.folders import files_below
from flare23_lib.io.images import is_dicom
from flare23_lib.io.slices import SAME_DIRECTION

log = logging.getLogger(__name__)

TAGS = [
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "Modality", "ImageType", "SeriesNumber", "SeriesDescription", "InstanceNumber", "NumberOfFrames", "Rows",
    "Columns",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SpecificCharacterSet",
]  # fmt: skip
"""What the search reads of a file."""


UNREADABLE = (
    OSError, zipfile.BadZipFile, zlib.error, InvalidDicomError, BytesLengthException, EOFError, ValueError,
    RuntimeError,
)  # fmt: skip
"""What is raised for a broken file or archive; the last for one that is encrypted, or packed otherwise."""

DAMAGED = "a file with a damaged header"


@dataclass(frozen=True)
class Annotation:
    """A segmentation or structure set, and the series (by UID) that it refers to, of a patient (by ID)."""

    file: DicomFile
    modality: str
    series: tuple[str, ...]
    patient: str


@dataclass
class DicomSearch:
    """What a search found: series, annotations of series, and files that are neither with the reason.

    `damaged` counts CT images that cannot be part of their series, by Patient ID and Series Instance UID.
    """

    series: list[Series] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    damaged: Counter[tuple[str, str]] = field(default_factory=Counter)

    def pass_over(self, dataset: Dataset, what: str, count: int = 1) -> None:
        """Count an image, or frames of one, that cannot be used."""
        modality = dataset.get("Modality", "no modality")
        self.passed_over[f"{what} ({modality})"] += count
        if modality == "CT" and "LOCALIZER" not in (dataset.get("ImageType") or []):
            self.damaged[_series_key(dataset)] += count


def files_of(root: Path) -> Iterator[DicomFile]:
    """Give all files of a folder and its subfolders, of a zip archive, or the file itself; no hidden ones."""
    if root.is_dir():
        for path in sorted(map(Path, files_below(str(root)))):
            if path.is_file() or _is_dead_link(path):
                yield from files_of(path)
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            for member in sorted(archive.namelist()):
                name = Path(member).name
                if not member.endswith("/") and not name.startswith(".") and "__MACOSX" not in Path(member).parts:
                    yield DicomFile(root, member)
    else:
        yield DicomFile(root)


def _is_dead_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def find_series(root: Path) -> DicomSearch:
    """Group the DICOM images below a folder, in a zip archive or in a file into series.

    Files are known by their content, whatever their names. Slices are grouped by Patient ID and Series Instance UID,
    then by orientation, matrix and pixel spacing. A file that is there twice (same patient, UIDs, position, number)
    counts once. What is there beside volumes is logged in one line. ImageError if there is nothing, or a file cannot
    be read.
    """
    if not root.exists():
        raise ImageError(f"{root}: there is no such file or folder")
    found, seen = DicomSearch(), set()
    groups: dict[tuple[str, str], list[_SliceGroup]] = {}
    for file in files_of(root):
        if _is_dead_link(file.path):
            found.passed_over["dead link"] += 1
            continue
        try:
            start = file.start(132)
            if not is_dicom(start):
                found.passed_over["no DICOM file" if start else "empty file"] += 1
                continue
            with file.open() as handle:
                dataset = pydicom.dcmread(handle, stop_before_pixels=True, specific_tags=TAGS, force=True)
        except UNREADABLE as error:
            raise ImageError(f"{file}: cannot be read ({without_file(error)})") from error
        is_damaged = drop_undecodable(dataset)
        if dataset.get("Modality") in ("SEG", "RTSTRUCT"):
            series: list[str] = []
            with contextlib.suppress(Exception):  # those before the damage in its header
                series.extend(_referenced_series(dataset))
            patient = str(dataset.get("PatientID", ""))
            found.annotations.append(Annotation(file, str(dataset.Modality), tuple(series), patient))
        elif is_damaged:
            found.pass_over(dataset, DAMAGED)
        elif "Rows" not in dataset:
            found.pass_over(dataset, "no image")
        elif (image := _image_key(dataset)) in seen:
            found.passed_over["a second copy of an image"] += 1
        else:
            if dataset.get("SOPInstanceUID"):  # else nothing tells copies from other images
                seen.add(image)
            _group(groups, file, dataset, found)
    found.series = sorted(
        (series for key, parts in groups.items() for series in _parts(root, parts, found.damaged[key])),
        key=lambda series: (series.patient, series.study, _as_number(series.number), series.uid, -len(series.frames)),
    )
    if any(series.is_volume for series in found.series) and (others := _what_else(found)):
        log.info("%s: holds beside CT volumes %s", root, others)
    return found


def _series_key(dataset: Dataset) -> tuple[str, str]:
    """Return what tells a series from others; UIDs repeat where names were removed by a template."""
    return str(dataset.get("PatientID", "")), str(dataset.get("SeriesInstanceUID", ""))


def _image_key(dataset: Dataset) -> tuple[str, ...]:
    names = ("SOPInstanceUID", "ImagePositionPatient", "InstanceNumber")
    return *_series_key(dataset), *(str(dataset.get(name)) for name in names)


def _parts(root: Path, groups: Sequence[_SliceGroup], damaged: int) -> list[Series]:
    """Return the parts of a series, its volumes with the number of its images that are part of none."""
    parts = [_series(root, group) for group in groups]
    others = [part for part in parts if part.modality == "CT" and not part.is_localizer and not part.is_volume]
    left_out = damaged + sum(len(part.frames) for part in others)
    return [replace(part, left_out=left_out) if part.is_volume else part for part in parts]


def _referenced_series(dataset: Dataset) -> Iterator[str]:
    """Give the UIDs of the series that a segmentation or structure set refers to."""
    for series in dataset.get("ReferencedSeriesSequence", []):
        if "SeriesInstanceUID" in series:  # not in a file that was cut off
            yield str(series.SeriesInstanceUID)
    for frame in dataset.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                if "SeriesInstanceUID" not in series:
                    continue
                yield str(series.SeriesInstanceUID)


@dataclass
class _SliceGroup:
    dataset: Dataset
    shape: tuple[int, int]
    orientation: np.ndarray
    spacing: tuple[float, float]
    frames: list[DicomFrame] = field(default_factory=list)


def _group(
    groups: dict[tuple[str, str], list[_SliceGroup]], file: DicomFile, dataset: Dataset, found: DicomSearch
) -> None:
    """Put the frames of a file into the groups they belong to."""
    try:
        count, shape = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
        if min(count, *shape) < 1:
            raise ValueError("no image")
        has_positions = count == 1 or len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) >= count
    except (AttributeError, TypeError, ValueError):
        found.pass_over(dataset, DAMAGED)
        return
    if not has_positions:
        found.pass_over(dataset, "frames without positions of their own")
        return
    for index in range(count):
        fault = "an image without position"
        try:
            position, orientation, spacing = _plane(dataset, index)
            fault = "an image whose slope or intercept is no number"
            slope, intercept = _rescale(dataset, index)
        except Exception:  # pydicom fails in many ways
            found.pass_over(dataset, fault, count - index)
            return
        several = groups.setdefault(_series_key(dataset), [])
        for group in several:
            same = np.abs(group.orientation - orientation).max() < SAME_DIRECTION
            if same and group.shape == shape and np.allclose(group.spacing, spacing, rtol=1e-4):
                break
        else:
            group = _SliceGroup(dataset, shape, orientation, spacing)
            several.append(group)
        number = str(dataset.get("InstanceNumber", "?"))
        number += f" frame {index + 1}" if "NumberOfFrames" in dataset else ""
        uid = str(dataset.get("SOPInstanceUID", ""))
        group.frames.append(DicomFrame(file, index, uid, number, tuple(position), slope, intercept))


def _plane(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Return position, orientation (2, 3) and pixel spacing of a frame."""
    position = frame_attributes(dataset, index, "PlanePositionSequence").ImagePositionPatient
    orientation = frame_attributes(dataset, index, "PlaneOrientationSequence").ImageOrientationPatient
    spacing = frame_attributes(dataset, index, "PixelMeasuresSequence").PixelSpacing
    directions = np.array([float(value) for value in orientation]).reshape(2, 3)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    rows, columns = (float(value) for value in spacing)
    place = np.array([float(value) for value in position]).reshape(3)
    is_finite = np.isfinite((*directions.ravel(), *place, rows, columns)).all()
    if not (is_finite and min(rows, columns) > 0 and abs(directions[0] @ directions[1]) < 0.01):
        raise ValueError("no plane")
    return place, directions, (rows, columns)


def _rescale(dataset: Dataset, index: int) -> tuple[float, float]:
    """Return slope and intercept of a frame."""
    values = frame_attributes(dataset, index, "PixelValueTransformationSequence")
    slope, intercept = float(values.get("RescaleSlope", 1)), float(values.get("RescaleIntercept", 0))
    if not np.isfinite((slope, intercept)).all():
        raise ValueError("no number")
    return slope, intercept


def _series(root: Path, group: _SliceGroup) -> Series:
    dataset, (along_row, along_column) = group.dataset, group.orientation
    normal = np.cross(along_row, along_column)
    image_type = dataset.get("ImageType") or []
    return Series(
        root=root,
        uid=str(dataset.get("SeriesInstanceUID", "")),
        study=str(dataset.get("StudyInstanceUID", "")),
        patient=str(dataset.get("PatientID", "")),
        number=str(dataset.get("SeriesNumber") or ""),
        description=str(dataset.get("SeriesDescription") or ""),
        modality=str(dataset.get("Modality", "")),
        is_localizer="LOCALIZER" in image_type,
        orientation=(tuple(along_row.tolist()), tuple(along_column.tolist())),
        matrix=group.shape,
        pixel_spacing=group.spacing,
        frames=tuple(sorted(group.frames, key=lambda frame: float(np.dot(frame.position, normal)))),
    )


def _as_number(text: str) -> tuple[float, str]:
    return (float(text), text) if text.lstrip("-").isdigit() else (float("inf"), text)


def choose_series(found: DicomSearch, root: Path, wanted: str | None) -> list[Series]:
    """Return the series to segment; ImageError for no CT volume, several of them and no choice, or no such series.

    `wanted` is "all", a UID, or a number of the list that the error shows (`numbers_of`); None for the only one.
    """
    volumes = [series for series in found.series if series.is_volume]
    if not volumes:
        raise ImageError(f"{root}: holds no CT series ({_what_else(found) or 'it is empty'})")
    if wanted == "all":
        return volumes
    if wanted is None:
        if len(volumes) > 1:
            raise ImageError(
                f"{root}: holds {len(volumes)} CT series; choose with --series NUMBER, UID or all\n"
                + format_series(volumes)
            )
        return volumes
    named = zip(numbers_of(volumes), volumes, strict=True)
    chosen = [volume for number, volume in named if wanted in (number, volume.uid)]
    if len(chosen) != 1:
        problem = "is no series" if not chosen else f"stands for {len(chosen)} of them, parts or of several patients"
        raise ImageError(f"{root}: {wanted!r} {problem}; the series are\n{format_series(volumes)}")
    return chosen


def numbers_of(series: Sequence[Series]) -> list[str]:
    """Return the numbers that series are known by: their Series Numbers or, unless each has its own, 1, 2, 3, ..."""
    numbers = [one.number for one in series]
    if all(numbers) and len(set(numbers)) == len(numbers):
        return numbers
    return [str(index) for index in range(1, len(series) + 1)]


def format_series(series: Sequence[Series]) -> str:
    """Return a numbered list of series for users."""
    rows = [("number", "series", "description", "slices", "matrix", "spacing (mm)", "folder", "UID")]
    for number, one in zip(numbers_of(series), series, strict=True):
        columns = "x".join(f"{value:.4g}" for value in (*one.pixel_spacing[::-1], one.distance))
        matrix = f"{one.matrix[1]}x{one.matrix[0]}"
        slices, folder = str(len(one.frames)), str(one.place)
        rows.append((number, one.number, one.description[:40], slices, matrix, columns, folder, one.uid))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(f"  {line}" for line in lines)


def _what_else(found: DicomSearch) -> str:
    """Return what was found but volumes; empty for nothing."""
    counts = found.passed_over.copy()
    if found.annotations:
        counts["segmentation or structure set"] = len(found.annotations)
    for series in found.series:
        if series.is_volume:
            continue
        kind = "localizer" if series.modality == "CT" else f"series of modality {series.modality or 'unknown'}"
        if series.modality == "CT" and not series.is_localizer:
            kind = f"CT series of fewer than {MIN_SLICES} slices"
        counts[kind] += 1
    return ", ".join(f"{count} x {what}" for what, count in counts.items())
