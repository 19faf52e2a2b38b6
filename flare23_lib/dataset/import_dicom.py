"""DICOM series of a clinic as a cohort: images and annotations as NIfTI, with a table of where they come from.

Cases are named after a hash of their Series Instance UID: stable when more series are imported, and nobody's name.
Annotations are segmentations (SEG) and structure sets (RTSTRUCT) that refer to a series. A table of names gives their
structures values; a name that is not in it is listed, never guessed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flare23_lib.errors import CohortError, ImageError, StoreError, first_line
from flare23_lib.io.dicom import Irregular, Series
from flare23_lib.io.dicom_search import Annotation, DicomSearch, find_series
from flare23_lib.io.dicom_seg import Segment, read_seg
from flare23_lib.io.images import read_header
from flare23_lib.io.label_tables import Structure, header_extension, label_table
from flare23_lib.io.nifti import Volume, read_volume, write_volume
from flare23_lib.io.rtstruct import read_rtstruct
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

COLUMNS = [
    "case", "image", "label", "patient", "study", "series", "number", "description", "slices", "annotations",
    "structures", "tiny_contours", "overlapping_voxels", "warnings", "problem",
]  # fmt: skip

SOURCES = "sources.csv"

READERS = {"SEG": read_seg, "RTSTRUCT": read_rtstruct}


@dataclass(frozen=True)
class NameTable:
    """Labels, and which value a normalized name or alias stands for."""

    table: tuple[Structure, ...]
    values: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> NameTable:
        """Read a CSV with the columns `name`, `value` and `aliases` (separated by semicolons; may be missing);
        CohortError if it cannot be read, a value is no number from 1 to 254, or a name stands for two values."""
        try:
            if not (rows := read_csv(path)):
                raise ValueError("it has no row")
            names, numbers = [row["name"].strip() for row in rows], [int(row["value"]) for row in rows]
        except (StoreError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CohortError(f"{path}: is no table of the columns name, value and aliases ({error})") from error
        values: dict[str, int] = {}
        for row, name, value in zip(rows, names, numbers, strict=True):
            if not 1 <= value <= 254:
                raise CohortError(f"{path}: the value {value} of {name} is not from 1 to 254")
            for text in (name, *(row.get("aliases") or "").split(";")):
                key = normalized(text)
                if key and values.setdefault(key, value) != value:
                    raise CohortError(f"{path}: {text.strip()!r} stands for {values[key]} and for {value}")
        return cls(label_table(names, numbers), values)


def normalized(name: str) -> str:
    """Return a name in small letters of any script, with single spaces for whatever is no letter or digit."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", name).casefold()))


def import_dicom(
    inputs: Path, output: Path, names: NameTable | None = None, irregular: Irregular = "refuse"
) -> tuple[list[dict[str, object]], Counter[str]]:
    """Write every CT volume in a folder or archive as NIfTI, and its annotations as label maps.

    Writes `images/{case}_0000.nii.gz`, `labels/{case}.nii.gz`, `sources.csv` (a row for each series, with what could
    not be read; rows of earlier imports into the folder are kept) and `unmatched_names.csv`, of this import. Images
    that are there are not written again, unless the series has other slices or values now. Without a table of names
    only images are written, and all names are listed as unmatched. ImageError if there is no CT volume.

    Returns:
        The new rows of sources.csv, and the names that are not in the table, with how many annotations have them.
    """
    found = find_series(inputs)
    volumes = [replace(series, irregular=irregular) for series in found.series if series.is_volume]
    if not volumes:
        raise ImageError(f"{inputs}: holds no CT series")
    unmatched: Counter[str] = Counter()
    cases = _cases_of(volumes, output)
    rows = [
        _import_series(case, series, found, output, names, unmatched)
        for case, series in progress(list(zip(cases, volumes, strict=True)))
    ]
    known = {series.uid for series in volumes}
    for annotation in found.annotations:
        if not known & set(annotation.series):
            rows.append({"annotations": str(annotation.file), "problem": "refers to no CT series that was found"})
    rows = [dict.fromkeys(COLUMNS, "") | row for row in rows]
    write_csv(output / SOURCES, COLUMNS, _with_earlier(output / SOURCES, rows))
    table = [{"name": name, "annotations": count} for name, count in sorted(unmatched.items())]
    write_csv(output / "unmatched_names.csv", ["name", "annotations"], table)
    return rows, unmatched


