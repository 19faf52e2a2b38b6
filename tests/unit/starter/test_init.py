"""`flare23 init`: folders of several forms become configurations that are checked and run."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml
from cohorts import write
from conftest import flare23
from folders import AFFINE, LEFT, LIVER, RIGHT, ct, decathlon, labels
from places import REPOSITORY

from flare23_lib.config import Config
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.errors import CohortError
from flare23_lib.starter.init import init
from flare23_lib.starter.names import identifier, name_of, names_of_values
from flare23_lib.starter.planner import plan_network
from flare23_lib.starter.recognize import FolderSource, recognize

RECIPE = REPOSITORY / "config.yaml"
PRESETS = REPOSITORY / "presets" / "sources"


def keys(folder):
    found = recognize(folder, PRESETS)
    return found.name, found.keys


def write_pairs(image, label, numbers, **boxes):
    """Write CTs and label maps; `#` in their paths stands for the number."""
    for number in numbers:
        write(Path(str(image).replace("#", str(number))), ct(number), AFFINE)
        write(Path(str(label).replace("#", str(number))), labels(**boxes), AFFINE)


def test_a_decathlon_task_becomes_a_configuration_that_stands_alone(tmp_path):
    config = init([decathlon(tmp_path / "Task99_Own")], RECIPE, tmp_path / "mine.yaml", gpu_gb=8)
    text = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert text["recipe"] == "none"
    assert [(label.name, label.value, label.tolerance_mm) for label in config.labels] == [
        ("liver", 1, 5),
        ("right_kidney", 2, 3),
    ]
    assert config.sources["task99_own"].images == ("imagesTr/{case}.nii.gz",)
    student = config.models["student"]
    assert student.orientation == "canonical"
    assert student.training.mirror_axes == (0, 1)
    assert student.spacing == (5, 5, 5)
    assert student.train_on.manual_labels == ("task99_own",)
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert [case.split for case in found.cases].count("validation") == 1
    assert found.issues == []


def test_what_init_read_is_not_read_again(tmp_path, caplog):
    config = init([decathlon(tmp_path / "Task99_Own")], RECIPE, tmp_path / "mine.yaml", gpu_gb=8)
    caplog.set_level("INFO")
    memory = tmp_path / "mine_results/store/scan/files.jsonl"
    settings = config.cohort_settings()
    scan_cohort(config.cohort, settings.model_copy(update={"scan": settings.scan}), memory)
    assert "12 files, 6 of them new or changed" in caplog.text  # the images, of which only headers were read


def test_nnunets_names_are_known(tmp_path):
    for number in range(3):
        write(tmp_path / f"own/imagesTr/case_{number}_0000.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"own/labelsTr/case_{number}.nii.gz", labels(v1=LIVER), AFFINE)
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": {"background": 0, "Liver": 1}}))
    name, found = keys(tmp_path / "own")
    assert (name, found) == ("own", {"images": "imagesTr/{case}_0000.nii.gz", "labels": "labelsTr/{case}.nii.gz"})
    assert names_of_values(tmp_path / "own") == {1: "liver"}


def test_images_and_labels_beside_each_other_are_told_apart_by_content(tmp_path):
    for number in range(8, 12):
        write(tmp_path / f"volume-{number}.nii", ct(number), AFFINE)
        write(tmp_path / f"segmentation-{number}.nii", labels(v1=LIVER), AFFINE)
    for number in range(20, 23):
        write(tmp_path / f"more/volume-{number}.nii", ct(number), AFFINE)
    assert keys(tmp_path)[1] == {
        "images": "volume-{case}.nii",
        "labels": "segmentation-{case}.nii",
        "unlabeled_images": ["more/volume-{case}.nii"],
    }


@pytest.mark.parametrize(
    "names", [("siteA_001", "siteA_002", "siteB_001", "siteB_002"), ("a_1", "a_2", "other"), ("c 0", "c 1", "pat.2")]
)
def test_names_of_several_forms_are_one_pattern(tmp_path, names):
    for number, name in enumerate(names):
        write(tmp_path / f"images/{name}_0000.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"labels/{name}.nii.gz", labels(v1=LIVER), AFFINE)
    config = init([tmp_path], RECIPE, tmp_path / "m.yaml", 8)
    (source,) = config.sources.values()
    assert (source.images, source.labels) == (("images/{case}_0000.nii.gz",), ("labels/{case}.nii.gz",))
    assert len(scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases) == len(names)


def test_images_without_labels_among_labeled_ones_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    write_pairs(tmp_path / "own/images/siteA_#.nii.gz", tmp_path / "own/labels/siteA_#.nii.gz", range(3), v1=LIVER)
    for number in range(3, 5):
        write(tmp_path / f"own/images/siteB_{number}.nii.gz", ct(number), AFFINE)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert config.sources["own"].unlabeled_images == ()
    assert "own: 3 labeled images, 2 without labels" in caplog.text
    assert "2 of its images have no label and are not used" in (tmp_path / "m.yaml").read_text()


def test_a_folder_per_case_with_masks_is_known(tmp_path):
    for name in ("anna", "bert", "carl"):
        write(tmp_path / f"{name}/ct.nii.gz", ct(len(name) + ord(name[0])), AFFINE)
        for mask, box in (("Liver", LIVER), ("kidney_left", LEFT)):
            write(tmp_path / f"{name}/seg/{mask}.nii.gz", labels(v1=box), AFFINE)
    found = keys(tmp_path)[1]
    assert found["images"] == "{case}/ct.nii.gz"
    assert found["masks"] == "{case}/seg/{mask}.nii.gz"
    assert found["values"] == {"Liver": "liver", "kidney_left": "left_kidney"}


def test_names_without_numbers_are_paired(tmp_path):
    for name in ("anna", "bert"):
        write(tmp_path / f"img/{name}_ct.nii.gz", ct(ord(name[0])), AFFINE)
        write(tmp_path / f"gt/{name}_seg.nii.gz", labels(v3=LIVER), AFFINE)
    assert keys(tmp_path)[1] == {"images": "img/{case}_ct.nii.gz", "labels": "gt/{case}_seg.nii.gz"}


@pytest.mark.parametrize(
    "names",
    [
        ["anna", "bert"],
        ["Müller, Jürgen", "Özdemir A", "Straße"],
        [sha256(bytes([one])).hexdigest() for one in range(10)],
    ],
)
def test_equal_names_without_numbers_in_two_folders_are_no_folders_of_cases(tmp_path, names):
    for number, name in enumerate(names):
        write(tmp_path / f"images/{name}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"labels/{name}.nii.gz", labels(v1=LIVER), AFFINE)
    assert keys(tmp_path)[1] == {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}


@pytest.mark.parametrize(
    ("folders", "images", "label"),
    [
        (("annotations", "predictions", "scans"), ["scans"], "annotations"),
        (("ct", "pet", "seg"), ["ct", "pet"], "seg"),
    ],
)
def test_nor_are_three_folders_of_which_the_first_two_are_alike(tmp_path, folders, images, label):
    for number, name in enumerate(("anna", "bert", "carl", "dora")):
        for folder in folders:
            array = ct(number) if folder in images else labels(v1=LIVER)
            write(tmp_path / f"{folder}/{name}.nii.gz", array, AFFINE)
    found = recognize(tmp_path)
    assert found.keys["images"] == f"{images[0]}/{{case}}.nii.gz"
    assert found.keys["labels"] == f"{label}/{{case}}.nii.gz"
    others = [folder for folder in folders if folder not in (*images, label)]
    fits = f"are label maps that fit the images of {label}/{{case}}.nii.gz, too, not used"
    remarks = [f"{folder}/{{case}}.nii.gz {fits}" for folder in others]
    if second := images[1:]:
        same = "have cases of the same names, not used; if they are others, make a source of their own"
        remarks.append(f"{second[0]}/{{case}}.nii.gz {same}")
    assert found.remarks == remarks
    assert "unlabeled_images" not in found.keys


def test_known_layouts_take_their_presets(tmp_path):
    for number in range(2):
        write(tmp_path / f"kits23/dataset/case_{number}/imaging.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"kits23/dataset/case_{number}/segmentation.nii.gz", labels(v1=RIGHT), AFFINE)
    name, found = keys(tmp_path / "kits23")
    assert name == "kits"
    assert found["values"][1] == {"sides": ["right_kidney", "left_kidney"]}


def test_the_current_folder_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(decathlon(tmp_path / "Task03_Liver", cases=2))
    name, found = keys(Path())
    assert (name, found["values"]) == ("lits", {1: "liver", 2: "tumor"})


def test_a_layout_in_a_folder_does_not_hide_what_is_beside_it(tmp_path):
    for task in ("Task03_Liver", "Task09_Spleen", "Task10_Colon"):
        decathlon(tmp_path / task, cases=2)
    found = recognize(tmp_path, PRESETS)
    assert found.name == "lits"
    assert "not used: Task09_Spleen, Task10_Colon; give `flare23 init` a folder for each" in found.remarks


def test_only_the_folder_itself_is_listed(tmp_path, monkeypatch):
    write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", range(2), v1=LIVER)
    (tmp_path / "large").mkdir()
    scan, listed = os.scandir, set()
    monkeypatch.setattr(os, "scandir", lambda place: listed.add(Path(place)) or scan(place))
    recognize(tmp_path / "own", PRESETS)
    assert tmp_path / "own/seg" in listed
    assert listed.isdisjoint({tmp_path, tmp_path / "large"})


def test_several_folders_become_sources_with_one_map_of_labels(tmp_path):
    decathlon(tmp_path / "Task99_Own")
    for number in range(4):
        write(tmp_path / f"clinic/img/{number}.nii.gz", ct(50 + number), AFFINE)
        write(tmp_path / f"clinic/seg/{number}.nii.gz", labels(v1=RIGHT, v5=LIVER), AFFINE)
        write(tmp_path / f"clinic/seg/{number}.nii.gz", labels(v1=RIGHT, v5=LEFT), AFFINE)
        write(tmp_path / f"more/{number}.nii.gz", ct(90 + number), AFFINE)
    (tmp_path / "clinic/labels.csv").write_text("value;name\n1;kidneys\n5;cancer\n")
    config = init([tmp_path / name for name in ("Task99_Own", "clinic", "more")], RECIPE, tmp_path / "m.yaml", 8)
    assert {label.name: label.value for label in config.labels} == {
        "liver": 1, "right_kidney": 2, "left_kidney": 3, "tumor": 4,
    }  # fmt: skip
    assert config.labels[3].hidden_in == ("liver", "right_kidney", "left_kidney")
    clinic = config.sources["clinic"]
    assert clinic.images == ("clinic/img/{case}.nii.gz",)
    assert clinic.targets == ["right_kidney", "left_kidney", "tumor"]
    assert not config.sources["more"].has_labels
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}
    assert set(config.completions) == {"task99_own", "clinic", "unlabeled"}
    assert config.models["student"].train_on.label_completions == ("task99_own", "clinic", "unlabeled")


def test_words_that_yaml_takes_for_something_else(tmp_path):
    for number in range(4):
        write(tmp_path / f"NO/imagesTr/{number}_0000.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"NO/labelsTr/{number}.nii.gz", labels(v1=LIVER, v2=LEFT, v3=RIGHT), AFFINE)
    named = {"labels": {"background": 0, "ON": 1, "organs": 2, "liver": 3}, "file_ending": ".nii.gz"}
    (tmp_path / "NO/dataset.json").write_text(json.dumps(named))
    config = init([tmp_path / "NO"], RECIPE, tmp_path / "m.yaml", 8)
    assert list(config.sources) == ["no"]
    assert {label.name for label in config.labels} == {"on", "label_organs", "liver"}


def test_values_that_no_table_names_get_names_to_be_replaced(tmp_path):
    for number in range(3):
        write(tmp_path / f"own/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"own/seg/{number}.nii.gz", labels(v7=LIVER), AFFINE)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert [(label.name, label.value) for label in config.labels] == [("label_7", 7)]
    assert "# no table names label_7: write what they are" in (tmp_path / "m.yaml").read_text()


def test_values_without_names_are_not_the_same_in_two_sources(tmp_path):
    for source, box in (("one", LIVER), ("two", RIGHT)):
        for number in range(3):
            write(tmp_path / f"{source}/img/{number}.nii.gz", ct(number + ord(source[0])), AFFINE)
            write(tmp_path / f"{source}/seg/{number}.nii.gz", labels(v1=box), AFFINE)
    config = init([tmp_path / "one", tmp_path / "two"], RECIPE, tmp_path / "m.yaml", 8)
    assert [label.name for label in config.labels] == ["one_label_1", "two_label_1"]


def test_names_of_files_that_have_the_sources_name_get_no_prefix(tmp_path):
    decathlon(tmp_path / "own")
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert [case.case for case in cases] == [f"own_{number:03d}" for number in range(6)]


def test_a_label_that_is_seldom_there_is_asked_about(tmp_path):
    for number in range(4):
        write(tmp_path / f"own/img/{number}.nii.gz", ct(number), AFFINE)
        boxes = {"v1": LIVER} | ({"v2": LEFT} if number < 2 else {})
        write(tmp_path / f"own/seg/{number}.nii.gz", labels(**boxes), AFFINE)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert "in fewer than 4 cases: label_2 (2)" in (tmp_path / "m.yaml").read_text()
    assert config.sources["own"].annotated is None


def test_an_organ_in_few_cases_is_not_stated_as_looked_for_and_the_terminal_has_it(tmp_path):
    for numbers, box in ((range(3), {"v1": LIVER}), (range(3, 10), {"v2": LEFT})):
        write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", numbers, **box)
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": {"liver": 1, "spleen": 2}}))
    done = flare23(tmp_path, "init", "own", "--base-config", str(RECIPE), "--processes", "1")
    assert "own: in fewer than half of 10 cases: liver (3); what a case lacks is" in done.stderr
    config = Config.load([tmp_path / "mine.yaml"])
    assert config.sources["own"].annotated == "present"
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}


def test_what_no_case_has_and_what_is_no_organ_may_be_absent(tmp_path):
    """A table may list more than was labeled; a finding is absent where it is not labeled."""
    for number in range(6):
        boxes = {"v1": LIVER} | ({"v2": LEFT} if number < 2 else {})
        write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", [number], **boxes)
    names = {"liver": 1, "hematoma": 2, "gallbladder": 3}
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": names}))
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert config.sources["own"].annotated is None
    assert "in fewer than 6 cases: hematoma (2), gallbladder (0)" in (tmp_path / "m.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1 255 0 0 1 1 1 \"Right Kidney\"\n0 0 0 0 0 0 0 \"Clear Label\"\n", "labels.txt"),
        ("1,right kidney\n", "labels.csv"),
        ("\ufeffvalue;name\n1;kidney_right\n", "labels.csv"),
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


@pytest.mark.slow
def test_the_planner_has_larger_patches_for_larger_gpus():
    shapes, spacings = [(200, 512, 512)] * 20, [(2.5, 0.8, 0.8)] * 20
    small, large = (plan_network(shapes, spacings, 2, gpu_gb) for gpu_gb in (8, 24))
    assert np.prod(large.patch_size) > 2 * np.prod(small.patch_size)
    assert small.spacing == (2.5, 0.8, 0.8)
    assert small.network == "stunet_base"
    assert len(small.strides) == 6


def test_ignored_voxels_are_no_class(tmp_path):
    images, maps = tmp_path / "own/imagesTr/case_#_0000.nii.gz", tmp_path / "own/labelsTr/case_#.nii.gz"
    write_pairs(images, maps, range(3), v1=LIVER, v3=LEFT, v255=RIGHT)
    table = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": table}))
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert dict(config.sources["own"].values) == {"1": "liver", "2": "spleen", "3": "ignore", "255": "ignore"}
    assert [label.name for label in config.labels] == ["liver", "spleen"]


@pytest.mark.parametrize(
    ("names", "axes"),
    [
        (["Kidney L", "Kidney R"], (0, 1)),
        (["rib_left_1", "spine"], (0, 1)),
        (["Niere links", "spine"], (0, 1)),
        (["kidney_R_upper", "spine"], (0, 1)),
        (["kidney dx", "spine"], (0, 1)),
        (["lkidney", "rkidney"], (0, 1)),
        (["lung", "rectum"], (0, 1, 2)),
        (["liver"], (0, 1, 2)),
        ([], (0, 1)),  # a value without a name may be one of two sides
    ],
)
def test_sides_are_not_mirrored_whatever_they_are_called(tmp_path, names, axes):
    boxes = dict(zip(("v1", "v2"), (LEFT, RIGHT), strict=True))
    present = dict(list(boxes.items())[: len(names) or 2])
    write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", range(2), **present)
    rows = "".join(f"{value};{name}\n" for value, name in enumerate(names, start=1))
    (tmp_path / "own/labels.csv").write_text(rows)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert config.models["student"].training.mirror_axes == axes
    if axes == (0, 1) and names == ["Kidney L", "Kidney R"]:
        assert [label.name for label in config.labels] == ["left_kidney", "right_kidney"]


@pytest.mark.parametrize("held_out", ["Ts", "Va"])
def test_a_test_set_is_for_validation_or_left_out(tmp_path, held_out):
    for folder, numbers in (("Tr", range(3)), (held_out, range(10, 12))):
        own = tmp_path / "own"
        write_pairs(
            own / f"images{folder}/case_#_0000.nii.gz", own / f"labels{folder}/case_#.nii.gz", numbers, v1=LIVER
        )
    found = keys(tmp_path / "own")[1]
    assert found["images"] == "imagesTr/{case}_0000.nii.gz"
    assert found["validation_images"] == f"images{held_out}/{{case}}_0000.nii.gz"
    assert found["validation_labels"] == f"labels{held_out}/{{case}}.nii.gz"
    for path in (tmp_path / f"own/labels{held_out}").iterdir():
        path.unlink()
    found = recognize(tmp_path / "own")
    assert set(found.keys) == {"images", "labels"}
    assert any("look held out" in remark for remark in found.remarks)
    write(tmp_path / "more/test/1.nii.gz", ct(1), AFFINE)
    assert keys(tmp_path / "more")[1] == {"images": ["test/{case}.nii.gz"]}


def test_labels_in_several_places_are_all_taken_or_refused(tmp_path):
    for place, numbers in (("north", range(3)), ("south", range(5, 8))):
        folder = tmp_path / "own" / place
        write_pairs(folder / "ct/#.nii.gz", folder / "seg/#.nii.gz", numbers, v1=LIVER)
    found = keys(tmp_path / "own")[1]
    assert sorted(found["images"]) == ["north/ct/{case}.nii.gz", "south/ct/{case}.nii.gz"]
    assert len(found["labels"]) == 2
    for number in range(3):
        for visit in (1, 2):
            write(tmp_path / f"visits/p{number}/v{visit}/ct.nii.gz", ct(number + visit), AFFINE)
            write(tmp_path / f"visits/p{number}/v{visit}/seg.nii.gz", labels(v1=LIVER), AFFINE)
    with pytest.raises(CohortError, match="have cases of the same names"):
        recognize(tmp_path / "visits")


def test_data_sets_with_values_of_their_own_are_not_joined(tmp_path):
    for number, organ in enumerate(("liver", "spleen")):
        folder, numbers = tmp_path / f"raw/Dataset00{number}", range(10 * number, 10 * number + 3)
        write_pairs(folder / "imagesTr/c_#_0000.nii.gz", folder / "labelsTr/c_#.nii.gz", numbers, v1=LIVER)
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, organ: 1}}))
    with pytest.raises(CohortError, match=r"Dataset000, Dataset001 have a dataset\.json each.* a folder for each"):
        recognize(tmp_path / "raw")
    table = (folder / "dataset.json").rename(tmp_path / "raw/dataset.json")
    with pytest.raises(CohortError, match=r"Dataset000, raw have a dataset\.json each"):
        recognize(tmp_path / "raw")
    table.unlink()
    with pytest.raises(CohortError, match=r"Dataset000 has a dataset\.json, Dataset001 none.* a folder for each"):
        recognize(tmp_path / "raw")
    (tmp_path / "raw/Dataset000/dataset.json").unlink()
    assert len(keys(tmp_path / "raw")[1]["labels"]) == 2


def test_a_table_beside_the_only_labels_names_them(tmp_path):
    folder = tmp_path / "own/Dataset001"
    write_pairs(folder / "imagesTr/c_#_0000.nii.gz", folder / "labelsTr/c_#.nii.gz", range(3), v1=LIVER)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert [label.name for label in config.labels] == ["liver"]


def test_predictions_with_a_table_of_their_own_are_not_used(tmp_path):
    for labeled, place, numbers in (
        ("Tr", "labelsTr", range(3)),
        ("Tr", "cv", range(3)),
        ("Ts", "pred", range(3, 5)),
    ):
        write_pairs(tmp_path / f"images{labeled}/c_#_0000.nii.gz", tmp_path / place / "c_#.nii.gz", numbers, v1=LIVER)
    for place in ("", "cv", "pred"):
        (tmp_path / place / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    found = recognize(tmp_path)
    assert found.keys == {"images": "imagesTr/{case}_0000.nii.gz", "labels": "labelsTr/{case}.nii.gz"}
    assert [remark.partition(" ")[0] for remark in found.remarks if "look like predictions (a dataset" in remark] == [
        "cv/{case}.nii.gz", "pred/{case}.nii.gz",
    ]  # fmt: skip


def test_images_in_several_places_share_a_folder_of_labels(tmp_path):
    for part, numbers in (("part1", range(3)), ("part2", range(3, 5)), ("test", range(5, 9))):
        write_pairs(tmp_path / f"images/{part}/c_#.nii.gz", tmp_path / "labels/c_#.nii.gz", numbers, v1=LIVER)
    write_pairs(tmp_path / "images/c_#.nii", tmp_path / "labels/c_#.nii.gz", range(9, 11), v1=LIVER)
    found = recognize(tmp_path)
    assert sorted(found.keys.pop("images")) == [
        "images/part1/{case}.nii.gz", "images/part2/{case}.nii.gz", "images/{case}.nii",
    ]  # fmt: skip
    assert found.keys == {"labels": "labels/{case}.nii.gz"}
    assert found.remarks == [
        "images/test/{case}.nii.gz look held out and are not used; as `unlabeled_images` they would be learned from, "
        "as `validation_images` of their own source with `validation_labels: labels/{case}.nii.gz` scored"
    ]
    config = init([tmp_path], RECIPE, tmp_path / "m.yaml", 8)
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert len([case for case in cases if case.label]) == 7
    text = yaml.safe_load((tmp_path / "m.yaml").read_text())
    (values,) = [source["values"] for source in text["sources"].values()]
    test = {"validation_images": "images/test/{case}.nii.gz", "validation_labels": "labels/{case}.nii.gz"}
    text["sources"]["held_out"] = {**test, "values": values}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(text))
    config = Config.load([tmp_path / "m.yaml"])
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert len([case for case in cases if case.source == "held_out" and case.label]) == 4


def test_held_out_images_with_numbers_of_training_images_have_no_labels_there(tmp_path):
    write_pairs(tmp_path / "train/volume-#.nii", tmp_path / "train/segmentation-#.nii", range(4), v1=LIVER)
    for number in range(2):
        write(tmp_path / f"test/test-volume-{number}.nii", ct(10 + number), AFFINE)
    assert recognize(tmp_path).remarks == [
        "test/{case}.nii look held out and are not used; as `unlabeled_images` they would be learned from"
    ]


def test_other_labels_of_the_same_images_are_named(tmp_path):
    for number in range(3):
        write(tmp_path / f"images/{number}.nii.gz", ct(number), AFFINE)
        for kind in ("auto", "manual"):
            write(tmp_path / f"{kind}/{number}.nii.gz", labels(v1=LIVER), AFFINE)
    found = recognize(tmp_path)
    assert found.remarks == [
        "manual/{case}.nii.gz are label maps that fit the images of auto/{case}.nii.gz, too, not used"
    ]


def test_labels_of_other_images_in_the_same_folder_can_be_a_source_of_their_own(tmp_path):
    folder = tmp_path / "own"
    for organ, numbers in (("liver", range(3)), ("spleen", range(3, 6))):
        write_pairs(folder / "images/c_#.nii.gz", folder / f"labels_{organ}/c_#.nii.gz", numbers, v1=LIVER)
    write(folder / "more/x.nii.gz", labels(v1=LIVER), AFFINE)
    assert recognize(folder).remarks == [
        "labels_spleen/{case}.nii.gz fit other images of images/{case}.nii.gz; "
        "make a source of their own with the same `images`",
        "more/{case}.nii.gz are label maps without an image",
    ]
    init([folder], RECIPE, tmp_path / "m.yaml", 8)
    text = yaml.safe_load((tmp_path / "m.yaml").read_text())
    (liver,) = text["sources"].values()
    text["sources"]["spleen"] = {**liver, "labels": "labels_spleen/{case}.nii.gz"}
    text["categories"].append({"name": "spleen", "sources": ["spleen"]})
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(text))
    config = Config.load([tmp_path / "m.yaml"])
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert [case.case for case in found.cases if case.usable] == [
        "own_c_0", "own_c_1", "own_c_2", "spleen_c_3", "spleen_c_4", "spleen_c_5",
    ]  # fmt: skip
    assert {issue.kind for issue in found.issues} == {"image_without_label"}


def test_masks_of_tumors_lie_over_those_of_organs_and_missing_ones_are_unknown(tmp_path):
    for number, name in enumerate(("anna", "bert", "carl")):
        write(tmp_path / f"own/{name}/ct.nii.gz", ct(number), AFFINE)
        for mask, box in (("Lesion", np.s_[3:5, 5:8, 3:6]), ("Liver", LIVER)):
            if (name, mask) != ("bert", "Lesion"):
                write(tmp_path / f"own/{name}/seg/{mask}.nii.gz", labels(v1=box), AFFINE)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert list(config.sources["own"].values) == ["Liver", "Lesion"]
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert {case.case: case.annotated for case in found.cases} == {
        "own_anna": (1, 2),
        "own_bert": (1,),
        "own_carl": (1, 2),
    }
    assert set(found.cases[0].voxels) == {1, 2}


def test_structures_that_another_source_has_by_sides_are_divided(tmp_path):
    for source, names in (("a", "1,Lungs\n2,Rt Adrenal"), ("b", "1,LungLeft\n2,right_lung\n3,Adrenal")):
        for number in range(3):
            boxes = {f"v{value}": box for value, box in enumerate((LEFT, RIGHT, LIVER)[: 2 + (source == "b")], 1)}
            write(tmp_path / f"{source}/img/{number}.nii.gz", ct(number + 10 * ord(source)), AFFINE)
            write(tmp_path / f"{source}/seg/{number}.nii.gz", labels(**boxes), AFFINE)
        (tmp_path / source / "labels.csv").write_text(f"value,name\n{names}\n")
    config = init([tmp_path / "a", tmp_path / "b"], RECIPE, tmp_path / "m.yaml", 8)
    assert [label.name for label in config.labels] == [
        "right_lung", "left_lung", "right_adrenal_gland", "left_adrenal_gland",
    ]  # fmt: skip
    assert set(config.sources["a"].targets) == {"right_lung", "left_lung", "right_adrenal_gland"}


def test_a_tumor_that_sources_of_different_organs_share_is_asked_about(tmp_path):
    for source, organ in (("task03", "liver"), ("task07", "pancreas")):
        folder = decathlon(tmp_path / source, cases=3)
        table = {"labels": {"0": "background", "1": organ, "2": "cancer"}}
        (folder / "dataset.json").write_text(json.dumps(table))
    init([tmp_path / "task03", tmp_path / "task07"], RECIPE, tmp_path / "m.yaml", 8)
    text = (tmp_path / "m.yaml").read_text()
    assert "# tumor is one label with that of task07, looked for in all organs of both" in text


def test_a_tumor_that_many_organs_may_hide_has_a_small_weight(tmp_path):
    for number in range(3):
        array = np.zeros(ct(0).shape, np.uint8)
        array.ravel()[:900] = np.repeat(np.arange(1, 61), 15)
        write(tmp_path / f"many/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"many/seg/{number}.nii.gz", array, AFFINE)
        write(tmp_path / f"tumors/img/{number}.nii.gz", ct(50 + number), AFFINE)
        write(tmp_path / f"tumors/seg/{number}.nii.gz", labels(v1=LIVER), AFFINE)
    (tmp_path / "tumors/labels.csv").write_text("value,name\n1,tumor\n")
    config = init([tmp_path / "many", tmp_path / "tumors"], RECIPE, tmp_path / "m.yaml", 8)
    (tumor,) = [label for label in config.labels if label.kind == "tumor"]
    assert len(tumor.hidden_in) == 60
    assert {model.training.hidden_weight for model in config.models.values()} == {0.0083}


def test_masks_of_255_are_a_class_and_a_folder_named_validation_a_source(tmp_path):
    for number in range(3):
        write(tmp_path / f"validation/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"validation/seg/{number}.nii.gz", labels(v255=LIVER), AFFINE)
    config = init([tmp_path / "validation"], RECIPE, tmp_path / "m.yaml", 8)
    assert config.sources["validation_cases"].values == {"255": "label_255"}
    assert [label.value for label in config.labels] == [1]


def test_no_mask_is_lost(tmp_path):
    for number, name in enumerate(("anna", "bert", "carl")):
        write(tmp_path / f"{name}/ct.nii.gz", ct(number), AFFINE)
        for mask in ("liver", *(f"rib_left_{rib}" for rib in range(1, 6)), *(["tumor"] if number == 1 else [])):
            write(tmp_path / f"{name}/seg/{mask}.nii.gz", labels(v1=LIVER), AFFINE)
    assert set(keys(tmp_path)[1]["values"]) == {"liver", "tumor", *(f"rib_left_{rib}" for rib in range(1, 6))}


def test_masks_in_several_places_are_all_taken_or_refused(tmp_path):
    folder = tmp_path / "own"
    for number in range(6):
        case = folder / f"part{number // 2}/p{number}"
        write(case / "ct.nii.gz", ct(number), AFFINE)
        for mask in ("seg/liver", "seg/spleen", *(["seg/tumor"] if number > 3 else []), "raw/one", "raw/two"):
            write(case / f"{mask}.nii.gz", labels(v1=LIVER), AFFINE)
    config = init([folder], RECIPE, tmp_path / "m.yaml", 8)
    (source,) = config.sources.values()
    assert sorted(source.images) == [f"part{part}/{{case}}/ct.nii.gz" for part in range(3)]
    assert sorted(source.masks) == [f"part{part}/{{case}}/seg/{{mask}}.nii.gz" for part in range(3)]
    assert set(source.values) == {"liver", "spleen", "tumor"}
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert len([case for case in found.cases if case.usable and case.label]) == 6
    assert [remark for remark in recognize(folder).remarks if "/raw/" in remark] == [
        f"part{part}/{{case}}/raw/* are label maps beside masks, not used" for part in range(3)
    ]
    for number in range(2, 4):
        (folder / f"part1/p{number}").rename(folder / f"part1/p{number - 2}")
    with pytest.raises(CohortError, match="have cases of the same names"):
        recognize(folder)


def test_images_in_several_places_share_a_folder_of_masks(tmp_path):
    for number in range(6):
        write(tmp_path / f"images/part{1 + number // 3}/c_{number}.nii.gz", ct(number), AFFINE)
        for mask in ("liver", "spleen"):
            write(tmp_path / f"masks/c_{number}/{mask}.nii.gz", labels(v1=LIVER), AFFINE)
    write(tmp_path / "more/c_9.nii.gz", ct(9), AFFINE)
    found = recognize(tmp_path)
    assert found.keys == {
        "images": ["images/part1/{case}.nii.gz", "images/part2/{case}.nii.gz"],
        "masks": "masks/{case}/{mask}.nii.gz",
        "values": {"liver": "liver", "spleen": "spleen"},
    }
    assert found.remarks == ["more/{case}.nii.gz are images without masks, not used"]


def test_a_label_map_beside_a_file_per_class_is_not_used(tmp_path):
    for number in range(3):
        write_pairs(tmp_path / "c#/ct.nii.gz", tmp_path / "c#/lesions.nii.gz", [number], v1=LIVER, v2=LEFT)
        for mask in ("liver", "spleen"):
            write(tmp_path / f"c{number}/seg/{mask}.nii.gz", labels(v1=LIVER), AFFINE)
    found = recognize(tmp_path)
    assert found.keys["masks"] == "{case}/seg/{mask}.nii.gz"
    assert found.remarks == ["{case}/lesions.nii.gz are label maps beside masks, not used"]


def test_a_label_map_of_several_values_is_preferred_to_masks_of_instances(tmp_path):
    for number in range(3):
        folder = tmp_path / f"case_{number}"
        write(folder / "imaging.nii.gz", ct(number), AFFINE)
        for label in ("cyst/all", "segmentation"):
            write(folder / f"{label}.nii.gz", labels(v1=LIVER), AFFINE)
        for instance in range(1, 2 + number % 2):
            write(folder / f"instances/kidney_instance-{instance}.nii.gz", labels(v1=RIGHT), AFFINE)
    found = recognize(tmp_path)
    assert found.keys["masks"] == "{case}/instances/{mask}.nii.gz"
    assert found.remarks == [
        f"{{case}}/{label}.nii.gz are label maps beside masks, not used" for label in ("cyst/all", "segmentation")
    ]
    write(folder / "segmentation.nii.gz", labels(v1=RIGHT, v2=LIVER), AFFINE)
    found = recognize(tmp_path)
    assert found.keys == {"images": "{case}/imaging.nii.gz", "labels": "{case}/segmentation.nii.gz"}
    masks = "{case}/instances/{mask}.nii.gz are masks beside label maps of several values, not used"
    assert masks in found.remarks


def test_names_that_become_alike_are_told_apart(tmp_path):
    write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", range(2), v1=LIVER, v2=LEFT)
    (tmp_path / "own/labels.csv").write_text("1;node +\n2;node -\n")
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert [label.name for label in config.labels] == ["node", "node_2"]
    assert "node_2 would be node like another" in (tmp_path / "m.yaml").read_text()


def test_a_table_names_only_values_that_are_there(tmp_path, caplog):
    (tmp_path / "colorectal_patients.csv").write_text("id,age\ncrc_0,60\ncrc_1,61\n")
    assert names_of_values(tmp_path, [1, 2]) == {}
    (tmp_path / "labels.csv").write_bytes("1;Nièren\n".encode("latin-1"))
    assert names_of_values(tmp_path, [1, 2]) == {}
    assert "labels.csv: names no values, as it cannot be read" in caplog.text


def test_labels_with_negative_values_are_labels(tmp_path):
    for number in range(3):
        write(tmp_path / f"images/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"labels/{number}.nii.gz", labels(v1=LIVER).astype(np.int16) - 1, AFFINE)
    assert keys(tmp_path)[1] == {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}


def test_files_that_end_in_capitals_are_skipped_and_named(tmp_path):
    write_pairs(tmp_path / "images/#.nii.gz", tmp_path / "labels/#.nii.gz", range(4), v1=LIVER)
    for kind in ("images", "labels"):
        (tmp_path / f"{kind}/3.nii.gz").rename(tmp_path / f"{kind}/3.NII.GZ")
    config = init([tmp_path], RECIPE, tmp_path / "m.yaml", 8)
    assert len(scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases) == 3
    assert "# skipped 3.NII.GZ and all others that end in capitals; rename them" in (tmp_path / "m.yaml").read_text()
    for number in range(3):
        (tmp_path / f"images/{number}.nii.gz").rename(tmp_path / f"images/{number}.Nii.gz")
    with pytest.raises(CohortError, match=r"holds no image, label maps only; skipped 0\.Nii\.gz"):
        recognize(tmp_path)
    write(tmp_path / "more/1.nii", ct(1), AFFINE)
    (tmp_path / "more/1.nii").rename(tmp_path / "more/1.NII")
    with pytest.raises(CohortError, match=r"holds no NIfTI file .*; skipped 1\.NII"):
        recognize(tmp_path / "more")


def test_wrong_keys_of_a_source_are_one_line(tmp_path):
    with pytest.raises(CohortError, match=r"sources\.own\.images\[0\]: 'images/1\.nii' is not a pattern"):
        FolderSource("own", tmp_path, {"images": "images/1.nii"}).find(tmp_path)


def test_a_label_that_cannot_be_read_does_not_decide(tmp_path):
    write_pairs(tmp_path / "images/#.nii.gz", tmp_path / "labels/#.nii.gz", range(4), v1=LIVER)
    for number in range(2):
        path = tmp_path / f"labels/{number}.nii.gz"
        path.write_bytes(path.read_bytes()[:-20])
    found = recognize(tmp_path)
    assert found.keys == {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}
    assert [remark.partition(":")[0] for remark in found.remarks] == [
        "labels/0.nii.gz cannot be read", "labels/1.nii.gz cannot be read",
    ]  # fmt: skip


def test_folders_without_images_or_labels_are_refused(tmp_path):
    with pytest.raises(CohortError, match="there is no folder"):
        recognize(tmp_path / "lost")
    with pytest.raises(CohortError, match="holds no NIfTI file"):
        recognize(tmp_path)
    write(tmp_path / "one/1.nii.gz", ct(1), AFFINE)
    with pytest.raises(CohortError, match="no image has a label"):
        init([tmp_path / "one"], RECIPE, tmp_path / "m.yaml", 8)


def test_a_folder_that_is_given_twice_is_refused(tmp_path):
    own = decathlon(tmp_path / "own", cases=2)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(CohortError, match="own: is given twice"):
        init([own, tmp_path / "link"], RECIPE, tmp_path / "m.yaml", 8)


def test_several_channels_and_ignored_voxels_alone_are_nothing_to_learn_from(tmp_path):
    for number in range(3):
        for channel in range(2):
            path = tmp_path / f"pet/imagesTr/case_{number:03d}_000{channel}.nii.gz"
            write(path, ct(number + 10 * channel), AFFINE)
        write(tmp_path / f"pet/labelsTr/case_{number:03d}.nii.gz", labels(v1=LIVER), AFFINE)
    (tmp_path / "pet/dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    with pytest.raises(CohortError) as refused:
        init([tmp_path / "pet"], RECIPE, tmp_path / "m.yaml", 8)
    assert "no image has a label" in str(refused.value)
    assert "(imagesTr/{case}.nii.gz are images; " in str(refused.value)
    assert "case_000_0000 and case_000_0001 are channels of one image" in str(refused.value)
    folder = decathlon(tmp_path / "ignored", cases=2)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"ignore": 1, "background ": 2}}))
    with pytest.raises(CohortError, match=r"its values stand for no label \(ignore, background\)"):
        init([folder], RECIPE, tmp_path / "m.yaml", 8)


def test_a_table_of_values_makes_no_labels(tmp_path):
    decathlon(tmp_path / "own")
    for number in range(3):
        write(tmp_path / f"more/imagesTr/{number}.nii.gz", ct(50 + number), AFFINE)
    (tmp_path / "more/dataset.json").write_text(json.dumps({"labels": {"background": 0, "spleen": 1}}))
    config = init([tmp_path / "own", tmp_path / "more"], RECIPE, tmp_path / "m.yaml", 8)
    assert [label.name for label in config.labels] == ["liver", "right_kidney"]
    assert config.models["student"].train_on.label_completions == ("unlabeled",)
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert [case.category for case in found.cases if case.case.startswith("more")] == ["unlabeled"] * 3
    assert found.issues == []


def test_masks_belong_to_images_of_other_names_or_to_none(tmp_path):
    for number in range(1, 4):
        write(tmp_path / f"own/images/img{number:04d}.nii.gz", ct(number), AFFINE)
        for mask, box in (("liver", LIVER), ("spleen", LEFT)):
            write(tmp_path / f"own/masks/{number:04d}/{mask}.nii.gz", labels(v1=box), AFFINE)
    config = init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)
    assert config.sources["own"].images == ("images/img{case}.nii.gz",)
    assert len(scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases) == 3
    for number in range(1, 4):
        (tmp_path / f"own/masks/{number:04d}").rename(tmp_path / f"own/masks/p{number}")
    with pytest.raises(CohortError, match=r"masks/\{case\}/spleen.nii.gz are label maps without an image"):
        init([tmp_path / "own"], RECIPE, tmp_path / "m.yaml", 8)


def test_images_of_four_axes_are_refused(tmp_path):
    write_pairs(tmp_path / "images/#.nii.gz", tmp_path / "labels/#.nii.gz", range(2), v1=LIVER)
    for number in range(2):
        write(tmp_path / f"images/{number}.nii.gz", np.stack([ct(number)] * 2), AFFINE)
    with pytest.raises(CohortError, match=r"images/0\.nii\.gz: is 4-D .*; no other image can be read either"):
        init([tmp_path], RECIPE, tmp_path / "m.yaml", 8)


def test_the_command_writes_no_file_over_another(tmp_path):
    decathlon(tmp_path / "Task99_Own")
    options = ("init", "Task99_Own", "--base-config", str(RECIPE), "--processes", "1")
    done = flare23(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "mine.yaml: 2 labels from task99_own (2 values)" in done.stdout
    assert Config.load([tmp_path / "mine.yaml"]).evaluated == ["student"]
    again = flare23(tmp_path, *options)
    assert again.returncode == 1
    assert "mine.yaml: is there" in again.stderr


def test_outside_a_clone_the_packages_recipe_and_presets_are_used(tmp_path):
    decathlon(tmp_path / "data/Task03_Liver", cases=3)
    done = flare23(tmp_path, "init", "data/Task03_Liver", "--processes", "1")
    assert "lits: laid out as presets/sources/lits.yaml" in done.stderr
    assert Config.load([tmp_path / "mine.yaml"]).labels[0].tolerance_mm == 5
    lost = flare23(tmp_path, "init", "data/Task03_Liver", "--output", "m.yaml", "--base-config", "confg.yaml")
    assert lost.returncode == 1
    assert "confg.yaml: cannot be read" in lost.stderr
