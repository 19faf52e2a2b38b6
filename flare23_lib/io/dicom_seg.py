"""DICOM segmentations (SEG): written on the geometry of a CT series, and read back onto it.

Label volumes are (z, y, x), their slices in the order of `Series.frames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM

from flare23_lib import __version__
from flare23_lib.choices import OutputType
from flare23_lib.errors import ImageError
from flare23_lib.io.anatomy import Code
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.dicom import DicomFile, Series, drop_undecodable, frame_attributes, frames_of
from flare23_lib.io.label_tables import Structure
from flare23_lib.io.slices import SAME_DIRECTION, place_tolerance

MANUFACTURER = "flare23"

MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "SliceThickness",
)  # fmt: skip
"""Attributes of type 2 (PS3.5, 7.4.3), which may be empty but not absent; tools that remove names delete them."""

SEXES = ("", "M", "F", "O")
"""What Patient's Sex may be (PS3.3, C.7.1.1)."""

SERIES_NUMBER = 1000
"""Series Number of what is written; viewers list it behind the images."""


def concept(code: Code) -> CodedConcept:
    """Return a code as highdicom wants it."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def structures_and_images(
    path: Path, series: Series, labels: np.ndarray, table: Sequence[Structure], kind: OutputType
) -> tuple[list[Structure], list[Dataset]]:
    """Return the structures that occur in labels, and the headers of a series' files in the order of its slices.

    What is copied is the first one's, which is made valid.

    ImageError if no structure occurs, the labels do not lie on the series' slices, or as `Series.check_dicom_output`.
    """
    series.check_dicom_output(kind)
    counts = np.bincount(labels.ravel(), minlength=256)
    present = [structure for structure in table if counts[structure.value]]
    if not present:
        raise ImageError(f"{path}: no structure was found, and DICOM knows no empty segmentation or structure set")
    if labels.shape != (len(series.frames), *series.matrix):
        what = f"the {len(series.frames)} slices of {series}"
        raise ImageError(f"{path}: labels of shape {labels.shape} do not lie on {what}")
    images = [file.read(without_pixels=True) for file in series.files]
    _make_valid(images[0])
    return present, images


def _make_valid(image: Dataset) -> None:
    """Turn the text of a header into UTF-8, and empty what may be empty and is absent or no value of its kind.

    highdicom refuses other values, and character sets that the standard and scanners have.
    """
    with disable_value_validation():  # which warns of each attribute
        drop_undecodable(image)
        image.decode()
    image.SpecificCharacterSet = "ISO_IR 192"
    for name in MAY_BE_EMPTY:
        if name not in image or not _is_valid(image[name]):
            setattr(image, name, None)


def _is_valid(element: DataElement) -> bool:
    """Tell whether a sex, a date or a time is one; other values pass."""
    if element.keyword == "PatientSex":
        return element.value in SEXES
    try:
        {"DA": DA, "TM": TM}.get(element.VR, str)(element.value)
    except ValueError:
        return False
    return True


def set_made_by(dataset: Dataset, made_by: str) -> None:
    """Keep what an object was made by as the description of its contributing equipment (PS3.3, C.12.1)."""
    if made_by:
        equipment = Dataset()
        equipment.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
        equipment.Manufacturer = MANUFACTURER
        equipment.ContributionDescription = made_by[:1024]
        dataset.ContributingEquipmentSequence = [equipment]


def read_made_by(path: Path) -> str:
    """Return what `set_made_by` kept in a file; empty if there is nothing of the kind, or it is no DICOM."""
    for equipment in DicomFile(path).read(without_pixels=True).get("ContributingEquipmentSequence", []):
        if equipment.get("Manufacturer") == MANUFACTURER:
            return str(equipment.get("ContributionDescription", ""))
    return ""


def write_seg(
    path: Path, series: Series, labels: np.ndarray, table: Sequence[Structure], model: str, made_by: str = ""
) -> None:
    """Write labels as a DICOM segmentation of a series: binary segments with names, SNOMED codes and colors.

    Args:
        labels: uint8 file values, (slices, rows, columns).
        table: the labels; those that do not occur have no segment.
        model: name of the model, the algorithm of the segments.
        made_by: see `set_made_by`.

    Raises as `structures_and_images`.
    """
    present, images = structures_and_images(path, series, labels, table, "dicom-seg")
    numbers = np.zeros(256, np.uint8)
    numbers[[structure.value for structure in present]] = np.arange(1, len(present) + 1)
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=_in_order_of_frames(numbers[labels], series),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(structure, number, model) for number, structure in enumerate(present, 1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model,
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"labels of {model}"[:64],
        series_description=f"Segmentation ({model})"[:64],
    )
    set_made_by(segmentation, made_by)
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _in_order_of_frames(labels: np.ndarray, series: Series) -> np.ndarray:
    """Return labels in the order in which highdicom sees the source's frames."""
    if len(series.files) > 1:
        return labels
    ordered = np.empty_like(labels)
    for place, frame in enumerate(series.frames):
        ordered[frame.index] = labels[place]
    return ordered


