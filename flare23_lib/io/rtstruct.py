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
from contourpy import FillType, contour_generator
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from flare23_lib import __version__
from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.dicom import DicomFile, DicomFrame, Series
from flare23_lib.io.dicom_seg import MANUFACTURER, SERIES_NUMBER, Segment, set_made_by, structures_and_images
from flare23_lib.io.label_tables import Structure

_COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "SpecificCharacterSet",
)  # fmt: skip


def write_rtstruct(
    path: Path, series: Series, labels: np.ndarray, table: Sequence[Structure], model: str, made_by: str = ""
) -> None:
    """Write labels as an RT structure set; arguments and errors as `dicom_seg.write_seg`."""
    present, images = structures_and_images(path, series, labels, table, "rtstruct")
    dataset = _structure_set(images[0], model)
    classes = {str(image.SOPInstanceUID): str(image.SOPClassUID) for image in images}
    references = [_frame_reference(frame, classes[frame.uid]) for frame in series.frames]
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(images[0], references)]
    numbered = list(enumerate(present, 1))
    dataset.StructureSetROISequence = [
        _dataset(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=str(images[0].FrameOfReferenceUID),
            ROIName=structure.name[:64],
            ROIGenerationAlgorithm="AUTOMATIC",
        )
        for number, structure in numbered
    ]
    dataset.ROIContourSequence = [
        _dataset(
            ReferencedROINumber=number,
            ROIDisplayColor=list(structure.color),
            ContourSequence=_contours(labels == structure.value, series, references),
        )
        for number, structure in numbered
    ]
    dataset.RTROIObservationsSequence = [_observation(structure, number) for number, structure in numbered]
    set_made_by(dataset, made_by)
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _dataset(**attributes: object) -> Dataset:
    """Return a dataset, or an item of a sequence, with attributes by their keywords."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _structure_set(image: Dataset, model: str) -> Dataset:
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset = _dataset(
        file_meta=FileMetaDataset(),
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=generate_uid(),
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=SERIES_NUMBER + 1,
        SeriesDescription=f"Structures ({model})"[:64],
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=model[:64],
        SoftwareVersions=__version__,
        OperatorsName="",
        InstanceNumber=1,
        StructureSetLabel="AUTOMATIC",
        ApprovalStatus="UNAPPROVED",
        **dict.fromkeys(("StructureSetDate", "InstanceCreationDate", "SeriesDate"), date),
        **dict.fromkeys(("StructureSetTime", "InstanceCreationTime", "SeriesTime"), time),
    )
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit ones have 64 kB for a contour
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for name in _COPIED:
        if name in image:
            dataset[name] = image[name]
    return dataset


def _frame_reference(frame: DicomFrame, sop_class: str) -> Dataset:
    """Return an item that refers to a slice."""
    item = _dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=frame.uid)
    if frame.is_numbered:
        item.ReferencedFrameNumber = frame.index + 1
    return item


def _referenced_frame(image: Dataset, references: Sequence[Dataset]) -> Dataset:
    series = _dataset(SeriesInstanceUID=image.SeriesInstanceUID, ContourImageSequence=references)
    study = _dataset(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, as the module asks for
        ReferencedSOPInstanceUID=image.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _dataset(FrameOfReferenceUID=image.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _observation(structure: Structure, number: int) -> Dataset:
    kind = structure.anatomy.type
    code = _dataset(CodeValue=kind.value, CodingSchemeDesignator=kind.scheme, CodeMeaning=kind.meaning)
    return _dataset(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType="GTV" if structure.is_tumor else "ORGAN",
        ROIInterpreter="",
        RTROIIdentificationCodeSequence=[code],
    )


def _contours(mask: np.ndarray, series: Series, references: Sequence[Dataset]) -> list[Dataset]:
    steps = np.array(series.orientation) * np.array([[series.pixel_spacing[1]], [series.pixel_spacing[0]]])
    items = []
    for place in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for outline in outlines(mask[place]):
            points = np.array(series.frames[place].position) + outline @ steps
            items.append(
                _dataset(
                    ContourImageSequence=[references[place]],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.4f}" for value in points.ravel()],
                )
            )
    return items


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
    """Return the voxels whose centers lie in an odd number of contours, as bool of a shape (rows, columns).

    Contours are closed, points (n, 2) of column and row each.
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
    """Read the structures of a set that have closed contours onto the slices of a series; ImageError if contours lie
    in other planes."""
    dataset = file.read()
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in dataset.StructureSetROISequence}
    steps = np.array(series.orientation) / np.array([[series.pixel_spacing[1]], [series.pixel_spacing[0]]])
    origins = np.array([frame.position for frame in series.frames])
    segments = []
    for roi in dataset.get("ROIContourSequence", []):
        name = names.get(int(roi.ReferencedROINumber), "")
        planes: dict[int, list[np.ndarray]] = {}
        for item in roi.get("ContourSequence", []):
            if not str(item.ContourGeometricType).startswith(("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")):
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
        segments.append(Segment(name, mask, tiny))
    return segments


def _plane_of(what: str, series: Series, origins: np.ndarray, points: np.ndarray) -> int:
    """Return the slice whose plane a contour lies in."""
    heights = points @ series.normal
    distances = np.abs(origins @ series.normal - heights.mean())
    place = int(np.argmin(distances))
    if np.ptp(heights) > 0.1 * series.distance or distances[place] > 0.5 * series.distance:
        raise ImageError(f"{what} has a contour at {heights.mean():.2f} mm in no plane of {series}")
    return place
