"""Names and links: what a case is called, and which file is meant by several paths."""

import logging
import unicodedata

import numpy as np
import pytest
from cohorts import label_array, write

from flare23_lib.cache.entries import CacheFolder
from flare23_lib.dataset.quality import MAX_NAME_BYTES
from flare23_lib.inference.segmentations import TTA_VOTE_COUNT
from flare23_lib.io.atomic import atomic_path
from flare23_lib.io.nifti import write_volume


def add(cohort, image_name, label_name=None):
    cohort.image(image_name)
    cohort.label(label_name or image_name, 1, 5)


def cases_of(found):
    return [case.case for case in found.cases]


@pytest.mark.parametrize("name", ["Müller_01", "García_02", "Åsa", "각"])
@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_names_are_compared_however_their_letters_are_encoded(cohort, name, forms):
    add(cohort, *(unicodedata.normalize(form, name) for form in forms))
    found = cohort.scan()
    assert found.issues == []
    assert unicodedata.normalize("NFC", name) in cases_of(found)


def test_two_files_whose_names_look_the_same_are_one_case_twice(cohort):
    for form in ("NFC", "NFD"):
        add(cohort, unicodedata.normalize(form, "Müller"))
    assert {fault.kind for fault in cohort.scan().issues} == {"duplicate_case"}


@pytest.mark.parametrize("name", ["a" * (MAX_NAME_BYTES + 1), "b" + "\u5f71" * 72])
def test_a_name_that_the_store_cannot_hold_is_quarantined_and_the_others_stay(cohort, name):
    before = cases_of(cohort.scan())
    add(cohort, name)
    found = cohort.scan()
    assert [(fault.case, fault.kind) for fault in found.issues] == [(name, "name_too_long")]
    assert [case.case for case in found.cases if case.usable] == before


@pytest.mark.parametrize("name", ["a" * MAX_NAME_BYTES, "\u5f71" * (MAX_NAME_BYTES // 3), "1.2.826." * 26])
def test_the_longest_names_fit_into_the_store(cohort, tmp_path, name):
    add(cohort, name)
    assert cohort.scan().issues == []
    entry = CacheFolder.of(tmp_path / "store", "segmentations", {}).create().entry(name, {})
    for suffix in (TTA_VOTE_COUNT, ".json", ".b2nd"):
        with atomic_path(entry.file(suffix)) as temporary:
            temporary.touch()
        assert entry.file(suffix).exists()


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 248 + ".nii.gz")
    from flare23_lib.io.nifti import header_for

    write_volume(path, label_array(1), header_for(label_array(1).shape, np.eye(4), np.dtype(np.uint8)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_link_to_the_folder_around_it_ends_there_and_is_reported(cohort, caplog):
    before = cases_of(cohort.scan())
    (cohort.root / "imagesTr2200" / "latest").symlink_to(".")
    (cohort.root / "labelsTr2200" / "deep").mkdir()
    (cohort.root / "labelsTr2200" / "deep" / "up").symlink_to("../../labelsTr2200")
    (cohort.root / "imagesTr2200" / "self").symlink_to("self")
    with caplog.at_level(logging.WARNING):
        found = cohort.scan()
    assert (cases_of(found), found.issues) == (before, [])
    assert "latest" in caplog.text


def test_a_folder_that_is_reached_by_its_name_and_by_a_link_counts_once(cohort):
    folder = cohort.root / "imagesTr2200"
    for batch, case in (("batch_1", "a"), ("batch_2", "b")):
        (folder / batch).mkdir()
        cohort.image_path(case).rename(folder / batch / f"{case}_0000.nii.gz")
    (folder / "latest").symlink_to("batch_2")
    (folder / "an_earlier_name").symlink_to("batch_2")
    found = cohort.scan()
    assert found.issues == []
    assert next(case.image for case in found.cases if case.case == "b").endswith("/batch_2/b_0000.nii.gz")


def test_links_to_files_of_the_same_folder_count_once(cohort):
    folder = cohort.root / "imagesTr2200"
    (folder / "again").mkdir()
    (folder / "again" / "a_0000.nii.gz").symlink_to("../a_0000.nii.gz")
    (folder / "hard").mkdir()
    (folder / "hard" / "b_0000.nii.gz").hardlink_to(folder / "b_0000.nii.gz")
    assert cohort.scan().issues == []


def test_a_link_to_a_folder_elsewhere_is_followed(cohort, tmp_path):
    cohort.image("z", folder="../elsewhere/images")
    cohort.label("z", 1, 5, folder="../elsewhere/labels")
    (cohort.root / "imagesTr2200" / "more").symlink_to(cohort.root.parent / "elsewhere" / "images")
    (cohort.root / "labelsTr2200" / "more").symlink_to(cohort.root.parent / "elsewhere" / "labels")
    found = cohort.scan()
    assert found.issues == []
    assert "z" in cases_of(found)


def test_an_image_that_is_a_link_to_itself_is_named_and_the_others_stay(cohort):
    path = cohort.image_path("a")
    path.unlink()
    path.symlink_to(path.name)
    found = cohort.scan()
    assert [(fault.case, fault.kind) for fault in found.issues] == [("a", "cannot_be_read")]
    assert len([case for case in found.cases if case.usable]) == 4


@pytest.mark.parametrize("copy", ["d_Eq_1", "d_Tilt_1", "d_Tilt_Eq_1", "d_Eq"])
def test_a_volume_beside_its_resliced_copy_is_reported(cohort, copy):
    cohort.image(copy, folder="unlabeledTr1800")
    (fault,) = cohort.scan().issues
    assert (fault.case, fault.kind, fault.severity) == ("d", "resliced_copy", "warn")
    assert copy in fault.message


@pytest.mark.parametrize("other", ["d_1", "d_Eq_1a", "e_Eq_1", "dEq_1", "d_Equal"])
def test_other_names_are_no_resliced_copies(cohort, other):
    cohort.image(other, folder="unlabeledTr1800")
    assert cohort.scan().issues == []


def test_labels_of_a_case_with_doubtful_voxels_belong_to_its_category(cohort):
    write(cohort.label_path("a"), label_array(1, 14, 255))
    case = cohort.scan().cases[0]
    assert (case.category, case.labels_present, case.status) == ("tumor", [1, 14], "warned")
