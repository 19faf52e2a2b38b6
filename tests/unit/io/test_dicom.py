"""Series of every kind that archives hold: read right, or refused in a line that names the fault."""

import errno
import os
import random
import shutil
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicoms import (
    AXIAL,
    OBLIQUE,
    SAGITTAL,
    a_series,
    a_slice,
    affine_of,
    an_image,
    enhanced,
    new_uids,
    save,
)
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from flare23_lib.errors import ImageError
from flare23_lib.io.dicom_search import choose_series, find_series


def series_in(path, wanted=None):
    (series,) = choose_series(find_series(path), path, wanted)
    return series


def change(path, before, after):
    """Replace bytes of a file, which occur once."""
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
def test_a_series_has_its_voxels_and_its_place(tmp_path, orientation):
    array = an_image()
    series = series_in(save(tmp_path / "ct", a_series(array, orientation)))
    volume = series.read()
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.geometry.affine, affine_of(orientation), atol=1e-5)
    assert series.geometry().difference(volume.geometry) is None
    assert series.held_bytes == volume.array.nbytes
    assert series.warnings() == ()


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
def test_a_voxel_lies_where_simpleitk_puts_it(tmp_path, orientation):
    folder = save(tmp_path / "ct", a_series(an_image(), orientation))
    volume = series_in(folder).read()
    image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.array)
    for index in ((0, 0, 0), (5, 7, 3), (23, 19, 5)):
        place = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        assert np.allclose((volume.geometry.affine @ [*index, 1])[:3], place, atol=1e-4)


def test_files_are_known_by_content_in_any_order_below_any_folder(tmp_path):
    array = an_image()
    slices = a_series(array)
    random.Random(0).shuffle(slices)
    save(tmp_path / "ct" / "a" / "b", slices[:3], "{}")
    save(tmp_path / "ct" / "c", slices[3:], "x{}.jpg")
    (tmp_path / "ct" / "DICOMDIR.txt").write_text("no image")
    (tmp_path / "ct" / ".hidden").write_bytes(b"")
    assert np.array_equal(series_in(tmp_path / "ct").read().array, array)


def test_a_zip_archive_is_read_as_its_folder(tmp_path):
    array = an_image()
    save(tmp_path / "ct" / "deep", a_series(array))
    archive = shutil.make_archive(str(tmp_path / "ct"), "zip", tmp_path / "ct")
    assert np.array_equal(series_in(tmp_path / "ct.zip").read().array, array)
    with zipfile.ZipFile(archive, "a") as handle:
        handle.writestr("__MACOSX/deep/._IM0000.dcm", b"junk")
    assert len(series_in(tmp_path / "ct.zip").frames) == len(array)


def test_a_file_without_preamble_is_read(tmp_path):
    array = an_image()
    folder = save(tmp_path / "ct", a_series(array))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert np.array_equal(series_in(folder).read().array, array)


def test_of_several_series_none_is_taken_unasked(tmp_path):
    arrays = [an_image(seed=1), an_image(seed=2)]
    study = new_uids()[0]
    for number, array in enumerate(arrays, 3):
        slices = a_series(
            array, uids=(study, *new_uids()[1:]), SeriesNumber=number, SeriesDescription=f"phase {number}"
        )
        save(tmp_path / "ct", slices, f"{number}-{{}}")
    with pytest.raises(ImageError, match="2 CT series") as error:
        series_in(tmp_path / "ct")
    first, second = str(error.value).splitlines()[2:]
    assert first.split()[:5] == ["3", "3", "phase", "3", "6"]
    assert second.split()[:5] == ["4", "4", "phase", "4", "6"]
    assert "0.7x0.8x2.5" in first
    assert np.array_equal(series_in(tmp_path / "ct", "4").read().array, arrays[1])
    uid = first.split()[-1]
    assert np.array_equal(series_in(tmp_path / "ct", uid).read().array, arrays[0])
    assert len(choose_series(find_series(tmp_path / "ct"), tmp_path, "all")) == 2
    with pytest.raises(ImageError, match="'2' is no series"):
        series_in(tmp_path / "ct", "2")


