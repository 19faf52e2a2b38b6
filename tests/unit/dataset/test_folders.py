"""Where a cohort's files are found, and what is reported of its folders."""

import os
from pathlib import Path

import pytest
from cohorts import SETTINGS, changed, image_array, label_array, small_cohort, with_folders, write
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.config.cohort_models import Source
from flare23_lib.dataset.discover import find, listing, notices
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.errors import CohortError


def cases_of(found):
    """Return labeled and unlabeled cases of the first source, its labels, and files that are none."""
    files = found.sources[0]
    return list(files.images), list(files.labels), list(files.unlabeled_images), found.others


def test_subfolders_are_searched(cohort):
    cohort.image("e", folder="imagesTr2200/1-500")
    cohort.label("e", 3, folder="labelsTr2200/more")
    assert [case.case for case in cohort.scan().cases] == ["a", "b", "c", "d", "e", "v"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CohortError, match="nowhere"):
        find(tmp_path / "nowhere", SETTINGS.sources)
    with pytest.raises(CohortError, match="no file"):
        find(tmp_path, SETTINGS.sources)


def test_files_of_the_same_names_are_told_apart_by_prefixes(cohort):
    cohort.image("a", folder="other/images")
    cohort.label("a", 5, folder="other/labels")
    cohort.settings = with_folders(images=["imagesTr2200", "other/images"], labels=["labelsTr2200", "other/labels"])
    assert {issue.kind for issue in cohort.scan().issues} >= {"duplicate_case"}
    other = {"images": "other/images/{case}_0000.nii.gz", "labels": "other/labels/{case}.nii.gz"}
    cohort.settings = changed(SETTINGS, sources={"o": other})
    found = cohort.scan()
    assert [(case.case, case.category) for case in found.cases if "a" in case.case] == [
        ("a", "tumor"),
        ("o_a", "all_organs"),
    ]
    assert {issue.kind for issue in found.issues} <= {"duplicate_image"}  # the fixture's images follow from names


def test_files_that_fit_no_suffix_are_listed(cohort):
    write(cohort.root / "imagesTr2200" / "e.nii", label_array())
    assert [(issue.kind, issue.severity) for issue in cohort.scan().issues] == [("other_file_name", "warn")]


def test_images_and_labels_may_lie_in_one_folder(tmp_path):
    for image, label in (("_0000.nii.gz", ".nii.gz"), (".nii.gz", "_seg.nii.gz")):
        folder = tmp_path / label
        for name in ("a", "b"):
            write(folder / "all" / f"{name}{image}", label_array())
            write(folder / "all" / f"{name}{label}", label_array())
        source = Source(images=f"all/{{case}}{image}", labels=f"all/{{case}}{label}", prefix="")
        assert cases_of(find(folder, {"one": source})) == (["a", "b"], ["a", "b"], [], ())


def test_hidden_folders_hold_no_cases(tmp_path):
    cohort = small_cohort(tmp_path)
    before = [case.case for case in cohort.scan().cases]
    for hidden in (".snapshot", "nested/.trash"):
        cohort.image("a", folder=f"imagesTr2200/{hidden}")
    found = cohort.scan()
    assert [case.case for case in found.cases] == before
    assert found.issues == []


