"""RT structure sets: contours of labels in the planes of a CT series, and label volumes from contours.

Contours run midway between the centers of voxels, so that filling them gives the same voxels again. A hole is cut in
by a seam of no width (the keyhole of PS3.3, C.8.8.6.3): every reader that fills closed contours finds it empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
from contourpy import FillType, contour_generator
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from flare23_lib import __version__
from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.dicom import DicomFile, Series
from flare23_lib.io.dicom_seg import (
    MANUFACTURER,
    SERIES_NUMBER,
    Segment,
    check_fit,
    frame_reference,
    present_structures,
    source_images,
)
from flare23_lib.io.label_tables import Structure

_COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "SpecificCharacterSet",
)  # fmt: skip


def write_rtstruct(
    path: Path, series: Series, labels: np.ndarray, table: Sequence[Structure], model: str
) -> list[str]:
    """Write labels as an RT structure set; arguments, result and errors as `dicom_seg.write_seg`."""
    present = present_structures(labels, table)
    if not present:
        raise ImageError(f"{path}: no structure was found; an RT structure set would be empty")
    check_fit(path, series, labels)
    images = source_images(series)
    dataset = _structure_set(images[0], model)
    classes = {str(image.SOPInstanceUID): str(image.SOPClassUID) for image in images}
    references = [frame_reference(frame, classes[frame.uid]) for frame in series.frames]
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([_referenced_frame(images[0], references)])
    rois, contours, observations = [], [], []
    for number, structure in enumerate(present, 1):
        rois.append(_roi(structure, number, str(images[0].get("FrameOfReferenceUID", ""))))
        contours.append(_contours(structure, number, labels == structure.value, series, references))
        observations.append(_observation(structure, number))
    dataset.StructureSetROISequence = DicomSequence(rois)
    dataset.ROIContourSequence = DicomSequence(contours)
    dataset.RTROIObservationsSequence = DicomSequence(observations)
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return [structure.name for structure in present]


def _structure_set(image: Dataset, model: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for name in _COPIED:
        if name in image:
            dataset[name] = image[name]
    now = datetime.now()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "RTSTRUCT", generate_uid(), SERIES_NUMBER + 1
    dataset.SeriesDescription = f"Structures ({model})"[:64]
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, model[:64]
    dataset.SoftwareVersions, dataset.OperatorsName = __version__, ""
    dataset.InstanceNumber, dataset.StructureSetLabel, dataset.ApprovalStatus = 1, "AUTOMATIC", "UNAPPROVED"
    dataset.StructureSetDate = dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    return dataset


def _referenced_frame(image: Dataset, references: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = DicomSequence(references)
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as the module asks for
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = image.get("FrameOfReferenceUID", "")
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame


def _roi(structure: Structure, number: int, frame_of_reference: str) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID = number, frame_of_reference
    roi.ROIName, roi.ROIGenerationAlgorithm = structure.name[:64], "AUTOMATIC"
    return roi


def _observation(structure: Structure, number: int) -> Dataset:
    observation, code = Dataset(), Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = number, number
    observation.RTROIInterpretedType = "GTV" if structure.is_tumor else "ORGAN"
    observation.ROIInterpreter = ""
    kind = structure.anatomy.type
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = kind.value, kind.scheme, kind.meaning
    observation.RTROIIdentificationCodeSequence = DicomSequence([code])
    return observation


def _contours(
    structure: Structure, number: int, mask: np.ndarray, series: Series, references: Sequence[Dataset]
) -> Dataset:
    roi = Dataset()
    roi.ReferencedROINumber, roi.ROIDisplayColor = number, list(structure.color)
    items = []
    steps = np.array(series.orientation) * np.array([[series.pixel_spacing[1]], [series.pixel_spacing[0]]])
    for place in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for outline in outlines(mask[place]):
            points = np.array(series.frames[place].position) + outline @ steps
            item = Dataset()
            item.ContourImageSequence = DicomSequence([references[place]])
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{value:.4f}" for value in points.ravel()]
            items.append(item)
    roi.ContourSequence = DicomSequence(items)
    return roi


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Give the closed outlines of a plane (rows, columns) as points (n, 2) of column and row, holes cut in."""
    padded = np.pad(mask, 1).astype(np.float64)
    filled = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    for points, offsets in zip(*filled, strict=True):
        rings = [points[start : stop - 1] - 1 for start, stop in pairwise(offsets)]
        yield _with_keyholes(rings[0], rings[1:])


def _with_keyholes(outline: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """Join holes (n, 2) to their outline by seams that are run both ways."""
    for hole in holes:
        distances = np.linalg.norm(outline[:, None] - hole[None], axis=-1)
        at, begin = np.unravel_index(np.argmin(distances), distances.shape)
        turned = np.roll(hole, -begin, axis=0)
        outline = np.concatenate([outline[: at + 1], turned, turned[:1], outline[at:]])
    return outline


def filled(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the voxels whose centers lie in an odd number of contours.

    Args:
        contours: points (n, 2) of column and row each, closed.
        shape: rows, columns.

    Returns:
        bool, (rows, columns).
    """
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for points in contours:
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            low, high = min(y0, y1), max(y0, y1)
            rows = np.arange(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high))))
            if len(rows):
                columns = np.ceil(x0 + (rows - y0) * (x1 - x0) / (y1 - y0)).astype(int)
                np.add.at(crossings, (rows, np.clip(columns, 0, shape[1])), 1)
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def read_rtstruct(file: DicomFile, series: Series) -> list[Segment]:
    """Read the structures of a set that have closed contours onto the slices of a series.

    Raises:
        ImageError: contours lie outside the series' slices, or in other planes.
    """
    with file.open() as handle:
        dataset = pydicom.dcmread(handle, force=True)
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in dataset.StructureSetROISequence}
    steps = np.array(series.orientation) / np.array([[series.pixel_spacing[1]], [series.pixel_spacing[0]]])
    origins = np.array([frame.position for frame in series.frames])
    segments = []
    for roi in dataset.get("ROIContourSequence", []):
        name = names.get(int(roi.ReferencedROINumber), "")
        planes: dict[int, list[np.ndarray]] = {}
        for item in roi.get("ContourSequence", []):
            if not str(item.ContourGeometricType).startswith("CLOSED_PLANAR") and (
                item.ContourGeometricType != "CLOSEDPLANAR_XOR"
            ):
                continue
            points = np.array(item.ContourData, float).reshape(-1, 3)
            place = _plane_of(f"{file}: {name}", series, origins, points)
            planes.setdefault(place, []).append((points - origins[place]) @ steps.T)
        if not planes:
            continue
        mask, tiny = np.zeros((len(origins), *series.matrix), bool), 0
        for place, contours in planes.items():
            mask[place] = filled(contours, series.matrix)
            tiny += sum(not filled([points], series.matrix).any() for points in contours if len(points) < 9)
        segments.append(Segment(name, "", mask, tiny))
    return segments


def _plane_of(what: str, series: Series, origins: np.ndarray, points: np.ndarray) -> int:
    """Return the slice whose plane a contour lies in."""
    heights = points @ series.normal
    distances = np.abs(origins @ series.normal - heights.mean())
    place = int(np.argmin(distances))
    if np.ptp(heights) > 0.1 * series.distance or distances[place] > 0.5 * series.distance:
        raise ImageError(f"{what} has a contour at {heights.mean():.2f} mm in no plane of {series}")
    return place