def test_series_of_the_same_number_are_known_by_their_place_in_the_list(tmp_path):
    arrays = [an_image(seed=1), an_image(seed=2)]
    for name, array in zip("ab", arrays, strict=True):
        save(tmp_path / "ct" / name, a_series(array, SeriesNumber=3, PatientID=name))
    with pytest.raises(ImageError, match="2 CT series") as error:
        series_in(tmp_path / "ct")
    assert [line.split()[:2] for line in str(error.value).splitlines()[2:]] == [["1", "3"], ["2", "3"]]
    assert np.array_equal(series_in(tmp_path / "ct", "2").read().array, arrays[1])


def test_linked_folders_are_searched_and_a_loop_ends(tmp_path):
    save(tmp_path / "archive" / "ct", a_series(an_image()))
    (tmp_path / "links").mkdir()
    (tmp_path / "links/patient").symlink_to(tmp_path / "archive/ct")
    (tmp_path / "links/loop").symlink_to(tmp_path / "links")
    (tmp_path / "links/itself").symlink_to(tmp_path / "links/itself")
    os.mkfifo(tmp_path / "links/pipe")
    assert len(series_in(tmp_path / "links").frames) == 6


@pytest.mark.parametrize("fault", ["encrypted", "broken", "packed otherwise"])
def test_an_archive_that_cannot_be_unpacked_is_one_line(tmp_path, fault):
    path = tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(500))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    if fault == "encrypted":
        content[6] |= 1
        content[directory + 8] |= 1
    elif fault == "packed otherwise":
        content[8] = content[directory + 10] = 97
    else:
        content[31] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"ct\.zip/a: cannot be read"):
        find_series(path)


def test_a_file_that_may_not_be_read_is_named_once(tmp_path, monkeypatch):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    folder = save(tmp_path / "ct", a_series(an_image()))
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ImageError) as caught:
        find_series(folder)
    assert str(caught.value) == f"{folder / 'IM0000.dcm'}: cannot be read (Permission denied)"