def test_a_hidden_folder_that_a_pattern_names_is_searched_below_another_one(tmp_path):
    for path in (tmp_path / "a.nii.gz", tmp_path / ".labels" / "a.nii.gz"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = find(tmp_path, {"own": Source(images="{case}.nii.gz", labels=".labels/{case}.nii.gz")})
    assert cases_of(found) == (["own_a"], ["own_a"], [], ())


def test_the_listing_changes_with_every_image_twin_and_stray_file_and_with_permissions(cohort):
    seen = [listing(find(cohort.root, SETTINGS.sources))]
    image = cohort.image_path("a")
    for change in (
        lambda: cohort.image("e", folder="unlabeledTr1800"),
        image.with_suffix("").touch,
        image.with_name("stray.nii.gz").touch,
        lambda: image.chmod(0o400),
    ):
        change()
        seen.append(listing(find(cohort.root, SETTINGS.sources)))
    assert len(set(map(tuple, seen))) == 5


def test_a_folder_given_twice_over_holds_each_case_once(cohort):
    sources = with_folders(images=["imagesTr2200", "imagesTr2200/", "./imagesTr2200"]).sources
    found, expected = (find(cohort.root, given).sources[0] for given in (sources, SETTINGS.sources))
    assert found.images == expected.images


def test_folders_that_are_not_there_are_named(cohort):
    def lines(*evaluated, draws=False, **folders):
        sources = with_folders(**folders).sources
        return notices(find(cohort.root, sources), sources, draws, evaluated)

    assert lines("student") == []
    lost = {"unlabeled_images": ["typo"], "validation_labels": ["lost", "gone"]}
    found = lines("student", **lost)
    assert [line.partition(":")[0] for line in found] == [
        "sources.flare23.unlabeled_images", *["sources.flare23.validation_labels"] * 2, "models.student.evaluate",
    ]  # fmt: skip
    assert all(name in line for name, line in zip(("typo", "lost", "gone"), found, strict=False))
    assert len(lines(**lost)) == len(lines("student", draws=True, **lost)) == 3
    found = lines(images=["imagesTr2200", "hospital_b"])
    assert [line.partition(";")[0] for line in found] == [
        f"sources.flare23.images: there is no folder hospital_b in {cohort.root}"
    ]
    (cohort.root / "unlabeledTr1800").rename(cohort.root / "more")
    found = lines(unlabeled_images=["more", "lost", "unlabelTr1800", "unlabeledTr1800"])
    assert [line.partition(" in ")[0].partition("folder ")[2] for line in found] == [
        "lost", "unlabelTr1800 or unlabeledTr1800",
    ]  # fmt: skip


def test_a_source_without_files_is_named(cohort):
    sources = changed(SETTINGS, sources={"more": {"images": "imagesTr2200/CT{case}.nii.gz"}}).sources
    found = notices(find(cohort.root, sources), sources, False, [])
    assert found == ["sources.more: no image fits its patterns; none of its cases takes part"]


def test_a_file_belongs_to_the_pattern_of_the_innermost_folder(cohort):
    cohort.image("e", folder="imagesTr2200/unlabeled")
    cohort.settings = with_folders(unlabeled_images=["unlabeledTr1800", "imagesTr2200/unlabeled/"])
    found = cohort.scan()
    assert {case.case: case.category for case in found.cases}["e"] == "unlabeled"
    assert found.issues == []
    for name in (cohort.root / "imagesTr2200/unlabeled", "validation/../imagesTr2200/unlabeled"):
        spelled = find(cohort.root, with_folders(unlabeled_images=[str(name)]).sources)
        assert cases_of(spelled) == (["a", "b", "c"], ["a", "b", "c"], ["e"], ())


def test_a_file_name_that_is_not_utf8_is_refused_and_shown(cohort):
    cohort.image_path("a").rename(cohort.root / "imagesTr2200" / os.fsdecode(b"M\xfcller_0000.nii.gz"))
    with pytest.raises(CohortError, match=r"M\\xfcller_0000\.nii\.gz: its name is not UTF-8; rename it"):
        cohort.scan()
    (cohort.root / "imagesTr2200" / os.fsdecode(b"M\xfcller_0000.nii.gz")).rename(cohort.image_path("a"))
    stray = cohort.root / "imagesTr2200" / os.fsdecode(b"\xfc.txt")
    stray.touch()
    assert cohort.scan().issues == []
    stray.rename(stray.with_suffix(".nii"))
    with pytest.raises(CohortError, match=r"\\xfc\.nii: its name"):
        cohort.scan()


def test_a_cohort_may_be_the_folder_itself(cohort, monkeypatch):
    for name in ("a", "b", "c"):
        cohort.label_path(name).rename(cohort.root / "imagesTr2200" / f"{name}.nii.gz")
    monkeypatch.chdir(cohort.root / "imagesTr2200")
    found = find(Path(), {"own": Source(images="**/{case}_0000.nii.gz", labels="**/{case}.nii.gz", prefix="")})
    assert cases_of(found) == (["a", "b", "c"], ["a", "b", "c"], [], ())


def test_a_suffix_in_capitals_is_listed(cohort):
    cohort.image_path("a").rename(cohort.root / "imagesTr2200/A_0000.NII.GZ")
    assert "A_0000.NII.GZ" in " ".join(issue.file for issue in cohort.scan().issues)


@pytest.mark.parametrize("plain", [(), ("m0",), ("m0", "m1", "m2")])
def test_a_cohort_may_have_both_endings(tmp_path, plain):
    """Which one a file has is left open by `.nii*`."""
    for number in range(3):
        case = f"m{number}"
        write(tmp_path / f"images/{case}{'.nii' if case in plain else '.nii.gz'}", image_array(number))
        write(tmp_path / f"labels/{case}{'.nii.gz' if case in plain else '.nii'}", label_array(1, 5))
    source = {"images": "images/{case}.nii*", "labels": "labels/{case}.nii*"}
    settings = Config.load([RECIPE], {"sources": {"flare23": None, "mine": source}}).cohort_settings()
    found = scan_cohort(tmp_path, settings, tmp_path / "memory.jsonl")
    assert found.issues == []
    assert [case.case for case in found.cases] == ["mine_m0", "mine_m1", "mine_m2"]


def test_a_mask_may_be_named_with_the_sign_that_parts_it_from_the_case(tmp_path):
    masks = ("liver", "kidney_left", "other_organ")
    for number in range(2):
        write(tmp_path / f"images/p{number}.nii.gz", image_array(number))
        for mask in masks:
            write(tmp_path / f"masks/p{number}_{mask}.nii.gz", label_array(1))
    patterns = {"images": "images/{case}.nii.gz", "masks": "masks/{case}_{mask}.nii.gz"}
    sources = {"mine": Source(**patterns, values={"liver": "liver", "kidney_left": "left_kidney"})}
    found = find(tmp_path, sources)
    assert list(found.sources[0].labels) == ["mine_p0", "mine_p1"]
    assert notices(found, sources, False, []) == []
    before = listing(found)
    write(tmp_path / "masks/p1_kidney_left.nii.gz", label_array(1, 1))
    assert listing(find(tmp_path, sources)) != before


def test_a_name_of_a_case_that_is_a_path_is_refused(cohort):
    cohort.image("e", folder="imagesTr2200/more")
    sources = changed(SETTINGS, sources={"cohort": {"images": "imagesTr2200/{case:.+}_0000.nii.gz"}}).sources
    with pytest.raises(CohortError, match=r"e_0000.nii.gz: sources.cohort.images: .* takes 'more/e' for the name"):
        find(cohort.root, sources)
