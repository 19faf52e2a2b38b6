"""Names of label values: in tables beside them, and as `flare23 init` writes them."""

from __future__ import annotations

import csv
import json

import pytest
from cohorts import write
from folders import AFFINE, LEFT, LIVER, RIGHT, configured, ct, labels, write_pairs

from flare23_lib.starter.names import identifier, name_of, names_of_values


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1 255 0 0 1 1 1 \"Right Kidney\"\n0 0 0 0 0 0 0 \"Clear Label\"\n", "labels.txt"),
        ("1,right kidney\n", "labels.csv"),
        ("\ufeffvalue;name\n1;kidney_right\n", "labels.csv"),
        ('1,"kidney_right"\n', "labels.csv"),
    ],
)  # fmt: skip
def test_tables_of_other_programs_name_values(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    assert names_of_values(tmp_path) == {1: "right_kidney"}


def test_a_list_of_patients_names_no_values(tmp_path):
    (tmp_path / "cases.csv").write_text("case,age\nanna,1\nbert,2\n")
    (tmp_path / "version.json").write_text('{"version": 1}')
    assert names_of_values(tmp_path) == {}


def test_regions_of_several_values_are_named(tmp_path, caplog):
    table = {"labels": {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    assert names_of_values(tmp_path) == {2: "tumor"}
    assert "dataset.json: regions of several values are not taken (kidney [1, 2, 3]; masses [2, 3])" in caplog.text


def test_names_are_made_fit_for_the_configuration():
    given = (
        "Gall Bladder",
        "kidney_left",
        "arota",
        "3rd rib",
        "prostate/uterus",
        "Cancer",
        "Rt Adrenal",
        "KidneyLeft",
        "Köln Süd",
    )
    assert [identifier(name) for name in given] == [
        "gallbladder", "left_kidney", "aorta", "label_3rd_rib", "prostate_uterus", "tumor",
        "right_adrenal_gland", "left_kidney", "koln_sud",
    ]  # fmt: skip


def test_names_of_other_scripts_are_not_mixed_up():
    given = {1: "肝脏", 2: "右肾", 3: "Dünndarm", 4: "печень 1"}
    assert {value: name_of(value, name) for value, name in given.items()} == {
        1: "label_1", 2: "label_2", 3: "dunndarm", 4: "label_4",
    }  # fmt: skip


def test_a_table_names_only_values_that_are_there(tmp_path, caplog):
    (tmp_path / "colorectal_patients.csv").write_text("id,age\ncrc_0,60\ncrc_1,61\n")
    assert names_of_values(tmp_path, [1, 2]) == {}
    (tmp_path / "labels.csv").write_bytes("1;Nièren\n".encode("latin-1"))
    assert names_of_values(tmp_path, [1, 2]) == {}
    assert "labels.csv: names no values, as it cannot be read" in caplog.text
    caplog.clear()
    (tmp_path / "labels.csv").write_text('1,"' + "x" * (csv.field_size_limit() + 1))
    assert names_of_values(tmp_path, [1, 2]) == {}
    assert "labels.csv: names no values, as it cannot be read" in caplog.text


def test_values_that_no_table_names_get_names_to_be_replaced(tmp_path):
    for number in range(3):
        write(tmp_path / f"own/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"own/seg/{number}.nii.gz", labels(v7=LIVER), AFFINE)
    config = configured(tmp_path, "own")
    assert [(label.name, label.value) for label in config.labels] == [("label_7", 7)]
    assert "# no table names label_7: write what they are" in (tmp_path / "m.yaml").read_text()


def test_values_without_names_are_not_the_same_in_two_sources(tmp_path):
    for source, box in (("one", LIVER), ("two", RIGHT)):
        for number in range(3):
            write(tmp_path / f"{source}/img/{number}.nii.gz", ct(number + ord(source[0])), AFFINE)
            write(tmp_path / f"{source}/seg/{number}.nii.gz", labels(v1=box), AFFINE)
    config = configured(tmp_path, "one", "two")
    assert [label.name for label in config.labels] == ["one_label_1", "two_label_1"]


def test_words_that_yaml_takes_for_something_else(tmp_path):
    for number in range(4):
        write(tmp_path / f"NO/imagesTr/{number}_0000.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"NO/labelsTr/{number}.nii.gz", labels(v1=LIVER, v2=LEFT, v3=RIGHT), AFFINE)
    named = {"labels": {"background": 0, "ON": 1, "organs": 2, "liver": 3}, "file_ending": ".nii.gz"}
    (tmp_path / "NO/dataset.json").write_text(json.dumps(named))
    config = configured(tmp_path, "NO")
    assert list(config.sources) == ["no"]
    assert {label.name for label in config.labels} == {"on", "label_organs", "liver"}


def test_names_that_become_alike_are_told_apart(tmp_path):
    write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", range(2), v1=LIVER, v2=LEFT)
    (tmp_path / "own/labels.csv").write_text("1;node +\n2;node -\n")
    config = configured(tmp_path, "own")
    assert [label.name for label in config.labels] == ["node", "node_2"]
    assert "node_2 would be node like another" in (tmp_path / "m.yaml").read_text()


def test_structures_that_another_source_has_by_sides_are_divided(tmp_path):
    for source, names in (("a", "1,Lungs\n2,Rt Adrenal"), ("b", "1,LungLeft\n2,right_lung\n3,Adrenal")):
        for number in range(3):
            boxes = {f"v{value}": box for value, box in enumerate((LEFT, RIGHT, LIVER)[: 2 + (source == "b")], 1)}
            write(tmp_path / f"{source}/img/{number}.nii.gz", ct(number + 10 * ord(source)), AFFINE)
            write(tmp_path / f"{source}/seg/{number}.nii.gz", labels(**boxes), AFFINE)
        (tmp_path / source / "labels.csv").write_text(f"value,name\n{names}\n")
    config = configured(tmp_path, "a", "b")
    assert [label.name for label in config.labels] == [
        "right_lung", "left_lung", "right_adrenal_gland", "left_adrenal_gland",
    ]  # fmt: skip
    assert set(config.sources["a"].targets) == {"right_lung", "left_lung", "right_adrenal_gland"}


def test_ignored_voxels_are_no_class(tmp_path):
    images, maps = tmp_path / "own/imagesTr/case_#_0000.nii.gz", tmp_path / "own/labelsTr/case_#.nii.gz"
    write_pairs(images, maps, range(3), v1=LIVER, v3=LEFT, v255=RIGHT)
    table = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": table}))
    config = configured(tmp_path, "own")
    assert dict(config.sources["own"].values) == {"1": "liver", "3": "ignore", "255": "ignore"}
    assert [label.name for label in config.labels] == ["liver"]
