"""Where a cohort's files are found, and what the folders are told of."""

import os
from pathlib import Path

import pytest
from cohorts import SETTINGS, changed, label_array, small_cohort, write

from flare23_lib.dataset.discover import find, listing, notices
from flare23_lib.errors import CohortError


def test_subfolders_are_searched(cohort):
    cohort.image("e", folder="imagesTr2200/1-500")
    cohort.label("e", 3, folder="labelsTr2200/more")
    assert [case.case for case in cohort.survey().cases] == ["a", "b", "c", "d", "e", "v"]


def test_the_listing_changes_with_every_file(cohort):
    before = listing(find(cohort.root, SETTINGS.layout))
    cohort.image("e", folder="unlabeledTr1800")
    assert listing(find(cohort.root, SETTINGS.layout)) != before


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CohortError, match="nowhere"):
        find(tmp_path / "nowhere", SETTINGS.layout)
    with pytest.raises(CohortError, match="no file"):
        find(tmp_path, SETTINGS.layout)


def test_files_of_the_same_names_are_told_apart_by_prefixes(cohort):
    cohort.image("a", folder="other/images")
    cohort.label("a", 5, folder="other/labels")
    images, labels = SETTINGS.layout.training_images, SETTINGS.layout.training_labels
    layout = {"training_images": [*images, "other/images"], "training_labels": [*labels, "other/labels"]}
    cohort.settings = changed(SETTINGS, layout=layout)
    assert {fault.kind for fault in cohort.survey().faults} >= {"duplicate_case"}
    cohort.settings = changed(cohort.settings, layout={"prefixes": {"other/images": "o", "other/labels": "o"}})
    found = cohort.survey()
    assert [(case.case, case.category) for case in found.cases if "a" in case.case] == [
        ("a", "tumor"),
        ("o_a", "all_organs"),
    ]
    assert {fault.kind for fault in found.faults} <= {"duplicate_image"}  # the fixture's images follow from names


def test_files_that_fit_no_suffix_are_listed(cohort):
    write(cohort.root / "imagesTr2200" / "e.nii", label_array())
    assert [(fault.kind, fault.severity) for fault in cohort.survey().faults] == [("other_file_name", "warn")]


def test_images_and_labels_may_lie_in_one_folder(tmp_path):
    layout = changed(SETTINGS.layout, training_images=["all"], training_labels=["all"])
    for image, label in (("_0000.nii.gz", ".nii.gz"), (".nii.gz", "_seg.nii.gz")):
        folder = tmp_path / label
        for name in ("a", "b"):
            write(folder / "all" / f"{name}{image}", label_array())
            write(folder / "all" / f"{name}{label}", label_array())
        found = find(folder, changed(layout, image_suffix=image, label_suffix=label))
        assert (list(found.labeled), list(found.labels), found.others) == (["a", "b"], ["a", "b"], ())


def test_hidden_folders_hold_no_cases(tmp_path):
    cohort = small_cohort(tmp_path)
    before = [case.case for case in cohort.survey().cases]
    for hidden in (".snapshot", "nested/.trash"):
        cohort.image("a", folder=f"imagesTr2200/{hidden}")
    found = cohort.survey()
    assert [case.case for case in found.cases] == before
    assert found.faults == []


def test_the_listing_changes_when_a_twin_or_a_stray_file_appears(tmp_path):
    cohort = small_cohort(tmp_path)
    layout = SETTINGS.layout
    seen = [listing(find(cohort.root, layout))]
    image = cohort.image_path("a")
    for path in (image.with_suffix(""), image.with_name("stray.nii.gz")):
        path.write_bytes(b"")
        seen.append(listing(find(cohort.root, layout)))
    assert len(set(map(tuple, seen))) == 3


def test_the_listing_changes_with_permissions(cohort):
    before = listing(find(cohort.root, SETTINGS.layout))
    cohort.image_path("a").chmod(0o600)
    assert listing(find(cohort.root, SETTINGS.layout)) != before


def test_a_folder_given_twice_over_holds_each_case_once(cohort):
    layout = changed(SETTINGS.layout, training_images=["imagesTr2200", "imagesTr2200/", "./imagesTr2200"])
    assert find(cohort.root, layout).labeled == find(cohort.root, SETTINGS.layout).labeled


