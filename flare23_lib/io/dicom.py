"""A CT series in DICOM files: checked slice by slice, read as a volume.

Positions and directions are DICOM's (LPS, mm, order x, y, z); volumes are (z, y, x) with nibabel's affines (RAS+), as
everywhere else. Slices ascend along the normal of their plane. Frames of a multi-frame file count as slices.
"""

from __future__ import annotations

import functools
import logging
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np
import pydicom

from flare23_lib.choices import OutputType
from flare23_lib.errors import ImageError, first_line, listed
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import Volume, header_for
from flare23_lib.io.slices import SliceGrid, grid_of, resampled_along_normal

log = logging.getLogger(__name__)

# pydicom leaves the escape sequences of Chinese (ISO 2022 IR 58) to Python's codec, which keeps them in the text.
pydicom.charset.handled_encodings = ("iso2022_jp", "iso2022_jp_2")  # type: ignore[assignment]

Irregular = Literal["refuse", "resample"]

MIN_SLICES = 3
"""What has fewer is a localizer or a single image, no volume."""

REFERRED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
"""What segmentations and structure sets refer to an image by, beside its own UID."""


@functools.lru_cache(maxsize=1)
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    """Open an archive, whose list of members may be long, once; again if it has changed (ns)."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True, order=True)
class DicomFile:
    """A file in a folder, or a member of a zip archive."""

    path: Path
    member: str = ""

    def open(self) -> BinaryIO:
        """Open it for reading; a member of an archive is inflated into memory."""
        return BytesIO(self._archive.read(self.member)) if self.member else self.path.open("rb")

    def start(self, size: int) -> bytes:
        """Return its first bytes."""
        with self._archive.open(self.member) if self.member else self.path.open("rb") as handle:
            return handle.read(size)

    @property
    def size(self) -> int:
        """Its bytes, inflated."""
        return self._archive.getinfo(self.member).file_size if self.member else self.path.stat().st_size

    @property
    def _archive(self) -> zipfile.ZipFile:
        return _archive(self.path, self.path.stat().st_mtime_ns)

    def read(self, without_pixels: bool = False) -> pydicom.Dataset:
        """Read it whole, or up to its pixels."""
        with self.open() as handle:
            return pydicom.dcmread(handle, stop_before_pixels=without_pixels, force=True)

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class DicomFrame:
    """One slice of a series.

    Attributes:
        index: of the frame in the file, from 0.
        uid: SOP Instance UID of the file.
        number: Instance Number, and the frame's where the file has several; for messages.
        position: center of the first voxel, LPS in mm.
        slope, intercept: from stored values to HU.
    """

    file: DicomFile
    index: int
    uid: str
    number: str
    position: tuple[float, float, float]
    slope: float
    intercept: float

    @property
    def is_numbered(self) -> bool:
        """Whether its file is of a kind that has several frames."""
        return "frame" in self.number


@dataclass(frozen=True)
class Series:
    """Slices of one series that share orientation, matrix and pixel spacing, ascending along their normal.

    Attributes:
        root: the folder, archive or file that was searched.
        uid, study, patient: Series and Study Instance UID, and Patient ID.
        is_localizer: by ImageType.
        orientation: directions of increasing column (x) and row (y), LPS.
        matrix: rows, columns.
        pixel_spacing: between rows and between columns, mm.
        left_out: CT images under its UID that are part of no volume: of another orientation, matrix or spacing, or
            without a usable position, slope or pixels. Localizers do not count.
    """

    root: Path
    uid: str
    study: str
    patient: str
    number: str
    description: str
    modality: str
    is_localizer: bool
    orientation: tuple[tuple[float, float, float], tuple[float, float, float]]
    matrix: tuple[int, int]
    pixel_spacing: tuple[float, float]
    frames: tuple[DicomFrame, ...]
    irregular: Irregular = "refuse"
    left_out: int = 0

    def __str__(self) -> str:
        return f"{self.root / self.place} (series {self.number or self.uid})"

    @property
    def place(self) -> PurePath:
        """The folder of its first file below what was searched, in an archive too."""
        file = self.frames[0].file
        inner = [part for part in PurePosixPath(file.member).parts[:-1] if part not in ("/", "..")]
        below = file.path.relative_to(self.root).parts
        return PurePath(*(below if file.member else below[:-1]), *inner)

    @property
    def is_volume(self) -> bool:
        """Whether it can be a CT volume."""
        return self.modality == "CT" and not self.is_localizer and len(self.frames) >= MIN_SLICES

    @property
    def normal(self) -> np.ndarray:
        """Direction along which slices ascend, LPS."""
        return np.cross(*self.orientation)

    @property
    def files(self) -> list[DicomFile]:
        """Its files in the order of the slices, each once."""
        return list(dict.fromkeys(frame.file for frame in self.frames))

    @property
    def whole_numbers(self) -> bool:
        """Whether all HU are whole numbers by slope and intercept."""
        return all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in self.frames)

    @property
    def distance(self) -> float:
        """Median distance of neighboring slices along the normal, mm."""
        return float(np.median(np.diff([np.dot(frame.position, self.normal) for frame in self.frames])))

    def grid(self) -> SliceGrid:
        """Check the slices' positions and return the grid they lie on; ImageError that names the fault."""
        names = [f"instance {frame.number}" for frame in self.frames]
        try:
            return grid_of(np.array([frame.position for frame in self.frames]), self.normal, names, self.irregular)
        except ImageError as error:
            raise ImageError(f"{self}: {error}") from error

    def geometry(self) -> Geometry:
        """Return shape, affine and spacing without reading voxels; ImageError as `grid`."""
        grid = self.grid()
        return Geometry.of((grid.count, *self.matrix), self._affine(grid))

    @property
    def is_interpolated(self) -> bool:
        """Whether the volume has other slices than the files; ImageError as `grid`."""
        return self.grid().places is not None

    def check_dicom_output(self, kind: OutputType) -> None:
        """Raise ImageError if no labels of a kind that is DICOM can refer to its slices, or as `grid`."""
        if self.is_interpolated:
            raise ImageError(f"{self}: its slices are interpolated, so that there can be no DICOM of it")
        files = len(self.files)
        if len({frame.uid for frame in self.frames if frame.uid}) < files:
            raise ImageError(f"{self}: its files have no UIDs of their own, so that there can be no DICOM of it")
        header = self.files[0].read(without_pixels=True)
        if missing := [name for name in REFERRED_UIDS if not header.get(name)]:
            raise ImageError(f"{self}: its files have no {listed(missing)}, so that there can be no DICOM of it")
        if kind == "dicom-seg" and 1 < files < len(self.frames):
            raise ImageError(f"{self}: is in {files} multi-frame files, of which there can be no dicom-seg")

    @property
    def held_bytes(self) -> int:
        """Memory that the volume takes while it is read; pydicom decodes a multi-frame file whole, and slices that
        are interpolated are held as stored, too."""
        times = 1 + (len(self.files) < len(self.frames)) + self.is_interpolated
        return times * (2 if self.whole_numbers else 4) * int(np.prod(self.geometry().shape))

    def read(self) -> Volume:
        """Read the volume in HU, int16 where that holds all values exactly, else float32; ImageError if slices are
        missing, doubled or irregular, or a file cannot be decoded."""
        grid = self.grid()
        array = resampled_along_normal(_read_frames(self), grid)
        affine = self._affine(grid)
        header = header_for(array.shape, affine, array.dtype)
        if grid.tilt_degrees:
            log.warning(
                "%s: the gantry was tilted by %.1f degrees; the affine keeps the shear", self, grid.tilt_degrees
            )
            header.set_qform(None, 0)  # a quaternion has no shear
        return Volume(array, Geometry.of(array.shape, affine), header)

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about a volume that can be read, a line each."""
        grid, found = self.grid(), []
        if grid.tilt_degrees:
            found.append(f"the gantry was tilted by {grid.tilt_degrees:.1f} degrees; the affine is sheared")
        if grid.places is not None:
            found.append(f"its {len(self.frames)} slices were interpolated to {grid.count} equally spaced ones")
        if self.left_out:
            why = "they differ in orientation, matrix or spacing, or are damaged"
            found.append(f"images of the series that are left out: {self.left_out}; {why}")
        return tuple(found)

    def _affine(self, grid: SliceGrid) -> np.ndarray:
        affine = np.eye(4)
        affine[:3, 0] = np.multiply(self.orientation[0], self.pixel_spacing[1])
        affine[:3, 1] = np.multiply(self.orientation[1], self.pixel_spacing[0])
        affine[:3, 2] = grid.step
        affine[:3, 3] = grid.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _read_frames(series: Series) -> np.ndarray:
    """Read HU, (slices, rows, columns)."""
    array = np.empty((len(series.frames), *series.matrix), np.int16 if series.whole_numbers else np.float32)
    limits = np.iinfo(np.int16)
    held: tuple[DicomFile, np.ndarray] | None = None
    for place, frame in enumerate(series.frames):
        if held is None or held[0] != frame.file:
            held = frame.file, _stored_frames(frame.file)
        stored = held[1][frame.index]
        if stored.shape != series.matrix:
            raise ImageError(f"{frame.file}: decodes to {stored.shape}, its header says {series.matrix}")
        if array.dtype == np.float32:
            array[place] = stored * np.float64(frame.slope) + frame.intercept
            continue
        values = stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        if array.dtype == np.int16 and (values.min() < limits.min or values.max() > limits.max):
            array = array.astype(np.int32)
        array[place] = values
    return array


def _stored_frames(file: DicomFile) -> np.ndarray:
    """Decode a file's frames, (frames, rows, columns)."""
    try:
        dataset = file.read()
        if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
            raise ImageError(f"{file}: is {dataset.get('PhotometricInterpretation')}, no CT image")
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        return frames_of(dataset)
    except ImageError:
        raise
    except Exception as error:  # codecs fail in many ways
        raise ImageError(f"{file}: its pixels cannot be decoded ({first_line(error)})") from error


def drop_undecodable(dataset: pydicom.Dataset) -> bool:
    """Delete the attributes of a file that cannot be decoded; tells whether there were any."""
    count = len(dataset)
    for tag in list(dataset.keys()):
        try:
            _ = dataset[tag]
        except Exception:  # pydicom fails in many ways
            del dataset[tag]
    return len(dataset) < count


def frames_of(dataset: pydicom.Dataset) -> np.ndarray:
    """Return the decoded pixels of an image or segmentation, (frames, rows, columns)."""
    pixels = dataset.pixel_array
    return pixels if pixels.ndim == 3 else pixels[None]


def frame_attributes(dataset: pydicom.Dataset, index: int, name: str) -> pydicom.Dataset:
    """Return the attributes of a frame that a sequence of a multi-frame file holds, or the file's own."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    own = dataset.PerFrameFunctionalGroupsSequence[index]
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    for groups in (own, shared[0]):
        if groups.get(name):
            return groups.get(name)[0]
    return pydicom.Dataset()