def test_localizers_other_modalities_and_other_orientations_are_no_part_of_a_volume(tmp_path):
    array = an_image()
    uids = new_uids()
    slices = a_series(array, uids=uids)
    scout = a_slice(array[0], uids, 99, (0, 0, 0), SAGITTAL)  # in the same series, known by its geometry
    marked = a_series(array, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    mr = a_series(array, Modality="MR")
    save(tmp_path / "ct", [scout, *slices, *marked, *mr])
    assert np.array_equal(series_in(tmp_path / "ct").read().array, array)
    save(tmp_path / "none", [scout, *marked, *mr])
    with pytest.raises(ImageError, match="holds no CT series") as error:
        series_in(tmp_path / "none")
    kinds = ("1 x localizer", "1 x series of modality MR", "1 x CT series of fewer than 3 slices")
    assert all(kind in str(error.value) for kind in kinds)


@pytest.mark.parametrize(("missing", "what"), [([2], "1 slices are missing between instance 2 at 32.50 mm"),
                                               ([2, 3], "2 slices are missing between instance 2 at")])  # fmt: skip
def test_missing_slices_are_refused_with_their_place(tmp_path, missing, what):
    slices = a_series(an_image((10, 20, 24)))
    series = series_in(save(tmp_path / "ct", [one for index, one in enumerate(slices) if index not in missing]))
    with pytest.raises(ImageError, match=what):
        series.read()


def test_images_of_a_series_that_are_left_out_are_counted_in_its_warnings(tmp_path):
    slices = a_series(an_image((8, 20, 24)))
    slices[-1].PixelSpacing = [0.8, 0.701]
    series = series_in(save(tmp_path / "spacing", slices))
    assert len(series.frames) == 7
    assert series.warnings()[0].startswith("images of the series that are left out: 1;")
    slices = a_series(an_image((8, 20, 24)))
    slices[-1].RescaleSlope = None
    del slices[0].ImagePositionPatient
    found = find_series(save(tmp_path / "position", slices))
    assert found.series[0].warnings()[0].startswith("images of the series that are left out: 2;")
    assert found.passed_over == {
        "an image without position (CT)": 1,
        "an image whose slope or intercept is no number (CT)": 1,
    }
    marked = a_slice(an_image()[0], new_uids(), 1, (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    marked.SeriesInstanceUID = slices[0].SeriesInstanceUID
    del marked.ImagePositionPatient
    save(tmp_path / "position", [marked], "localizer.dcm")
    assert series_in(tmp_path / "position").left_out == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x28\0\x11\0US\2\0\x18\0", b""),
        (b"\x28\0\x11\0US\2\0\x18\0", b"\x28\0\x11\0US\0\0"),
        (b"\x28\0\x11\0US", b"\x28\0\x11\0UQ"),
        (b"\x28\0\x08\0IS\2\0001 ", b"\x28\0\x08\0IS\2\0ab"),
        (b"\x28\0\x08\0IS\2\0001 ", b"\x28\0\x08\0IS\2\0-1"),
        (b"\x20\0\x13\0IS", b"\x20\0\x13\0\xd9\xd9"),
    ],
    ids=["no columns", "empty columns", "columns of no type", "ab frames", "-1 frames", "a number of no type"],
)
def test_an_image_with_a_damaged_header_is_left_out(tmp_path, before, after):
    slices = a_series(an_image((8, 20, 24)))
    slices[-1].NumberOfFrames = 1
    folder = save(tmp_path / "ct", slices)
    change(folder / "IM0007.dcm", before, after)
    found = find_series(folder)
    assert found.passed_over == {"a file with a damaged header (CT)": 1}
    assert [(len(series.frames), series.left_out) for series in found.series] == [(7, 1)]


def test_frames_without_positions_of_their_own_are_left_out_however_many_there_are(tmp_path):
    slices = a_series(an_image((8, 20, 24)))
    slices[-1].NumberOfFrames = 999_999_999
    found = find_series(save(tmp_path / "ct", slices))
    assert found.passed_over == {"frames without positions of their own (CT)": 1}
    assert [(len(series.frames), series.left_out) for series in found.series] == [(7, 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"-20.0\\37.5", b"-20.0\\nan "), (b"0.8\\0.7", b"0.8\\nan"), (b"0.8\\0.7", b"inf\\0.7")],
    ids=["position", "distance of columns", "distance of rows"],
)
def test_a_slice_whose_position_or_spacing_is_not_finite_is_left_out(tmp_path, before, after):
    folder = save(tmp_path / "ct", a_series(an_image((8, 20, 24))))
    change(folder / "IM0003.dcm", before, after)
    found = find_series(folder)
    assert found.passed_over == {"an image without position (CT)": 1}
    assert [(len(series.frames), series.left_out) for series in found.series] == [(7, 1)]


def test_files_that_are_passed_over_beside_a_volume_are_logged_in_one_line(tmp_path, caplog):
    folder = save(tmp_path / "ct", a_series(an_image((8, 20, 24))))
    (folder / "IM0000.dcm").write_bytes(b"")
    cut = folder / "IM0006.dcm"
    content = cut.read_bytes()
    cut.write_bytes(content[: content.index(b"\x28\0\x10\0")])  # before its number of rows
    (folder / "IM0007.dcm").unlink()
    (folder / "IM0007.dcm").symlink_to(tmp_path / "nowhere")
    with caplog.at_level("INFO"):
        series = series_in(folder)
    assert "holds beside CT volumes 1 x empty file, 1 x no image (CT), 1 x dead link" in caplog.text
    assert (len(series.frames), series.left_out) == (5, 1)


def moved(slices, index, shift):
    position = np.array(slices[index].ImagePositionPatient, float) + shift
    slices[index].ImagePositionPatient = position.round(6).tolist()


