"""Segmentations and structure sets read back equal, by our readers and by others."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicoms import AXIAL, OBLIQUE, SAGITTAL, a_series, an_image, enhanced, new_uids, save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from flare23_lib.errors import ImageError
from flare23_lib.io.dicom import DicomFile
from flare23_lib.io.dicom_search import choose_series, find_series
from flare23_lib.io.dicom_seg import read_seg, write_seg
from flare23_lib.io.label_tables import label_table
from flare23_lib.io.rtstruct import filled, outlines, read_rtstruct, write_rtstruct

TABLE = label_table(["liver", "right_kidney", "spleen", "tumor"], [1, 2, 5, 14], ["tumor"])


def labels_of(shape):
    """Blocks with a hole, single voxels, voxels that touch at corners, at the border of the image."""
    labels = np.zeros(shape, np.uint8)
    labels[1:5, 2:12, 3:15] = 1
    labels[2:4, 5:8, 6:10] = 0
    labels[3, 6, 7] = 14
    labels[0, 0, 0] = labels[-1, -1, -1] = 5
    labels[2, 15, 17] = labels[2, 16, 18] = 5
    return labels


def a_case(folder, orientation=AXIAL, multi_frame=False, **options):
    slices = a_series(an_image(), orientation, **options)
    save(folder, [enhanced(slices[::-1])] if multi_frame else slices[::-1])
    (series,) = choose_series(find_series(folder), folder, None)
    return series, labels_of((6, 20, 24))


CASES = {
    "axial": {}, "sagittal": {"orientation": SAGITTAL}, "oblique": {"orientation": OBLIQUE}, "tilted": {"tilt": 0.9},
    "multi-frame": {"multi_frame": True},
}  # fmt: skip


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("write", "read"), [(write_seg, read_seg), (write_rtstruct, read_rtstruct)])
def test_what_is_written_reads_back_equal(tmp_path, write, read, options):
    series, labels = a_case(tmp_path / "ct", **options)
    write(tmp_path / "out.dcm", series, labels, TABLE, "student")
    segments = read(DicomFile(tmp_path / "out.dcm"), series)
    assert [segment.name for segment in segments] == ["liver", "spleen", "tumor"]  # no right kidney occurs
    for segment, value in zip(segments, (1, 5, 14), strict=True):
        assert np.array_equal(segment.mask, labels == value), segment.name


def test_highdicom_reads_the_segmentation_with_codes_and_colors(tmp_path):
    series, labels = a_case(tmp_path / "ct")
    labels[4, 1:3, 1:3] = 2
    write_seg(tmp_path / "seg.dcm", series, labels, TABLE, "student")
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    volume = segmentation.get_volume(combine_segments=True).flip_spatial(0)  # highdicom's slices descend
    assert np.array_equal(volume.array, np.searchsorted([0, 1, 2, 5, 14], labels))
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine[:, [2, 1, 0, 3]]
    assert np.allclose(affine, series.geometry().affine, atol=1e-5)
    kidney = segmentation.get_segment_description(2)
    assert kidney.segmented_property_type.value == "64033007"
    assert (
        kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning
        == "Right"
    )
    assert kidney.algorithm_identification.name == "student"
    shown = highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(shown, TABLE[1].color)).max() <= 2
    assert segmentation.PatientID == "P1"


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_dcmqi_reads_the_segmentation(tmp_path, orientation):
    series, labels = a_case(tmp_path / "ct", orientation)
    write_seg(tmp_path / "seg.dcm", series, labels, TABLE, "student")
    (tmp_path / "read").mkdir()
    program = Path(sys.executable).with_name("segimage2itkimage")
    places = ["--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "read"]
    done = subprocess.run([program, *places, "-t", "nrrd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    meta = json.loads((tmp_path / "read" / "meta.json").read_text())
    found = {one["SegmentLabel"]: one for group in meta["segmentAttributes"] for one in group}
    assert found["liver"]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "10200004"
    affine = series.geometry().affine
    for name, value in (("liver", 1), ("spleen", 5), ("tumor", 14)):
        image = SimpleITK.ReadImage(tmp_path / "read" / f"{found[name]['labelID']}.nrrd")
        voxels = np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1]
        places = [image.TransformIndexToPhysicalPoint(voxel.tolist()) for voxel in voxels]
        expected = np.argwhere(labels == value)[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
        assert np.allclose(np.sort(np.array(places) * [-1, -1, 1], axis=0), np.sort(expected, axis=0), atol=1e-3)


def test_nothing_found_and_labels_of_other_slices_are_refused(tmp_path):
    series, labels = a_case(tmp_path / "ct")
    for write in (write_seg, write_rtstruct):
        with pytest.raises(ImageError, match="no structure was found"):
            write(tmp_path / "out.dcm", series, np.zeros_like(labels), TABLE, "student")
        with pytest.raises(ImageError, match="do not lie on the 6 slices"):
            write(tmp_path / "out.dcm", series, labels[:5], TABLE, "student")
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_an_interpolated_series_has_no_dicom_even_of_as_many_slices(tmp_path, write):
    slices = a_series(an_image())
    slices[3].ImagePositionPatient = [*slices[3].ImagePositionPatient[:2], 37.8]
    (series,) = find_series(save(tmp_path / "ct", slices)).series
    resampled = replace(series, irregular="resample")
    assert resampled.geometry().shape == (6, 20, 24)
    with pytest.raises(ImageError, match="its slices are interpolated, so that there can be no DICOM"):
        write(tmp_path / "out.dcm", resampled, labels_of((6, 20, 24)), TABLE, "student")


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_a_series_whose_files_lack_uids_has_no_dicom(tmp_path, write):
    slices = a_series(an_image())
    for number, one in enumerate(slices):
        del one.SOPInstanceUID
        (tmp_path / "ct").mkdir(exist_ok=True)
        one.save_as(tmp_path / "ct" / f"{number}.dcm", enforce_file_format=False)
    (series,) = find_series(tmp_path / "ct").series
    with pytest.raises(ImageError, match="its files have no UIDs of their own"):
        write(tmp_path / "out.dcm", series, labels_of((6, 20, 24)), TABLE, "student")


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "FrameOfReferenceUID"])
def test_a_series_without_what_dicom_refers_to_is_refused_before_it_is_segmented(tmp_path, kind, name):
    slices = a_series(an_image())
    (tmp_path / "ct").mkdir()
    for number, one in enumerate(slices):
        delattr(one, name)
        one.save_as(tmp_path / "ct" / f"{number}.dcm", enforce_file_format=False)
    (series,) = find_series(tmp_path / "ct").series
    with pytest.raises(ImageError, match=f"its files have no {name}, so that there can be no DICOM of it"):
        series.check_dicom_output(kind)


def test_a_segmentation_of_another_series_is_refused(tmp_path):
    series, labels = a_case(tmp_path / "ct")
    other, _ = a_case(tmp_path / "other", origin=(-10, -20, 31))
    write_seg(tmp_path / "seg.dcm", series, labels, TABLE, "student")
    with pytest.raises(ImageError, match="another grid"):
        read_seg(DicomFile(tmp_path / "seg.dcm"), other)


def test_a_segmentation_from_a_regular_grid_fits_slices_that_jitter(tmp_path):
    """Slices may be off their grid by some hundredths of a millimeter; tools write frames on the grid."""
    image = an_image()
    uids = new_uids()
    regular = a_series(image, step=5.0, uids=uids)
    save(tmp_path / "regular", regular)
    (series,) = find_series(tmp_path / "regular").series
    labels = np.zeros(image.shape, np.uint8)
    labels[1:4, 3:9, 3:9] = 1
    write_seg(tmp_path / "seg.dcm", series, labels, TABLE, "student")
    for number, dataset in enumerate(regular):
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y, z + (0.03 if number % 2 else -0.03)]
    save(tmp_path / "jitter", regular)
    (jittered,) = find_series(tmp_path / "jitter").series
    (segment,) = read_seg(DicomFile(tmp_path / "seg.dcm"), jittered)
    assert np.array_equal(segment.mask, labels == 1)


@pytest.mark.parametrize("step", [0.625, 1.25])
def test_a_segmentation_from_an_exact_grid_fits_slices_whose_positions_are_rounded(tmp_path, step):
    """A scanner rounds positions to 0.1 mm; tools write frames on the exact grid."""
    image = an_image()
    exact = a_series(image, step=step)
    (series,) = find_series(save(tmp_path / "ct", exact)).series
    labels = labels_of(image.shape)
    write_seg(tmp_path / "seg.dcm", series, labels, TABLE, "student")
    for one in exact:
        one.ImagePositionPatient = [round(float(value), 1) for value in one.ImagePositionPatient]
    (rounded,) = find_series(save(tmp_path / "ct", exact)).series
    assert rounded.read().array.shape == image.shape
    segments = read_seg(DicomFile(tmp_path / "seg.dcm"), rounded)
    assert np.array_equal(segments[0].mask, labels == 1)


def test_contours_between_slices_are_refused_and_tiny_ones_counted(tmp_path):
    series, labels = a_case(tmp_path / "ct")
    write_rtstruct(tmp_path / "rt.dcm", series, labels, TABLE, "student")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    x, y, z = np.add(np.array(contour.ContourData, float)[:3], [0.1, 0.1, 0])
    contour.ContourData = [x, y, z, x + 0.05, y, z, x, y + 0.05, z]
    dataset.save_as(tmp_path / "tiny.dcm")
    assert read_rtstruct(DicomFile(tmp_path / "tiny.dcm"), series)[0].tiny == 1
    contour.ContourData = [x, y, z + 50, x + 0.05, y, z + 50, x, y + 0.05, z + 50]
    dataset.save_as(tmp_path / "off.dcm")
    with pytest.raises(ImageError, match=r"liver has a contour at .* in no plane"):
        read_rtstruct(DicomFile(tmp_path / "off.dcm"), series)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_plane_survives_its_outlines(mask):
    contours = list(outlines(mask))
    assert np.array_equal(filled(contours, mask.shape), mask)
    rounded = [np.round(points, 4) for points in contours]
    assert np.array_equal(filled(rounded, mask.shape), mask)


ABSENT = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
          "AccessionNumber", "SliceThickness"]  # fmt: skip


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_series_whose_names_were_deleted_have_dicom_too(tmp_path, write):
    slices = a_series(an_image())
    for image in slices:
        for name in ABSENT:
            if name in image:
                del image[name]
    folder = save(tmp_path / "ct", slices)
    (series,) = choose_series(find_series(folder), folder, None)
    write(tmp_path / "out.dcm", series, labels_of((6, 20, 24)), TABLE, "student")
    assert pydicom.dcmread(tmp_path / "out.dcm").Modality in ("SEG", "RTSTRUCT")


CHINESE = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"  # of PS3.5, K.3
JAPANESE = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"  # of PS3.5, H.3
KOREAN = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"  # of PS3.5, I.2


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
@pytest.mark.parametrize(
    ("charset", "stored", "name"),
    [
        ("\\ISO 2022 IR 87", JAPANESE, "Yamada^Tarou=山田^太郎"),
        ("\\ISO 2022 IR 149", KOREAN, "Hong^Gildong=洪^吉洞"),
        ("\\ISO 2022 IR 58", CHINESE, "Zhang^XiaoDong=张^小东"),
        ("ISO 2022 IR 100", "Müller^Jo".encode("latin-1"), "Müller^Jo"),
        ("ISO 2022 IR 6", b"Doe^Jo", "Doe^Jo"),
        ("ISO_IR 6", b"Doe^Jo", "Doe^Jo"),
        ("", b"Doe^Jo", "Doe^Jo"),
        pytest.param(
            "UNKNOWN", b"Doe^Jo", "Doe^Jo", marks=pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")
        ),
    ],
)
def test_names_in_any_character_set_are_copied(tmp_path, write, charset, stored, name):
    slices = a_series(an_image(), SpecificCharacterSet=charset)
    for one in slices:
        one["PatientName"] = RawDataElement(Tag("PatientName"), "PN", len(stored), stored, 0, False, True)
    (series,) = find_series(save(tmp_path / "ct", slices)).series
    write(tmp_path / "out.dcm", series, labels_of((6, 20, 24)), TABLE, "student")
    assert str(pydicom.dcmread(tmp_path / "out.dcm").PatientName) == name


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientSex", "U"), ("PatientSex", "male"), ("PatientBirthDate", "1960"), ("StudyTime", "12:00:00")],
)
def test_what_is_no_sex_date_or_time_is_left_empty(tmp_path, write, keyword, value):
    slices = a_series(an_image())
    for one in slices:
        one[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE)
    (series,) = find_series(save(tmp_path / "ct", slices)).series
    write(tmp_path / "out.dcm", series, labels_of((6, 20, 24)), TABLE, "student")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert written[keyword].is_empty
    assert (written.PatientName, written.StudyDate) == ("Doe^Jo", "20260101")


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_attributes_that_cannot_be_decoded_are_left_out(tmp_path, write):
    (series,) = find_series(
        save(tmp_path / "ct", a_series(an_image(), StudyComments="ABCD", BodyPartExamined="ABCD"))
    ).series
    for file in series.files:
        for tag in (b"\x32\x00\x00\x40LT", b"\x18\x00\x15\x00CS"):
            data = file.path.read_bytes()
            assert tag in data
            file.path.write_bytes(data.replace(tag, tag[:4] + b"FD"))  # of 8 bytes
    write(tmp_path / "out.dcm", series, labels_of((6, 20, 24)), TABLE, "student")
    assert str(pydicom.dcmread(tmp_path / "out.dcm").PatientName) == "Doe^Jo"


def test_a_contour_of_more_than_64_kb_keeps_its_type(tmp_path):
    shape = (3, 300, 300)
    folder = save(tmp_path / "ct", a_series(np.zeros(shape, np.int16)))
    (series,) = choose_series(find_series(folder), folder, None)
    labels = np.zeros(shape, np.uint8)
    labels[1, :, 2] = 1
    labels[1, ::2, 2:298] = 1  # a comb
    write_rtstruct(tmp_path / "rt.dcm", series, labels, TABLE, "student")
    (segment,) = read_rtstruct(DicomFile(tmp_path / "rt.dcm"), series)
    assert np.array_equal(segment.mask, labels == 1)
    (contour,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert len(str(contour.ContourData)) > 65_536
    assert contour["ContourData"].VR == "DS"