def _with_earlier(path: Path, rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return new rows behind those of earlier imports.

    Of a series that was imported again only the new row is left, but for an earlier one with a label that is still
    there where the new one has none; of an annotation whose series was not there then, that of its series.
    """
    earlier: dict[str, dict[str, object]] = {}
    for old in read_csv(path) if path.exists() else ():
        earlier[old.get("case") or old.get("annotations", "")] = {name: old.get(name, "") for name in COLUMNS}
    made = []
    for row in rows:
        before = earlier.pop(str(row["case"] or row["annotations"]), {})
        label = before.get("label")
        made.append(before if label and not row["label"] and (path.parent / str(label)).exists() else row)
        for name in str(row["annotations"]).split("; "):
            earlier.pop(name, None)
    return [*earlier.values(), *made]


def case_of(series: Series, with_spacing: bool = False, with_patient: bool = False) -> str:
    """Return the name of a series' case; parts of one series, of different orientation or matrix, differ.

    With `with_spacing` parts of different pixel spacing or distance of slices differ, too; with `with_patient` series
    of several patients under one UID.
    """
    text = f"{series.uid} {series.orientation} {series.matrix}"
    if with_spacing:
        text += f" {series.pixel_spacing} {series.distance:.4f}"
    if with_patient:
        text += f" of {series.patient}"
    return "ct_" + hashlib.sha256(text.encode()).hexdigest()[:10]


def _cases_of(volumes: Sequence[Series], output: Path) -> list[str]:
    """Return the case of each series.

    Of parts of a series that differ in spacing alone, and of patients who share a UID, only one that was imported
    before has the plain name.
    """
    sources = output / SOURCES
    rows = read_csv(sources) if sources.exists() else []
    earlier = {row["case"]: row["patient"] for row in rows if row.get("patient")}
    alike = Counter((case_of(series), series.patient) for series in volumes)
    patients = Counter(case for case, _ in {*alike, *earlier.items()})
    cases = []
    for series in volumes:
        plain = case_of(series)
        shared = patients[plain] > 1 and earlier.get(plain) != series.patient
        case = case_of(series, with_patient=shared)
        if alike[plain, series.patient] > 1:
            image, spacing = _image(output, case), (series.distance, *series.pixel_spacing)
            if not (image.exists() and np.allclose(read_header(image)[0].spacing, spacing, atol=1e-3)):
                case = case_of(series, with_spacing=True, with_patient=shared)
        cases.append(case)
    return cases


def _annotations_of(series: Series, found: DicomSearch) -> list[Annotation]:
    """Return the annotations that refer to a series; of the same patient where several share its UID."""
    shared = any(other.uid == series.uid and other.patient != series.patient for other in found.series)
    of_uid = [one for one in found.annotations if series.uid in one.series]
    return [one for one in of_uid if one.patient == series.patient] if shared else of_uid


def _image(output: Path, case: str) -> Path:
    return output / "images" / f"{case}_0000.nii.gz"


def _import_series(
    case: str, series: Series, found: DicomSearch, output: Path, names: NameTable | None, unmatched: Counter[str]
) -> dict[str, object]:
    image, label = _image(output, case), output / "labels" / f"{case}.nii.gz"
    annotations = _annotations_of(series, found)
    row: dict[str, object] = {
        "case": case, "patient": series.patient, "study": series.study, "series": series.uid,
        "number": series.number, "description": series.description, "slices": len(series.frames),
        "annotations": "; ".join(str(one.file) for one in annotations),
    }  # fmt: skip
    try:
        volume = series.read()
        warnings = series.warnings()
        is_there = image.exists()
        moved = is_there and read_header(image)[0].difference(volume.geometry) is not None
        if not is_there or moved or not np.array_equal(read_volume(image).array, volume.array):
            write_volume(image, volume.array, volume.header)
            if moved:
                warnings = (*warnings, "had other slices in an earlier import; its label of then is deleted")
                label.unlink(missing_ok=True)
            elif is_there:
                warnings = (*warnings, "had other values in an earlier import")
        row["image"] = str(image.relative_to(output))
        row["warnings"] = "; ".join(warnings)
        segments = [segment for one in annotations for segment in _read_segments(one, series)]
        for segment in segments:
            if names is None or normalized(segment.name) not in names.values:
                unmatched[segment.name] += 1
        if names is not None and segments:
            row |= _write_labels(label, series, volume, segments, names)
            row["label"] = str(label.relative_to(output))
    except ImageError as error:
        row["problem"] = str(error)
        log.error("%s", error)
    return row


def _read_segments(annotation: Annotation, series: Series) -> list[Segment]:
    """Read the structures of an annotation onto a series; ImageError if it is damaged, or does not fit."""
    try:
        return READERS[annotation.modality](annotation.file, series)
    except ImageError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise ImageError(f"{annotation.file}: cannot be read ({first_line(error)})") from error


def _write_labels(
    path: Path, series: Series, volume: Volume, segments: Sequence[Segment], names: NameTable
) -> dict[str, object]:
    """Write the structures that the table names, later rows of it over earlier ones; returns what the row says."""
    labels = np.zeros(volume.array.shape, np.uint8)
    written, tiny, overlap = [], 0, 0
    for structure in names.table:
        for segment in segments:
            if names.values.get(normalized(segment.name)) != structure.value:
                continue
            if series.is_interpolated:
                raise ImageError(f"{segment.name}: cannot lie on a series that was interpolated")
            under = labels[segment.mask]
            overlap += int(np.count_nonzero((under != 0) & (under != structure.value)))
            labels[segment.mask] = structure.value
            written.append(segment.name)
            tiny += segment.tiny
    write_volume(path, labels, volume.header, header_extension(names.table))
    return {"structures": "; ".join(written), "tiny_contours": tiny, "overlapping_voxels": overlap}