def test_a_jump_is_refused_and_resampled_only_on_request(tmp_path):
    array = np.arange(10, dtype=np.int16)[:, None, None] * 100 + np.zeros((10, 4, 5), np.int16)
    slices = a_series(array)
    for index in range(5, 10):
        moved(slices, index, (0, 0, 1.25))
    series = series_in(save(tmp_path / "ct", slices))
    with pytest.raises(ImageError, match=r"not equally spaced: 3\.75 mm between instance 5 at .* median 2\.5 mm"):
        series.geometry()
    resampled = replace(series, irregular="resample")
    volume = resampled.read()
    assert volume.array.shape == resampled.geometry().shape == (11, 4, 5)
    assert "interpolated to 11" in resampled.warnings()[0]
    heights = np.abs(volume.geometry.affine[2, 2]) * np.arange(11)
    expected = np.interp(heights, [*(2.5 * np.arange(5)), *(2.5 * np.arange(5, 10) + 1.25)], 100 * np.arange(10))
    assert np.abs(volume.array[:, 0, 0] - expected).max() <= 0.51


def test_slices_that_are_interpolated_take_no_more_memory_than_is_counted(tmp_path):
    slices = a_series(an_image((60, 100, 200)))
    series = series_in(save(tmp_path / "ct", [*slices[:30], *slices[31:]]))
    resampled = replace(series, irregular="resample")
    tracemalloc.start()
    volume = resampled.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.array.shape[0] == 60
    assert peak <= 1.2 * resampled.held_bytes


def test_positions_rounded_by_the_scanner_are_no_fault(tmp_path):
    array = an_image((40, 8, 8))
    slices = a_series(array, step=1.4)
    rng = np.random.default_rng(0)
    for index in range(40):
        moved(slices, index, (0, 0, rng.uniform(-0.01, 0.01)))
    volume = series_in(save(tmp_path / "ct", slices)).read()
    assert np.array_equal(volume.array, array)
    assert volume.geometry.spacing[0] == pytest.approx(1.4, abs=1e-3)


@pytest.mark.parametrize("step", [0.625, 0.75, 1.25])
@pytest.mark.parametrize("count", [6, 41])
def test_positions_rounded_to_a_tenth_of_a_millimeter_are_no_fault(tmp_path, step, count):
    array = an_image((count, 8, 8))
    slices = a_series(array, step=step)
    for one in slices:
        one.ImagePositionPatient = [round(float(value), 1) for value in one.ImagePositionPatient]
    volume = series_in(save(tmp_path / "ct", slices)).read()
    assert np.array_equal(volume.array, array)
    assert volume.geometry.spacing[0] == pytest.approx(step, abs=0.1 / (count - 1))
    with pytest.raises(ImageError, match=r"missing|not equally spaced"):
        series_in(save(tmp_path / "gap", [*slices[:2], *slices[3:]])).read()


def test_two_slices_at_one_place_are_refused_and_copies_of_a_file_are_not(tmp_path):
    slices = a_series(an_image())
    save(tmp_path / "copies", slices)
    shutil.copytree(tmp_path / "copies", tmp_path / "copies" / "again")
    assert len(series_in(tmp_path / "copies").read().array) == 6
    uids = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, slices[0].FrameOfReferenceUID
    double = a_slice(an_image()[0], uids, 77, slices[3].ImagePositionPatient)
    series = series_in(save(tmp_path / "double", [*slices, double]))
    with pytest.raises(ImageError, match=r"instance (4 and instance 77|77 and instance 4) lie at the same place"):
        series.read()


def test_patients_who_share_all_uids_are_series_of_their_own(tmp_path):
    uids, arrays = new_uids(), [an_image(seed=1), an_image(seed=2)]
    images = [new_uids()[0] for _ in arrays[0]]
    for name, array in zip("AB", arrays, strict=True):
        slices = a_series(array, uids=uids, PatientID=name)
        for one, uid in zip(slices, images, strict=True):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid
        save(tmp_path / "ct" / name, slices)
    volumes = choose_series(find_series(tmp_path / "ct"), tmp_path, "all")
    assert [series.patient for series in volumes] == ["A", "B"]
    assert all(np.array_equal(one.read().array, array) for one, array in zip(volumes, arrays, strict=True))
    with pytest.raises(ImageError, match="stands for 2 of them"):
        series_in(tmp_path / "ct", uids[1])


