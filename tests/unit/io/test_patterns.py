"""Patterns of file names."""

import pytest

from flare23_lib.io.patterns import FilePattern


@pytest.mark.parametrize(
    ("text", "folder", "rest"),
    [
        ("a/b/{case}.nii.gz", "a/b", "{case}.nii.gz"),
        ("{case}/ct.nii.gz", "", "{case}/ct.nii.gz"),
        ("a/**/{case}_0000.nii.gz", "a", "**/{case}_0000.nii.gz"),
        ("/data/x*/y/{case}.nii", "/data", "x*/y/{case}.nii"),
        ("/{case}.nii", "/", "{case}.nii"),
        ("a/{case:ct_[0-9]+}/x.nii", "a", "{case:ct_[0-9]+}/x.nii"),
    ],
)
def test_a_pattern_begins_with_the_folder_that_is_listed(text, folder, rest):
    found = FilePattern.parse(text)
    assert (found.folder, found.rest) == (folder, rest)


@pytest.mark.parametrize(
    ("text", "file", "case"),
    [
        ("{case}.nii.gz", "a.b.nii.gz", "a.b"),
        ("{case}.nii.gz", "a/b.nii.gz", None),
        ("{case}.nii.gz", "a.nii", None),
        ("{case}.nii*", "a.nii.gz", "a"),
        ("{case}.nii*", "a.nii", "a"),
        ("**/{case}.nii", "x/y/a.nii", "a"),
        ("**/{case}.nii", "a.nii", "a"),
        ("{case}/img.nii", "a/img.nii", "a"),
        ("{case}/{case}_ct.nii", "a/a_ct.nii", "a"),
        ("{case}/{case}_ct.nii", "a/b_ct.nii", None),
        ("img?{case}.nii", "img01.nii", "1"),
        ("(x)[y]{case}+.nii", "(x)[y]1+.nii", "1"),
        ("{case:[ab]+}.nii", "ab.nii", "ab"),
        ("{case:[ab]+}.nii", "abc.nii", None),
    ],
)
def test_files_fit_patterns(text, file, case):
    found = FilePattern.parse(text).expression.fullmatch(file)
    assert (found["case"] if found else None) == case


def test_the_name_of_a_mask_is_apart_from_the_case():
    found = FilePattern.parse("{case}/seg/{mask}.nii.gz").expression.fullmatch("s1/seg/kidney_left.nii.gz")
    assert (found["case"], found["mask"]) == ("s1", "kidney_left")


def test_the_name_of_a_mask_may_occur_twice():
    expression = FilePattern.parse("m/{mask}/{case}_{mask}.nii.gz").expression
    found = expression.fullmatch("liver/liver_1_liver.nii.gz")
    assert FilePattern.with_mask(found) == "{mask}/liver_1_{mask}.nii.gz"
    assert expression.fullmatch("liver/liver_1_spleen.nii.gz") is None


@pytest.mark.parametrize(
    ("text", "file", "case", "mask"),
    [
        ("{case}_{mask}.nii.gz", "p1_liver.nii.gz", "p1", "liver"),
        ("{case}_{mask}.nii.gz", "p_1_liver_tumor.nii.gz", "p_1", "liver_tumor"),
        ("{case}_{mask}.nii.gz", "p1_lung_tumor.nii.gz", "p1_lung", "tumor"),
        ("{mask}_{case}.nii.gz", "liver_tumor_p1.nii.gz", "p1", "liver_tumor"),
        ("{case}_{mask}.nii.gz", "p1_other.nii.gz", None, None),
    ],
)
def test_of_masks_that_are_named_the_longest_that_fits_counts(text, file, case, mask):
    found = FilePattern.parse(text).naming(["tumor", "liver", "liver_tumor"]).fullmatch(file)
    assert (found and found["case"], found and found["mask"]) == (case, mask)


def test_what_follows_a_case_is_known_only_if_nothing_precedes_it():
    texts = ("a/{case}_seg.nii", "a/{case:x+}.nii.gz", "a/label{case}.nii", "{case}/seg.nii", "{case}.nii*")
    assert [FilePattern.parse(text).suffix for text in texts] == ["_seg.nii", ".nii.gz", None, None, None]


def test_letters_of_its_own_make_a_pattern_the_closer_one():
    image, label = (FilePattern.parse(text) for text in ("{case}_0000.nii.gz", "{case}.nii.gz"))
    assert image.weight > label.weight
    assert FilePattern.parse("**/{case:[0-9]+}*.nii").weight == len(".nii")
