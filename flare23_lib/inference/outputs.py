"""What is written for a segmented case: label files of several kinds, numbers, a picture.

Everything is made from the case's labels, so that a kind that is wanted later needs no new segmentation. This module
imports no torch, and SimpleITK and pydicom only when they are needed.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from flare23_lib.cache.entries import fingerprint
from flare23_lib.choices import OutputType
from flare23_lib.errors import ImageError, UsageError, first_line
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.io.images import read_header, read_image
from flare23_lib.io.label_tables import (
    STEM,
    Structure,
    check_label_tables,
    header_extension,
    read_label_table,
    read_metadata,
    write_label_tables,
)
from flare23_lib.io.nifti import Volume, read_volume, write_volume

log = logging.getLogger(__name__)

Draw = Callable[[Path, str, Volume, np.ndarray, Sequence[Structure]], None]
"""Draws a case's overview: file, title, image, labels (z, y, x), label table."""

SUFFIXES: dict[OutputType, str] = {"nifti": ".nii.gz", "dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
PREVIEW, STATISTICS = ".png", ".statistics.json"

MODEL, IMAGE, PRECISION = "MadeBy", "Image", "Precision"
"""Names of the metadata in a label file: the model and options that made it, the image, what the network computed in.

Labels of another precision are kept: `auto` is another one on another device.
"""

INCOMPLETE = ("empty_file", "truncated_gzip", "corrupt_gzip", "wrong_length")
"""Faults of label files that are made again; other files are not replaced unasked."""


def dicom_of(types: Sequence[OutputType]) -> list[OutputType]:
    """Return the kinds of label files that are DICOM."""
    return [kind for kind in types if kind != "nifti"]


def keep_labels(labels: np.ndarray, table: Sequence[Structure]) -> np.ndarray:
    """Return label values (uint8) without those that are not in a table."""
    kept = np.zeros(256, np.uint8)
    values = [structure.value for structure in table]
    kept[values] = values
    return kept[labels]


def _class_file(case: PredictionCase, structure: Structure) -> Path:
    """Return the file of one label; what a file's name cannot hold becomes `_`."""
    name = re.sub(r"[/\\\0]|^\.", "_", structure.name)
    return case.beside("") / f"{name}.nii.gz"


def _exists(path: Path, held: str) -> ImageError:
    return ImageError(f"{path}: exists and holds {held}; give another output, or replace it with --overwrite")


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each case.

    Files are found and written by `table` and `made_by`; a reader of cases that are written elsewhere has neither.

    Attributes:
        table: labels that are kept; every other becomes background.
        model: name of the model, for DICOM files and statistics.
        made_by: the model's weights and options, kept in label files with the image's identity: those of others are
            not taken for ours.
        types: kinds of label files.
        per_class: also a NIfTI file (0 and 1) of each label, in a folder named after the case.
        statistics: `X.statistics.json`.
        draw: draws `X.png`; None for no picture.
        precision: what the network computes in, for label files.
    """

    table: tuple[Structure, ...] = ()
    model: str = ""
    made_by: str = ""
    types: tuple[OutputType, ...] = ("nifti",)
    per_class: bool = False
    statistics: bool = False
    draw: Draw | None = None
    precision: str = ""

    @property
    def needs_image(self) -> bool:
        """Whether the image is read again when the labels are there."""
        return self.statistics or self.draw is not None

    def bytes(self, voxels: int, image_bytes: int) -> int:
        """Estimate the memory that the outputs other than NIfTI take while they are written."""
        dicom = 4 * voxels if dicom_of(self.types) else 0
        return max(dicom, 2 * image_bytes + 3 * voxels if self.needs_image else 0, voxels if self.per_class else 0)

    def files(self, case: PredictionCase) -> list[Path]:
        """Return the files that are wanted of a case beside its NIfTI labels."""
        files = self._dicom_files(case)
        if self.per_class:
            files += [_class_file(case, structure) for structure in self.table]
        files += [case.beside(STATISTICS)] if self.statistics else []
        return files + ([case.beside(PREVIEW)] if self.draw else [])

    def first(self, case: PredictionCase) -> Path:
        """Return the file to name in messages."""
        return case.labels if "nifti" in self.types else self.files(case)[0]

    def find(self, case: PredictionCase) -> tuple[bool, Volume | None]:
        """Tell whether a case needs no segmentation; and give its labels if other files are to be made from them.

        Labels count that read to their end, lie on their image and were made from it by the same model and options.

        Raises:
            ImageError: a file is an image of its own, or holds other labels, or those of another model or image, and
                is not replaced unasked; or the image cannot be read.
        """
        if "nifti" not in self.types or not case.labels.exists():
            return self._find_dicom(case), None
        try:
            labels = read_volume(case.labels)
        except ImageError as error:
            if error.kind in INCOMPLETE:
                return False, None
            raise _exists(case.labels, f"what is no label map ({error})") from error
        if held := next(self._objections(case, labels), None):
            raise _exists(case.labels, held)
        return True, labels if self._missing(case) else None

    def _missing(self, case: PredictionCase) -> list[Path]:
        """Return the files to make beside NIfTI labels that exist: those not there, or not made from the labels."""
        made = case.labels.stat().st_mtime_ns
        return [file for file in self.files(case) if not self._is_current(case, file, made)]

    def kept_precision(self, case: PredictionCase) -> str:
        """Return what the network computed in for labels that are there; empty where they do not say."""
        with contextlib.suppress(ImageError):
            return read_metadata(case.labels).get(PRECISION, "")
        return ""

    def _objections(self, case: PredictionCase, labels: Volume) -> Iterator[str]:
        """Yield what a label file holds that is not what is wanted of a case."""
        on_image = labels.geometry.difference(read_header(case.image)[0]) is None
        names = {structure.value: structure.name for structure in self.table}
        found, kept, made_by = read_label_table(case.labels), read_metadata(case.labels), self._made_by(case)
        if labels.array.dtype != np.uint8:
            yield f"{labels.array.dtype} voxels, not labels"
        if found and found != names:
            yield f"other labels ({', '.join(found.values())})"
        for key, what in ((MODEL, "another model or other options"), (IMAGE, "another image")):
            if kept.get(key, made_by[key]) != made_by[key]:
                yield f"the labels of {what} ({kept[key]})"
        if not made_by.keys() <= kept.keys():
            yield "labels that do not say which model and image they are of"
        if not on_image:
            yield "labels on another grid than its image's"

    def _find_dicom(self, case: PredictionCase) -> bool:
        """Tell whether all files are there that are wanted without NIfTI labels; ImageError as `find`."""
        written = [file for file in self._dicom_files(case) if file.exists()]
        for file in written:
            if not self._is_current(case, file, 0):
                raise _exists(file, "what was made from another image, or by another model or with other options")
        newest = max((file.stat().st_mtime_ns for file in written), default=0)
        others = [file for file in self.files(case) if file not in written]
        if "nifti" in self.types and not written:  # NIfTI labels are written before other files
            for file in filter(Path.exists, others):
                raise _exists(file, "what may be of others, as there are no labels beside it")
        complete = all(self._is_current(case, file, newest) for file in others)
        return bool(written) and complete and "nifti" not in self.types

    def _dicom_files(self, case: PredictionCase) -> list[Path]:
        return [case.beside(SUFFIXES[kind]) for kind in dicom_of(self.types)]

    def _is_current(self, case: PredictionCase, file: Path, since: int) -> bool:
        """Tell whether a file is there, not older than a time in ns and, if it is DICOM, made as is wanted.

        Statistics must be ours, as the table passes over others.
        """
        if not file.exists() or file.stat().st_mtime_ns < since:
            return False
        if file == case.beside(STATISTICS):
            from flare23_lib.inference.label_statistics import read_case_statistics

            return read_case_statistics(file) is not None
        if file not in self._dicom_files(case):
            return True
        from flare23_lib.io.dicom_seg import read_made_by

        return read_made_by(file) == self._dicom_made_by(case)

    def _made_by(self, case: PredictionCase) -> dict[str, str]:
        """Return what is kept in NIfTI files of how they were made."""
        return {MODEL: self.made_by, IMAGE: case.identity}

    def _dicom_made_by(self, case: PredictionCase) -> str:
        """Return the same for DICOM, with the labels, of which those that were not found are not in the file.

        It ends with a digest of all, as DICOM has neither every letter nor room for every name.
        """
        names = [(structure.value, structure.name) for structure in self.table]
        shown = self.made_by[:200].encode("ascii", "replace").decode()
        return f"{shown}; {fingerprint(self.made_by, names, case.identity)}"

    def refuse_dicom(self, case: PredictionCase) -> None:
        """Raise ImageError if DICOM is wanted of a series of which there can be none, or its slices are faulty."""
        if not isinstance(case.image, Path):
            for kind in dicom_of(self.types):
                case.image.check_dicom_output(kind)

    def write(
        self, case: PredictionCase, labels: np.ndarray, header: nib.Nifti1Header, with_labels: bool = True
    ) -> None:
        """Write all that is wanted of a case, from uint8 file values (z, y, x) and the image's header.

        With `with_labels=False` the NIfTI file of the labels is left as it is, and so are files that are newer; else
        DICOM, statistics and pictures that are there and not wanted, which may be of earlier labels, are named in the
        log. ImageError if DICOM cannot be written, when all else is.
        """
        wanted = self.files(case) if with_labels else self._missing(case)
        if with_labels and "nifti" in self.types:
            metadata = self._made_by(case) | {PRECISION: self.precision}
            write_volume(case.labels, labels, header, header_extension(self.table, metadata))
        try:  # first, as what is older than it counts as of other labels
            self._write_dicom(case, labels, wanted)
        finally:  # whatever is wrong with the headers of the series
            self._write_others(case, labels, header, wanted)
        derived = {
            case.beside(suffix) for suffix in (SUFFIXES["dicom-seg"], SUFFIXES["rtstruct"], STATISTICS, PREVIEW)
        }
        derived.update(_class_file(case, structure) for structure in self.table)
        for file in sorted(derived.difference(self.files(case))) if with_labels else ():
            if file.exists():
                log.warning("%s: may be of earlier labels", file)

    def _write_others(
        self, case: PredictionCase, labels: np.ndarray, header: nib.Nifti1Header, wanted: Collection[Path]
    ) -> None:
        for structure in self.table:
            if (file := _class_file(case, structure)) in wanted:
                write_volume(file, (labels == structure.value).astype(np.uint8), header)
        numbers, picture = case.beside(STATISTICS), case.beside(PREVIEW)
        image = read_image(case.image) if numbers in wanted or picture in wanted else None
        if image is not None and numbers in wanted:
            from flare23_lib.inference.label_statistics import measure_labels, write_case_statistics

            write_case_statistics(numbers, case.name, str(case.image), measure_labels(labels, image, self.table))
        if image is not None and picture in wanted and self.draw is not None:
            self.draw(picture, case.name, image, labels, self.table)

    def _write_dicom(self, case: PredictionCase, labels: np.ndarray, wanted: Collection[Path]) -> None:
        kinds = [kind for kind in dicom_of(self.types) if case.beside(SUFFIXES[kind]) in wanted]
        if not kinds or isinstance(case.image, Path):
            return
        if not labels.any():
            log.warning("%s: no structure was found; DICOM knows no empty segmentation, none is written", case.image)
            for file in self._dicom_files(case):  # of earlier labels
                file.unlink(missing_ok=True)
            return
        failed: list[ImageError] = []
        for kind in kinds:
            if kind == "dicom-seg":
                from flare23_lib.io.dicom_seg import write_seg as write
            else:
                from flare23_lib.io.rtstruct import write_rtstruct as write
            file = case.beside(SUFFIXES[kind])
            try:
                write(file, case.image, labels, self.table, self.model, self._dicom_made_by(case))
            except Exception as error:  # highdicom fails in many ways
                there = f"; the labels are in {case.labels}" if "nifti" in self.types else ""
                failed.append(ImageError(f"{file}: cannot be written ({first_line(error)}){there}"))
        if failed:
            raise failed[0]


def _table(cases: Sequence[PredictionCase], output: Path, name: str) -> Path:
    """Return the file of a table of all cases beside their labels: `name`, or `X.name` beside a file X.nii.gz."""
    first = cases[0]
    return first.beside(f".{name}") if first.labels == output else first.labels.with_name(name)


def check_tables(cases: Sequence[PredictionCase], output: Path, names: bool, numbers: bool) -> None:
    """Raise StoreError if a table of others is where label tables or statistics of all cases are to be written."""
    if cases and names:
        tables = _table(cases, output, STEM)
        check_label_tables(tables.parent, tables.name)
    if cases and numbers:
        from flare23_lib.inference.label_statistics import check_statistics_table

        check_statistics_table(_table(cases, output, "statistics.csv"))


def write_names(cases: Sequence[PredictionCase], output: Path, table: Sequence[Structure]) -> None:
    """Write label tables for viewers beside the labels: `labels.csv`, or `X.labels.csv` beside a file X.nii.gz."""
    if cases:
        tables = _table(cases, output, STEM)
        write_label_tables(tables.parent, table, tables.name)


def write_numbers(cases: Sequence[PredictionCase], output: Path) -> None:
    """Write `statistics.csv` of all cases whose statistics are beside the labels; `X.statistics.csv` of that one."""
    if cases:
        from flare23_lib.inference.label_statistics import write_statistics_table

        table, own = _table(cases, output, "statistics.csv"), cases[0].beside(STATISTICS)
        files = [own] if cases[0].labels == output else table.parent.glob(f"[!.]*{STATISTICS}")
        write_statistics_table(table, filter(Path.exists, files))


def check_class_names(table: Sequence[Structure], case: PredictionCase) -> None:
    """Raise UsageError if two labels would have the same file of their own."""
    names = Counter(_class_file(case, structure).name for structure in table)
    for name, count in names.items():
        if count > 1:
            raise UsageError(f"--per-class: {count} labels would be written to {name}; choose with --labels-only")


def check_types(types: Sequence[OutputType], cases: Sequence[PredictionCase]) -> None:
    """Raise ImageError if DICOM is wanted of images that are none."""
    dicom = dicom_of(types)
    for case in cases:
        if dicom and isinstance(case.image, Path):
            raise ImageError(f"{case.image}: is no DICOM series, so that there can be no {dicom[0]} of it")
