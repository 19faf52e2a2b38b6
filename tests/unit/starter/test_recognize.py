"""What is recognized in a folder: which files are images, labels or masks, and which are not used."""

from __future__ import annotations

import json
import os
import unicodedata
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml
from cohorts import write
from folders import AFFINE, LEFT, LIVER, RIGHT, configured, ct, decathlon, labels, write_pairs
from places import REPOSITORY

from flare23_lib.config import Config
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.errors import CohortError
from flare23_lib.starter.names import names_of_values
from flare23_lib.starter.recognize import FolderSource, recognize

PRESETS = REPOSITORY / "presets" / "sources"


def keys(folder):
    found = recognize(folder, PRESETS)
    return found.name, found.keys


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
    config = configured(tmp_path, ".")
    (source,) = config.sources.values()
    assert (source.images, source.labels) == (("images/{case}_0000.nii.gz",), ("labels/{case}.nii.gz",))
    assert len(scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases) == len(names)


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


def test_composed_and_decomposed_letters_are_the_same(tmp_path):
    for number, name in enumerate(("Jörg 1", "Jörg 2", "Käthe 1", "Käthe 2", "Zoë")):
        write(tmp_path / f"images/{unicodedata.normalize('NFD', name)}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"labels/{unicodedata.normalize('NFC', name)}.nii.gz", labels(v1=LIVER), AFFINE)
    assert keys(tmp_path)[1] == {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}


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
    fits = (
        f"are label maps that fit the images of {label}/{{case}}.nii.gz, too, not used; if each is of one structure, "
        "they are `masks` (docs/your_cohort.md)"
    )
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
    config = configured(tmp_path, ".")
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
        masks = {"seg/liver": LIVER, "seg/spleen": LEFT, "seg/tumor": RIGHT, "raw/one": LIVER, "raw/two": LIVER}
        for mask, place in masks.items():
            if number > 3 or mask != "seg/tumor":
                write(case / f"{mask}.nii.gz", labels(v1=place), AFFINE)
    config = configured(tmp_path, folder)
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


def test_labels_with_negative_values_are_labels(tmp_path):
    for number in range(3):
        write(tmp_path / f"images/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"labels/{number}.nii.gz", labels(v1=LIVER).astype(np.int16) - 1, AFFINE)
    assert keys(tmp_path)[1] == {"images": "images/{case}.nii.gz", "labels": "labels/{case}.nii.gz"}


def test_files_that_end_in_capitals_are_skipped_and_named(tmp_path):
    write_pairs(tmp_path / "images/#.nii.gz", tmp_path / "labels/#.nii.gz", range(4), v1=LIVER)
    for kind in ("images", "labels"):
        (tmp_path / f"{kind}/3.nii.gz").rename(tmp_path / f"{kind}/3.NII.GZ")
    config = configured(tmp_path, ".")
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


@pytest.mark.parametrize(
    ("image", "mask", "patterns"),
    [
        ("images/c#.nii.gz", "labels_@/c#.nii.gz", ("images/{case}.nii.gz", "labels_{mask}/{case}.nii.gz")),
        ("images/ct_#.nii.gz", "masks/@/#.nii.gz", ("images/ct_{case}.nii.gz", "masks/{mask}/{case}.nii.gz")),
        ("ct/anna #.nii", "@/anna #.nii.gz", ("ct/{case}.nii", "{mask}/{case}.nii.gz")),
        ("c#_ct.nii.gz", "c#_@.nii.gz", ("{case}_ct.nii.gz", "{case}_{mask}.nii.gz")),
        ("case_#.nii.gz", "case_#_@.nii.gz", ("case_{case}.nii.gz", "case_{case}_{mask}.nii.gz")),
        ("volume-#.nii", "@-#.nii", ("volume-{case}.nii", "{mask}-{case}.nii")),
    ],
)
def test_files_and_folders_that_are_named_after_structures_are_masks(tmp_path, image, mask, patterns):
    names = ("liver", "kidney_left", "thing")
    for number in range(3):
        write(tmp_path / image.replace("#", f"{number}"), ct(number), AFFINE)
        for name, box in zip(names[: 2 + number], (LIVER, LEFT, RIGHT), strict=False):
            write(tmp_path / mask.replace("#", f"{number}").replace("@", name), labels(v1=box), AFFINE)
    config = configured(tmp_path, ".")
    (source,) = config.sources.values()
    assert (source.images, source.masks) == ((patterns[0],), (patterns[1],))
    assert list(source.values) == ["liver", "kidney_left", "thing"]
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert [set(case.voxels) for case in cases] == [{1, 2}, {1, 2, 3}, {1, 2, 3}]


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("images/c_#.nii.gz", ("labels_rater1/c_#.nii.gz", "labels_rater2/c_#.nii.gz")),
        ("images/c_#.nii.gz", ("labels_liver_1/c_#.nii.gz", "labels_liver_2/c_#.nii.gz")),
        ("c_#_ct.nii.gz", ("c_#_liver_a.nii.gz", "c_#_liver_b.nii.gz")),
    ],
)
def test_label_maps_of_several_raters_are_no_masks(tmp_path, image, names):
    for name in names:
        write_pairs(tmp_path / image, tmp_path / name, range(3), v1=LIVER)
    found = recognize(tmp_path)
    assert "masks" not in found.keys
    assert found.remarks == [
        f"{names[1].replace('c_#', '{case}')} are label maps that fit the images of "
        f"{names[0].replace('c_#', '{case}')}, too, not used; if each is of one structure, they are `masks` "
        "(docs/your_cohort.md)"
    ]


@pytest.mark.parametrize(
    ("image", "label"), [("@/#_ct.nii.gz", "@/#_seg.nii.gz"), ("images/@/#.nii.gz", "labels/@/#.nii.gz")]
)
def test_images_in_a_folder_per_structure_are_not_those_of_the_others(tmp_path, image, label):
    for organ in ("liver", "spleen"):
        paths = (tmp_path / path.replace("@", organ) for path in (image, label))
        write_pairs(*paths, range(3), v1=LIVER)
    with pytest.raises(CohortError, match="have cases of the same names"):
        recognize(tmp_path)


def test_masks_of_structures_can_be_of_different_cases(tmp_path):
    for number, organ in enumerate(("liver", "spleen")):
        numbers = range(3 * number, 3 * number + 3)
        write_pairs(tmp_path / "images/c_#.nii.gz", tmp_path / f"labels_{organ}/c_#.nii.gz", numbers, v1=LIVER)
    config = configured(tmp_path, ".")
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert [case.annotated for case in cases] == [(1,)] * 3 + [(2,)] * 3