def test_images_without_uids_are_no_copies_of_each_other(tmp_path):
    slices = a_series(an_image())
    for one in slices:
        del one.SOPInstanceUID
    for index, one in enumerate(slices):
        (tmp_path / "ct").mkdir(exist_ok=True)
        one.save_as(tmp_path / "ct" / f"{index}.dcm", enforce_file_format=False)
    assert np.array_equal(series_in(tmp_path / "ct").read().array, an_image())


def test_a_tilted_gantry_keeps_its_shear(tmp_path, caplog):
    array = an_image()
    series = series_in(save(tmp_path / "ct", a_series(array, tilt=0.9)))
    volume = series.read()
    assert "tilted by 19.8 degrees" in caplog.text
    assert np.allclose(volume.geometry.affine, affine_of(tilt=0.9), atol=1e-5)
    assert np.allclose(volume.header.get_best_affine(), affine_of(tilt=0.9), atol=1e-5)
    assert "tilted" in series.warnings()[0]


def test_slices_shifted_in_their_plane_are_refused(tmp_path):
    slices = a_series(an_image())
    moved(slices, 3, (4.0, 0, 0))
    with pytest.raises(ImageError, match="instance 4 is shifted in its plane"):
        series_in(save(tmp_path / "ct", slices)).read()


def test_a_multi_frame_file_is_a_series(tmp_path):
    array = an_image()
    slices = a_series(array, OBLIQUE)
    random.Random(1).shuffle(slices)
    volume = series_in(save(tmp_path / "ct", [enhanced(slices)])).read()
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.geometry.affine, affine_of(OBLIQUE), atol=1e-5)
    with pytest.raises(ImageError, match="1 slices are missing"):
        series_in(save(tmp_path / "gap", [enhanced([slices[0], *slices[2:]])])).read()


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=["rle", "jpeg-ls", "jpeg-2000"]
)
def test_compressed_files_are_decoded(tmp_path, syntax):
    array = an_image((4, 32, 40))
    slices = a_series(array)
    for one in slices:
        if syntax == JPEG2000Lossless:
            jpeg_2000(one)
        else:
            one.compress(syntax)
    assert np.array_equal(series_in(save(tmp_path / "ct", slices)).read().array, array)


def jpeg_2000(dataset):
    import imagecodecs
    from pydicom.encaps import encapsulate

    frame = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = encapsulate([imagecodecs.jpeg2k_encode(frame, reversible=True, codecformat="j2k")])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless


def test_broken_pixels_and_color_are_refused_with_their_file(tmp_path):
    slices = a_series(an_image())
    slices[2].PixelData = slices[2].PixelData[:100]
    with pytest.raises(ImageError, match=r"IM0002\.dcm: its pixels cannot be decoded"):
        series_in(save(tmp_path / "short", slices)).read()
    slices = a_series(an_image(), PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(ImageError, match=r"IM0000\.dcm: is MONOCHROME1"):
        series_in(save(tmp_path / "inverse", slices)).read()


def test_values_that_no_int16_holds_are_kept(tmp_path):
    slices = a_series(an_image(), RescaleSlope=0.5)
    volume = series_in(save(tmp_path / "half", slices)).read()
    assert volume.array.dtype == np.float32
    assert volume.array[0, 0, 0] == (an_image()[0, 0, 0] + 1024) * 0.5 - 1024
    slices = a_series(an_image(), RescaleSlope=50)
    assert series_in(save(tmp_path / "large", slices)).read().array.dtype == np.int32


def test_an_annotation_that_was_cut_off_is_passed_by(tmp_path):
    save(tmp_path, a_series(an_image((3, 8, 8))))
    broken = Dataset()
    broken.Modality, broken.SOPClassUID = "SEG", "1.2.840.10008.5.1.4.1.1.66.4"
    broken.ReferencedSeriesSequence = [Dataset()]
    broken.save_as(tmp_path / "broken.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert len(find_series(tmp_path).series) == 1


def test_nothing_and_a_folder_without_dicom_are_refused(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        find_series(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ImageError, match=r"holds no CT series \(1 x no DICOM file\)"):
        series_in(tmp_path)
