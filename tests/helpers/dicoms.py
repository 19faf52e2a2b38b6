"""Synthetic CT series in DICOM files, as scanners and archives write them, with whatever fault a test asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.9, 0.3, 0.316227766, -0.3428571428, 0.9390243, 0.0282685)
SHAPE = (6, 20, 24)


def orthonormal(orientation):
    row = np.array(orientation[:3], float)
    row /= np.linalg.norm(row)
    column = np.array(orientation[3:], float)
    column -= (column @ row) * row
    return row, column / np.linalg.norm(column)


def an_image(shape=SHAPE, seed=0):
    """HU, (slices, rows, columns): a bright block in noise."""
    array = np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int16)
    array[1:-1, 3:-5, 4:-8] += 300
    return array


def a_slice(array, uids, number, position, orientation=AXIAL, spacing=(0.8, 0.7), **changes):
    """A CT image of one slice; array in HU, (rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "P1", "Doe^Jo", "", ""
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "1", "20260101", "120000", ""
    dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator = "", ""
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "CT", 2, "Abdomen"
    dataset.Manufacturer, dataset.InstanceNumber = "tests", number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [round(float(value), 6) for value in position]
    dataset.ImageOrientationPatient = [float(f"{value:.8g}") for value in np.concatenate(orthonormal(orientation))]
    dataset.PixelSpacing, dataset.SliceThickness = list(spacing), 2.5
    dataset.Rows, dataset.Columns = array.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.PixelData = (np.asarray(array, np.int32) + 1024).astype("<u2").tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def new_uids():
    return tuple(generate_uid() for _ in range(3))


def a_series(array, orientation=AXIAL, step=2.5, origin=(-10.0, -20.0, 30.0), tilt=0.0, uids=None, **changes):
    """The slices of a volume in HU, (slices, rows, columns), ascending along the normal; tilt: a shift in y, mm."""
    uids = uids or new_uids()
    row, column = orthonormal(orientation)
    advance = step * np.cross(row, column) + tilt * column
    positions = np.array(origin) + np.arange(len(array))[:, None] * advance
    return [
        a_slice(plane, uids, number, position, orientation, **changes)
        for number, (plane, position) in enumerate(zip(array, positions, strict=True), 1)
    ]


def affine_of(orientation=AXIAL, step=2.5, origin=(-10.0, -20.0, 30.0), tilt=0.0, spacing=(0.8, 0.7)):
    """The affine (RAS+) of `a_series`, by the standard's equation."""
    row, column = orthonormal(orientation)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[1], column * spacing[0]
    affine[:3, 2] = step * np.cross(row, column) + tilt * column
    affine[:3, 3] = origin
    return np.diag([-1, -1, 1, 1]) @ affine


def save(folder: Path, slices, name="IM{:04d}.dcm"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(slices):
        dataset.save_as(folder / name.format(index), enforce_file_format=True)
    return folder


def enhanced(slices):
    """A multi-frame image of the slices, as enhanced CT stores them."""
    first = slices[0]
    dataset = Dataset()
    dataset.update({element.tag: element for element in first})
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.NumberOfFrames = len(slices)
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([_only(first, "ImageOrientationPatient")])
    shared.PixelMeasuresSequence = Sequence([_only(first, "PixelSpacing", "SliceThickness")])
    values = _only(first, "RescaleSlope", "RescaleIntercept", "RescaleType")
    shared.PixelValueTransformationSequence = Sequence([values])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for one in slices:
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([_only(one, "ImagePositionPatient")])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope")
    for name in (*names, "RescaleIntercept", "RescaleType"):
        delattr(dataset, name)
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    return dataset


def _only(dataset, *names):
    part = Dataset()
    for name in names:
        setattr(part, name, dataset.get(name))
    return part