def _describe(structure: Structure, number: int, model: str) -> SegmentDescription:
    anatomy = structure.anatomy
    description = SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:64],
        segmented_property_category=concept(anatomy.category),
        segmented_property_type=concept(anatomy.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model[:64], family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        display_color=CIELabColor.from_rgb(*structure.color),
    )
    if anatomy.modifier is not None:
        modifier = [concept(anatomy.modifier)]
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    return description


@dataclass(frozen=True)
class Segment:
    """A structure that was read from DICOM.

    Attributes:
        mask: bool, (slices, rows, columns) of the series.
        tiny: contours that hold no voxel's center.
    """

    name: str
    mask: np.ndarray
    tiny: int = 0


def read_seg(file: DicomFile, series: Series) -> list[Segment]:
    """Read a segmentation onto the slices of its series; ImageError if it is fractional, or lies on another grid."""
    dataset = file.read()
    if dataset.get("SegmentationType") not in ("BINARY", "LABELMAP"):
        raise ImageError(f"{file}: is a segmentation of type {dataset.get('SegmentationType')}, not binary")
    pixels = frames_of(dataset)
    shape = (len(series.frames), *series.matrix)
    masks = {int(item.SegmentNumber): np.zeros(shape, bool) for item in dataset.SegmentSequence}
    positions = np.array([frame.position for frame in series.frames])
    tolerance = place_tolerance(positions, series.distance)
    for index, frame in enumerate(pixels):
        position, orientation = _plane(dataset, index)
        distances = np.linalg.norm(positions - position, axis=1)
        place = int(np.argmin(distances))
        turn = np.abs(orientation - series.orientation).max()
        if frame.shape != series.matrix or not (turn <= SAME_DIRECTION and distances[place] <= tolerance):
            raise ImageError(f"{file}: lies on another grid than {series}")
        if dataset.SegmentationType == "LABELMAP":
            for number, mask in masks.items():
                mask[place] |= frame == number
            continue
        identified = frame_attributes(dataset, index, "SegmentIdentificationSequence")
        masks[int(identified.ReferencedSegmentNumber)][place] |= frame > 0
    return [
        Segment(str(item.SegmentLabel), masks[int(item.SegmentNumber)])
        for item in dataset.SegmentSequence
        if item.SegmentNumber != 0  # the background of a label map
    ]


def _plane(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return position (3,) in mm and orientation (2, 3) of a frame of a segmentation."""
    position = frame_attributes(dataset, index, "PlanePositionSequence").ImagePositionPatient
    orientation = frame_attributes(dataset, index, "PlaneOrientationSequence").ImageOrientationPatient
    return np.array(position, float), np.array(orientation, float).reshape(2, 3)
