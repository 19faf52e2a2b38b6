"""What is written for a segmented case: label files of several kinds, numbers, a picture.

Everything is made from the case's labels, so that a kind that is wanted later needs no new segmentation. This module
imports no torch, and SimpleITK and pydicom only when they are needed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from flare23_lib.choices import OutputType
from flare23_lib.errors import ImageError
from flare23_lib.inference.image_files import PredictionCase
from flare23_lib.io.images import read_header, read_image
from flare23_lib.io.label_tables import (
    STEM,
    Structure,
    header_extension,
    read_label_table,
    read_metadata,
    write_label_tables,
)
from flare23_lib.io.nifti import Volume, read_volume, stem, write_volume

if TYPE_CHECKING:
    from flare23_lib.io.dicom import Series

log = logging.getLogger(__name__)

Draw = Callable[[Path, str, Volume, np.ndarray, Sequence[Structure]], None]
"""Draws a case's overview: file, title, image, labels (z, y, x), label table."""

SUFFIXES: dict[OutputType, str] = {"nifti": ".nii.gz", "dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
PREVIEW, STATISTICS = ".png", ".statistics.json"

MODEL, IMAGE = "MadeBy", "Image"
"""Names of the metadata in a label file: the model and options that made it, and the image."""

INCOMPLETE = ("empty_file", "truncated_gzip", "corrupt_gzip", "wrong_length")
"""Faults of label files that are made again; other files are not replaced unasked."""


def keep_labels(labels: np.ndarray, table: Sequence[Structure]) -> np.ndarray:
    """Return label values (uint8) without those that are not in a table."""
    kept = np.zeros(256, np.uint8)
    values = [structure.value for structure in table]
    kept[values] = values
    return kept[labels]


def _exists(path: Path, held: str) -> ImageError:
    return ImageError(f"{path}: exists and holds {held}; give another output, or replace it with --overwrite")


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each case.

    Attributes:
        table: labels that are kept; every other becomes background. Empty for all, without names.
        model: name of the model, for DICOM files and statistics.
        made_by: the model's weights and options, kept in label files with the image's identity: those of others are
            not taken for ours. Empty to keep nothing.
        types: kinds of label files.
        per_class: also a NIfTI file (0 and 1) of each label, in a folder named after the case.
        statistics: `X.statistics.json`.
        draw: draws `X.png`; None for no picture.
    """

    table: tuple[Structure, ...] = ()
    model: str = ""
    made_by: str = ""
    types: tuple[OutputType, ...] = ("nifti",)
    per_class: bool = False
    statistics: bool = False
    draw: Draw | None = None

    @property
    def needs_image(self) -> bool:
        """Whether the image is read again when the labels are there."""
        return self.statistics or self.draw is not None

    def bytes(self, voxels: int, image_bytes: int) -> int:
        """Estimate the memory that the outputs other than NIfTI take while they are written."""
        dicom = 4 * voxels if set(self.types) - {"nifti"} else 0
        return max(dicom, 2 * image_bytes + 3 * voxels if self.needs_image else 0, voxels if self.per_class else 0)

    def files(self, case: PredictionCase) -> list[Path]:
        """Return the files that are wanted of a case beside its NIfTI labels."""
        files = [case.beside(SUFFIXES[kind]) for kind in self.types if kind != "nifti"]
        if self.per_class:
            files += [case.beside("") / f"{structure.name}.nii.gz" for structure in self.table]
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
                is not replaced unasked.
        """
        made_by = self._made_by(case)
        self._refuse_other_dicom(case, made_by)
        if "nifti" not in self.types:
            return all(file.exists() for file in self.files(case)), None
        if not case.labels.exists():
            return False, None
        try:
            labels = read_volume(case.labels)
        except ImageError as error:
            if error.kind in INCOMPLETE:
                return False, None
            raise _exists(case.labels, f"what is no label map ({error})") from error
        try:
            image, _ = read_header(case.image)
        except ImageError:
            return False, None
        made = case.labels.stat().st_mtime_ns
        missing = any(not file.exists() or file.stat().st_mtime_ns < made for file in self.files(case))
        there = labels.geometry.difference(image) is None
        names = {structure.value: structure.name for structure in self.table}
        found, kept = read_label_table(case.labels), read_metadata(case.labels)
        if labels.array.dtype != np.uint8:
            raise _exists(case.labels, f"{labels.array.dtype} voxels, not labels")
        if found and names and found != names:
            raise _exists(case.labels, f"other labels ({', '.join(found.values())})")
        for key, what in ((MODEL, "another model or other options"), (IMAGE, "another image")):
            if key in kept and kept[key] != made_by.get(key, kept[key]):
                raise _exists(case.labels, f"the labels of {what} ({kept[key]})")
        if names and not there:
            raise _exists(case.labels, "labels on another grid than its image's")
        return there, labels if there and missing else None

    def _made_by(self, case: PredictionCase) -> dict[str, str]:
        """Return what is kept in label files of how they were made; nothing without the model's `made_by`."""
        if not self.made_by:
            return {}
        try:
            return {MODEL: self.made_by, IMAGE: case.image_identity()}
        except ImageError:  # it cannot be read, which is reported when it is
            return {}

    def _dicom_made_by(self, made_by: Mapping[str, str]) -> str:
        """Return the same in one text for DICOM, where the labels that were not found have no name."""
        names = hashlib.sha256(repr(self.table).encode()).hexdigest()[:16]
        return f"{made_by[MODEL]}; labels {names}; image {made_by[IMAGE]}" if made_by else ""

    def _refuse_other_dicom(self, case: PredictionCase, made_by: Mapping[str, str]) -> None:
        expected = self._dicom_made_by(made_by)
        for file in [case.beside(SUFFIXES[kind]) for kind in self.types if kind != "nifti"] if expected else ():
            if file.exists():
                from flare23_lib.io.dicom_seg import read_made_by

                if (found := read_made_by(file)) != expected:
                    raise _exists(file, f"what was made from another image or otherwise ({found or 'unknown'})")

    def write(
        self, case: PredictionCase, labels: np.ndarray, header: nib.Nifti1Header, with_labels: bool = True
    ) -> None:
        """Write all that is wanted of a case, from uint8 file values (z, y, x) and the image's header.

        With `with_labels=False` the NIfTI file of the labels is left as it is; else files of kinds that are not
        wanted, which are of earlier labels, are named in the log.
        """
        if with_labels and "nifti" in self.types:
            extension = header_extension(self.table, self._made_by(case)) if self.table else b""
            write_volume(case.labels, labels, header, extension)
        for structure in self.table if self.per_class else ():
            one = (labels == structure.value).astype(np.uint8)
            write_volume(case.beside("") / f"{structure.name}.nii.gz", one, header)
        self._write_dicom(case, labels)
        image = read_image(case.image) if self.needs_image else None
        if image is not None and self.statistics:
            from flare23_lib.inference.label_statistics import measure_labels, write_case_statistics

            rows = measure_labels(labels, image, self.table)
            write_case_statistics(case.beside(STATISTICS), case.name, str(case.image), rows)
        if image is not None and self.draw is not None:
            self.draw(case.beside(PREVIEW), case.name, image, labels, self.table)
        kinds = {case.beside(suffix) for suffix in (*SUFFIXES.values(), STATISTICS, PREVIEW)}
        for file in sorted(kinds.difference(self.files(case), [case.labels])) if with_labels else ():
            if file.exists():
                log.warning("%s: is left of an earlier run", file)

    def _write_dicom(self, case: PredictionCase, labels: np.ndarray) -> None:
        kinds = [kind for kind in self.types if kind != "nifti"]
        if not kinds or isinstance(case.image, Path):
            return
        if not labels.any():
            log.warning("%s: no structure was found; DICOM knows no empty segmentation, none is written", case.image)
            return
        for kind in kinds:
            if kind == "dicom-seg":
                from flare23_lib.io.dicom_seg import write_seg as write
            else:
                from flare23_lib.io.rtstruct import write_rtstruct as write
            file = case.beside(SUFFIXES[kind])
            write(file, case.image, labels, self.table, self.model, self._dicom_made_by(self._made_by(case)))


def write_names(cases: Sequence[PredictionCase], output: Path, table: Sequence[Structure]) -> None:
    """Write label tables for viewers beside the labels: `labels.csv`, or `X.labels.csv` beside a file X.nii.gz."""
    if cases:
        is_file = cases[0].labels == output
        write_label_tables(cases[0].labels.parent, table, f"{stem(output)}.{STEM}" if is_file else STEM)


def check_types(types: Sequence[OutputType], cases: Sequence[PredictionCase]) -> None:
    """Raise ImageError if DICOM is wanted of images that are none, or of series whose slices are interpolated."""
    dicom = [kind for kind in types if kind != "nifti"]
    for case in cases if dicom else ():
        if isinstance(case.image, Path):
            raise ImageError(f"{case.image}: is no DICOM series, so that there can be no {dicom[0]} of it")
        if _is_interpolated(case.image):
            raise ImageError(f"{case.image}: its slices are interpolated, so that there can be no {dicom[0]} of it")


def _is_interpolated(series: Series) -> bool:
    try:
        return series.grid().places is not None
    except ImageError:  # the run reports it and continues with the others
        return False
