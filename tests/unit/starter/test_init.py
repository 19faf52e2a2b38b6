"""`flare23 init`: folders of several forms become configurations that are checked and run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from cohorts import write
from conftest import flare23
from folders import AFFINE, LEFT, LIVER, RIGHT, configured, ct, decathlon, labels, write_pairs
from places import BASE_CONFIG

from flare23_lib.config import Config
from flare23_lib.config.models import Shards
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.errors import CohortError
from flare23_lib.starter.planner import plan_network
from flare23_lib.starter.recognize import recognize
from flare23_lib.starter.write import shards_of


def test_a_decathlon_task_becomes_a_configuration_that_stands_alone(tmp_path):
    config = configured(tmp_path, decathlon(tmp_path / "Task99_Own"))
    text = yaml.safe_load((tmp_path / "m.yaml").read_text())
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
    config = configured(tmp_path, decathlon(tmp_path / "Task99_Own"))
    caplog.set_level("INFO")
    memory = tmp_path / "m_results/store/scan/files.jsonl"
    settings = config.cohort_settings()
    scan_cohort(config.cohort, settings.model_copy(update={"scan": settings.scan}), memory)
    assert "12 files, 6 of them new or changed" in caplog.text  # the images, of which only headers were read


def test_sources_of_folders_with_one_name_are_numbered(tmp_path):
    folders = ("x/ct", "y/ct", "z/ct_2")
    for folder in folders:
        decathlon(tmp_path / folder, cases=3)
    assert list(configured(tmp_path, *folders).sources) == ["ct", "ct_2", "ct_2_2"]


def test_images_without_labels_among_labeled_ones_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    write_pairs(tmp_path / "own/images/siteA_#.nii.gz", tmp_path / "own/labels/siteA_#.nii.gz", range(3), v1=LIVER)
    for number in range(3, 5):
        write(tmp_path / f"own/images/siteB_{number}.nii.gz", ct(number), AFFINE)
    config = configured(tmp_path, "own")
    assert config.sources["own"].unlabeled_images == ()
    assert "own: 3 labeled images, 2 without labels" in caplog.text
    assert "2 of its images have no label and are not used" in (tmp_path / "m.yaml").read_text()


def test_several_folders_become_sources_with_one_map_of_labels(tmp_path):
    decathlon(tmp_path / "Task99_Own")
    for number in range(4):
        write(tmp_path / f"clinic/img/{number}.nii.gz", ct(50 + number), AFFINE)
        write(tmp_path / f"clinic/seg/{number}.nii.gz", labels(v1=RIGHT, v5=LIVER), AFFINE)
        write(tmp_path / f"clinic/seg/{number}.nii.gz", labels(v1=RIGHT, v5=LEFT), AFFINE)
        write(tmp_path / f"more/{number}.nii.gz", ct(90 + number), AFFINE)
    (tmp_path / "clinic/labels.csv").write_text("value;name\n1;kidneys\n5;cancer\n")
    config = configured(tmp_path, "Task99_Own", "clinic", "more")
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


def test_names_of_files_that_have_the_sources_name_get_no_prefix(tmp_path):
    decathlon(tmp_path / "own")
    config = configured(tmp_path, "own")
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert [case.case for case in cases] == [f"own_{number:03d}" for number in range(6)]


def test_a_label_that_is_seldom_there_is_asked_about(tmp_path):
    for number in range(4):
        write(tmp_path / f"own/img/{number}.nii.gz", ct(number), AFFINE)
        boxes = {"v1": LIVER} | ({"v2": LEFT} if number < 2 else {})
        write(tmp_path / f"own/seg/{number}.nii.gz", labels(**boxes), AFFINE)
    config = configured(tmp_path, "own")
    assert "in fewer than 4 cases: label_2 (2)" in (tmp_path / "m.yaml").read_text()
    assert config.sources["own"].annotated is None


def test_an_organ_in_few_cases_is_not_stated_as_looked_for_and_the_terminal_has_it(tmp_path):
    for numbers, box in ((range(3), {"v1": LIVER}), (range(3, 10), {"v2": LEFT})):
        write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", numbers, **box)
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": {"liver": 1, "spleen": 2}}))
    done = flare23(tmp_path, "init", "own", *BASE_CONFIG, "--processes", "1")
    assert "own: in fewer than half of 10 cases: liver (3); a case without one counts" in done.stderr
    config = Config.load([tmp_path / "mine.yaml"])
    assert config.sources["own"].annotated == "present"
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}


def test_a_table_of_labels_that_are_all_empty_says_what_is_absent(tmp_path):
    for folder, boxes in (("ill", {"v1": LIVER, "v2": LEFT}), ("healthy", {})):
        write_pairs(tmp_path / folder / "img/#.nii.gz", tmp_path / folder / "seg/#.nii.gz", range(4), **boxes)
        (tmp_path / folder / "dataset.json").write_text(json.dumps({"labels": {"liver": 1, "tumor": 2}}))
    config = configured(tmp_path, "ill", "healthy")
    assert config.sources["healthy"].values == {"1": "liver", "2": "tumor"}
    assert "no case holds" not in (tmp_path / "m.yaml").read_text()


def test_what_no_case_has_is_left_out_and_what_is_no_organ_may_be_absent(tmp_path):
    """A table may list more than was labeled; a finding is absent where it is not labeled."""
    for number in range(6):
        boxes = {"v1": LIVER} | ({"v2": LEFT} if number < 2 else {})
        write_pairs(tmp_path / "own/img/#.nii.gz", tmp_path / "own/seg/#.nii.gz", [number], **boxes)
    names = {"liver": 1, "hematoma": 2, "gallbladder": 3, "tumor": 4, "ignore": 5}
    (tmp_path / "own/dataset.json").write_text(json.dumps({"labels": names}))
    config = configured(tmp_path, "own")
    assert config.sources["own"].annotated is None
    assert config.sources["own"].values == {"1": "liver", "2": "hematoma", "5": "ignore"}
    assert [label.name for label in config.labels] == ["liver", "hematoma"]
    text = (tmp_path / "m.yaml").read_text()
    assert "# no case holds gallbladder (3), tumor (4): left out, as" in text
    assert "in fewer than 6 cases: hematoma (2); if not annotated" in text


def test_few_cases_are_few_jobs_and_many_those_of_the_recipe(tmp_path):
    assert configured(tmp_path, decathlon(tmp_path / "own")).shards == Shards(**dict.fromkeys(dict(Shards()), 1))
    assert shards_of(45) == {"preprocessing": 4, "pseudo_labels": 4, "predictions": 4}
    assert shards_of(160) == shards_of(4000) == dict(Shards())


@pytest.mark.slow
def test_the_planner_has_larger_patches_for_larger_gpus():
    shapes, spacings = [(200, 512, 512)] * 20, [(2.5, 0.8, 0.8)] * 20
    small, large = (plan_network(shapes, spacings, 2, gpu_gb) for gpu_gb in (8, 24))
    assert np.prod(large.patch_size) > 2 * np.prod(small.patch_size)
    assert small.spacing == (2.5, 0.8, 0.8)
    assert small.network == "stunet_base"
    assert len(small.strides) == 6


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
    config = configured(tmp_path, "own")
    assert config.models["student"].training.mirror_axes == axes
    if axes == (0, 1) and names == ["Kidney L", "Kidney R"]:
        assert [label.name for label in config.labels] == ["left_kidney", "right_kidney"]


def test_a_table_beside_the_only_labels_names_them(tmp_path):
    folder = tmp_path / "own/Dataset001"
    write_pairs(folder / "imagesTr/c_#_0000.nii.gz", folder / "labelsTr/c_#.nii.gz", range(3), v1=LIVER)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    config = configured(tmp_path, "own")
    assert [label.name for label in config.labels] == ["liver"]


def test_labels_of_other_images_in_the_same_folder_can_be_a_source_of_their_own(tmp_path):
    folder = tmp_path / "own"
    for organ, numbers in (("liver", range(3)), ("spleen", range(3, 6))):
        path = folder / f"labels_{organ}/c_#.nii.gz"
        write_pairs(folder / "images/c_#.nii.gz", path, numbers, v1=LIVER, v2=LEFT)
    write(folder / "more/x.nii.gz", labels(v1=LIVER), AFFINE)
    assert recognize(folder).remarks == [
        "labels_spleen/{case}.nii.gz fit other images of images/{case}.nii.gz; "
        "make a source of their own with the same `images`",
        "more/{case}.nii.gz are label maps without an image",
    ]
    configured(tmp_path, folder)
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
    config = configured(tmp_path, "own")
    assert list(config.sources["own"].values) == ["Liver", "Lesion"]
    assert {model.training.loss for model in config.models.values()} == {"label_sets"}
    found = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl")
    assert {case.case: case.annotated for case in found.cases} == {
        "own_anna": (1, 2),
        "own_bert": (1,),
        "own_carl": (1, 2),
    }
    assert set(found.cases[0].voxels) == {1, 2}


def test_a_mask_that_holds_others_leaves_them_their_voxels(tmp_path):
    """The largest comes first, by a case in which it is not empty."""
    body, aorta = np.s_[1:9, 2:22, 1:29], np.s_[3:7, 6:9, 3:6]
    for number, name in enumerate(("anna", "bert", "carl")):
        write(tmp_path / f"own/{name}/ct.nii.gz", ct(number), AFFINE)
        for mask, box in (("aorta", aorta), ("body", body), ("liver", LIVER if number else np.s_[:0])):
            write(tmp_path / f"own/{name}/{mask}.nii.gz", labels(v255=box), AFFINE)
    config = configured(tmp_path, "own")
    assert list(config.sources["own"].values) == ["body", "liver", "aorta"]
    cases = scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases
    assert [set(case.voxels) for case in cases] == [{1, 3}, {1, 2, 3}, {1, 2, 3}]


def test_a_tumor_that_sources_of_different_organs_share_is_asked_about(tmp_path):
    for source, organ in (("task03", "liver"), ("task07", "pancreas")):
        folder = decathlon(tmp_path / source, cases=3)
        table = {"labels": {"0": "background", "1": organ, "2": "cancer"}}
        (folder / "dataset.json").write_text(json.dumps(table))
    configured(tmp_path, "task03", "task07")
    text = (tmp_path / "m.yaml").read_text()
    assert "# tumor is one label with that of task07, annotated in all organs of both" in text


def test_a_tumor_that_many_organs_may_hide_has_a_small_weight(tmp_path):
    for number in range(3):
        array = np.zeros(ct(0).shape, np.uint8)
        array.ravel()[:900] = np.repeat(np.arange(1, 61), 15)
        write(tmp_path / f"many/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"many/seg/{number}.nii.gz", array, AFFINE)
        write(tmp_path / f"tumors/img/{number}.nii.gz", ct(50 + number), AFFINE)
        write(tmp_path / f"tumors/seg/{number}.nii.gz", labels(v1=LIVER), AFFINE)
    (tmp_path / "tumors/labels.csv").write_text("value,name\n1,tumor\n")
    config = configured(tmp_path, "many", "tumors")
    (tumor,) = [label for label in config.labels if label.kind == "tumor"]
    assert len(tumor.hidden_in) == 60
    assert {model.training.hidden_weight for model in config.models.values()} == {0.0083}


def test_masks_of_255_are_a_class_and_a_folder_named_validation_a_source(tmp_path):
    for number in range(3):
        write(tmp_path / f"validation/img/{number}.nii.gz", ct(number), AFFINE)
        write(tmp_path / f"validation/seg/{number}.nii.gz", labels(v255=LIVER), AFFINE)
    config = configured(tmp_path, "validation")
    assert config.sources["validation_cases"].values == {"255": "label_255"}
    assert [label.value for label in config.labels] == [1]


def test_folders_without_images_or_labels_are_refused(tmp_path):
    with pytest.raises(CohortError, match="there is no folder"):
        recognize(tmp_path / "lost")
    with pytest.raises(CohortError, match="holds no NIfTI file"):
        recognize(tmp_path)
    write(tmp_path / "one/1.nii.gz", ct(1), AFFINE)
    with pytest.raises(CohortError, match="no image has a label"):
        configured(tmp_path, "one")


def test_a_folder_that_is_given_twice_is_refused(tmp_path):
    own = decathlon(tmp_path / "own", cases=2)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(CohortError, match="own: is given twice"):
        configured(tmp_path, own, "link")


def test_several_channels_and_ignored_voxels_alone_are_nothing_to_learn_from(tmp_path):
    for number in range(3):
        for channel in range(2):
            path = tmp_path / f"pet/imagesTr/case_{number:03d}_000{channel}.nii.gz"
            write(path, ct(number + 10 * channel), AFFINE)
        write(tmp_path / f"pet/labelsTr/case_{number:03d}.nii.gz", labels(v1=LIVER), AFFINE)
    (tmp_path / "pet/dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    with pytest.raises(CohortError) as refused:
        configured(tmp_path, "pet")
    assert "no image has a label" in str(refused.value)
    assert "(imagesTr/{case}.nii.gz are images; " in str(refused.value)
    assert "case_000_0000 and case_000_0001 are channels of one image" in str(refused.value)
    folder = decathlon(tmp_path / "ignored", cases=2)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"ignore": 1, "background ": 2}}))
    with pytest.raises(CohortError, match=r"its values stand for no label \(ignore, background\)"):
        configured(tmp_path, folder)


def test_a_table_of_values_makes_no_labels(tmp_path):
    decathlon(tmp_path / "own")
    for number in range(3):
        write(tmp_path / f"more/imagesTr/{number}.nii.gz", ct(50 + number), AFFINE)
    (tmp_path / "more/dataset.json").write_text(json.dumps({"labels": {"background": 0, "spleen": 1}}))
    config = configured(tmp_path, "own", "more")
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
    config = configured(tmp_path, "own")
    assert config.sources["own"].images == ("images/img{case}.nii.gz",)
    assert len(scan_cohort(config.cohort, config.cohort_settings(), tmp_path / "memory.jsonl").cases) == 3
    for number in range(1, 4):
        (tmp_path / f"own/masks/{number:04d}").rename(tmp_path / f"own/masks/p{number}")
    with pytest.raises(CohortError, match=r"masks/\{case\}/spleen.nii.gz are label maps without an image"):
        configured(tmp_path, "own")


def test_images_of_four_axes_are_refused(tmp_path):
    write_pairs(tmp_path / "images/#.nii.gz", tmp_path / "labels/#.nii.gz", range(2), v1=LIVER)
    for number in range(2):
        write(tmp_path / f"images/{number}.nii.gz", np.stack([ct(number)] * 2), AFFINE)
    with pytest.raises(CohortError, match=r"images/0\.nii\.gz: is 4-D .*; no other image can be read either"):
        configured(tmp_path, ".")


def test_the_command_writes_no_file_over_another(tmp_path):
    decathlon(tmp_path / "Task99_Own")
    options = ("init", "Task99_Own", *BASE_CONFIG, "--processes", "1", "--gpu-gb", "6.5")
    done = flare23(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "mine.yaml: 2 labels from task99_own (2 values)" in done.stdout
    assert Config.load([tmp_path / "mine.yaml"]).evaluated == ["student"]
    assert "nnU-Net's planner for a GPU of 6.5 GB" in (tmp_path / "mine.yaml").read_text()
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