def test_folders_that_are_not_there_are_told(cohort):
    layout = SETTINGS.layout
    assert notices(find(cohort.root, layout), cohort.root, layout, ["student"]) == []
    layout = changed(layout, unlabeled_images=["typo"], validation_labels=["lost", "gone"])
    lines = notices(find(cohort.root, layout), cohort.root, layout, ["student"])
    assert [line.partition(":")[0] for line in lines] == [
        "layout.unlabeled_images", *["layout.validation_labels"] * 2, "models.student.evaluate",
    ]  # fmt: skip
    assert "typo" in lines[0]
    assert "lost" in lines[1]
    assert "gone" in lines[2]
    assert len(notices(find(cohort.root, layout), cohort.root, layout, [])) == 3
    layout = changed(SETTINGS.layout, training_images=[*SETTINGS.layout.training_images, "hospital_b"])
    lines = notices(find(cohort.root, layout), cohort.root, layout, [])
    assert [line.partition(";")[0] for line in lines] == [
        f"layout.training_images: there is no folder hospital_b in {cohort.root}"
    ]
    (cohort.root / "unlabeledTr1800").rename(cohort.root / "more")
    layout = changed(SETTINGS.layout, unlabeled_images=["more", "lost", *SETTINGS.layout.unlabeled_images])
    lines = notices(find(cohort.root, layout), cohort.root, layout, [])
    assert [line.partition(" in ")[0].partition("folder ")[2] for line in lines] == [
        "lost", "unlabelTr1800 or unlabeledTr1800",
    ]  # fmt: skip


def test_a_file_belongs_to_the_innermost_folder_of_the_layout(cohort):
    cohort.image("e", folder="imagesTr2200/unlabeled")
    folders = ["unlabeledTr1800", "imagesTr2200/unlabeled/"]
    cohort.settings = changed(SETTINGS, layout={"unlabeled_images": folders})
    found = cohort.survey()
    assert {case.case: case.category for case in found.cases}["e"] == "unlabeled"
    assert found.faults == []
    for name in (cohort.root / "imagesTr2200/unlabeled", "validation/../imagesTr2200/unlabeled"):
        layout = changed(SETTINGS.layout, unlabeled_images=[str(name)])
        spelled = find(cohort.root, layout)
        assert ("e" in spelled.labeled, list(spelled.unlabeled), spelled.others) == (False, ["e"], ())
    inner = find(cohort.root, cohort.settings.layout)
    assert inner.folders_of(inner.unlabeled["e"][0]) == ["imagesTr2200/unlabeled/"]


def test_a_file_name_that_is_not_utf8_is_refused_and_shown(cohort):
    cohort.image_path("a").rename(cohort.root / "imagesTr2200" / os.fsdecode(b"M\xfcller_0000.nii.gz"))
    with pytest.raises(CohortError, match=r"M\\xfcller_0000\.nii\.gz: its name is not UTF-8; rename it"):
        cohort.survey()
    (cohort.root / "imagesTr2200" / os.fsdecode(b"M\xfcller_0000.nii.gz")).rename(cohort.image_path("a"))
    stray = cohort.root / "imagesTr2200" / os.fsdecode(b"\xfc.txt")
    stray.touch()
    assert cohort.survey().faults == []
    stray.rename(stray.with_suffix(".nii"))
    with pytest.raises(CohortError, match=r"\\xfc\.nii: its name"):
        cohort.survey()


def test_a_cohort_may_be_the_folder_itself(cohort, monkeypatch):
    for name in ("a", "b", "c"):
        cohort.label_path(name).rename(cohort.root / "imagesTr2200" / f"{name}.nii.gz")
    monkeypatch.chdir(cohort.root / "imagesTr2200")
    layout = changed(SETTINGS.layout, training_images=["."], training_labels=["."])
    found = find(Path(), layout)
    assert (list(found.labeled), list(found.labels), found.others) == (["a", "b", "c"], ["a", "b", "c"], ())


def test_a_suffix_in_capitals_is_told(cohort):
    cohort.image_path("a").rename(cohort.root / "imagesTr2200/A_0000.NII.GZ")
    assert "A_0000.NII.GZ" in " ".join(fault.file for fault in cohort.survey().faults)
