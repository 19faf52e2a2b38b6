"""What is written for a segmented case: label files of several kinds, numbers, a picture.

Everything is made from the case's labels, so that a kind that is wanted later needs no new segmentation. This module
imports no torch, and SimpleITK and pydicom only when they are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from flare23_lib.choices import OutputType
from flare23_lib.errors import BundleError, ConfigError, ImageError
from flare23_lib.inference.image_files import PredictionCase, labels_there, model_file, read_description
from flare23_lib.io.anatomy import is_tumor
from flare23_lib.io.images import read_image
from flare23_lib.io.label_tables import STEM, Structure, header_extension, label_table, write_label_tables
from flare23_lib.io.nifti import Volume, stem, write_volume
from flare23_lib.labels import Label, LabelMap

log = logging.getLogger(__name__)

Draw = Callable[[Path, str, Volume, np.ndarray, Sequence[Structure]], None]
"""Draws a case's overview: file, title, image, labels (z, y, x), label table."""

SUFFIXES: dict[OutputType, str] = {"nifti": ".nii.gz", "dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
PREVIEW, STATISTICS = ".png", ".statistics.json"


def describe_bundle(folder: Path) -> tuple[str, tuple[Structure, ...]]:
    """Return a bundle's name and its labels without background, read without torch; BundleError if it is none."""
    path = model_file(folder)
    try:
        content = read_description(path)
        model, rows = str(content["name"]), content["labels"][1:]
        names, values = [str(row["name"]) for row in rows], [int(row["value"]) for row in rows]
        tumors = [name for row, name in zip(rows, names, strict=True) if is_tumor(name, row.get("kind"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path}: does not list labels ({error!r})") from error
    return model, label_table(names, values, tumors)


def bundle_label_map(folder: Path) -> tuple[LabelMap, tuple[str, ...]]:
    """Return a bundle's labels with their rules of scoring, and the names of those it never saw in training.

    Raises:
        BundleError: it is no bundle, or one that does not say how its labels are scored.
    """
    path = model_file(folder)
    try:
        content = read_description(path)
        labels = LabelMap(tuple(Label(**row) for row in content["labels"][1:]))
        if not all("tolerance_mm" in row for row in content["labels"][1:]):
            raise BundleError(f"{path}: does not say how its labels are scored; give a configuration instead")
        return labels, tuple(content["unseen"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: does not list labels ({error!r})") from error


def chosen_labels(table: Sequence[Structure], names: Sequence[str]) -> tuple[Structure, ...]:
    """Return the named labels in the order of the table, all if none are named; ConfigError for an unknown name."""
    known = [structure.name for structure in table]
    for name in names:
        if name not in known:
            raise ConfigError(f"--labels-only: there is no label {name!r}; the labels are {', '.join(known)}")
    return tuple(structure for structure in table if not names or structure.name in names)


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each case.

    Attributes:
        table: labels that are kept; every other becomes background. Empty for all, without names.
        model: name of the model, for DICOM files and statistics.
        types: kinds of label files.
        per_class: also a NIfTI file (0 and 1) of each label, in a folder named after the case.
        statistics: `X.statistics.json`.
        draw: draws `X.png`; None for no picture.
    """

    table: tuple[Structure, ...] = ()
    model: str = ""
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

    def find(self, case: PredictionCase) -> tuple[bool, Volume | None]:
        """Tell whether a case needs no segmentation; and give its labels if other files are to be made from them.

        Raises:
            ImageError: as `labels_there`.
        """
        missing = any(not file.exists() for file in self.files(case))
        if "nifti" not in self.types:
            return not missing, None
        names = {structure.value: structure.name for structure in self.table}
        labels = labels_there(case, names or None)
        return labels is not None, labels if missing else None

    def keep(self, labels: np.ndarray) -> np.ndarray:
        """Return label values (uint8) without those that are not wanted."""
        if not self.table:
            return labels
        kept = np.zeros(256, np.uint8)
        values = [structure.value for structure in self.table]
        kept[values] = values
        return kept[labels]

    def write(
        self, case: PredictionCase, labels: np.ndarray, header: nib.Nifti1Header, with_labels: bool = True
    ) -> None:
        """Write all that is wanted of a case.

        Args:
            case: the case.
            labels: uint8 file values, (z, y, x).
            header: of the image.
            with_labels: also the NIfTI file of the labels, if that is wanted.
        """
        if with_labels and "nifti" in self.types:
            write_volume(case.labels, labels, header, header_extension(self.table) if self.table else b"")
        for structure in self.table if self.per_class else ():
            one = (labels == structure.value).astype(np.uint8)
            write_volume(case.beside("") / f"{structure.name}.nii.gz", one, header)
        self._write_dicom(case, labels)
        if self.needs_image:
            self._write_about(case, labels, read_image(case.image))

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
            write(case.beside(SUFFIXES[kind]), case.image, labels, self.table, self.model)

    def _write_about(self, case: PredictionCase, labels: np.ndarray, image: Volume) -> None:
        if self.statistics:
            from flare23_lib.inference.label_statistics import measure_labels, write_case_statistics

            rows = measure_labels(labels, image, self.table)
            write_case_statistics(case.beside(STATISTICS), case.name, str(case.image), rows)
        if self.draw is not None:
            self.draw(case.beside(PREVIEW), case.name, image, labels, self.table)


def write_names(cases: Sequence[PredictionCase], output: Path, table: Sequence[Structure]) -> None:
    """Write label tables for viewers beside the labels: `labels.csv`, or `X.labels.csv` beside a file X.nii.gz."""
    if cases:
        is_file = cases[0].labels == output
        write_label_tables(cases[0].labels.parent, table, f"{stem(output)}.{STEM}" if is_file else STEM)


def check_types(types: Sequence[OutputType], cases: Sequence[PredictionCase]) -> None:
    """Raise ImageError if DICOM is wanted of images that are none."""
    dicom = [kind for kind in types if kind != "nifti"]
    for case in cases:
        if dicom and isinstance(case.image, Path):
            raise ImageError(f"{case.image}: is no DICOM series, so that there can be no {dicom[0]} of it")
