"""Sources of any layout, with numbers of their own: seven small cohorts in one, and tables that are wrong."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from cohorts import changed, write
from seven_sources import (
    AFFINE,
    BOXES,
    FILES,
    LABELS,
    NAMES,
    PRESETS,
    RECIPE,
    SHAPE,
    expected,
    overrides,
    preset,
    write_cohort,
)

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.cohort_models import Source, label_map
from flare23_lib.config.load import merge
from flare23_lib.config.settings import CohortSettings, LabelSets
from flare23_lib.dataset.cases import Case, annotated_of, read_cases, write_cases
from flare23_lib.dataset.discover import find, notices
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.dataset.sources import SourceLabels, drawn_for_validation
from flare23_lib.dataset.summary import format_scan, write_scan
from flare23_lib.errors import ConfigError, ImageError, TrainingError
from flare23_lib.io.atomic import write_json
from flare23_lib.io.checksum import OWN_CHECKSUM, digest_of
from flare23_lib.io.label_maps import ValueTable, label_id, read_label_map, right_side
from flare23_lib.io.nifti import read_labels, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, annotated_in, check_training_set
from flare23_lib.pseudo_labels.pseudo_label import annotated_labels


def settings(**changes) -> CohortSettings:
    """Return the settings of the seven presets in one configuration, with changes."""
    values = merge(yaml.safe_load(RECIPE.read_text()), overrides())
    return Config.check(merge(values, changes)).cohort_settings()


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """Three cases of each of seven presets, beside each other."""
    root = tmp_path_factory.mktemp("seven")
    write_cohort(root)
    return root


@pytest.fixture
def cohort(seven, tmp_path):
    """A copy that may be changed, and a function that scans it."""
    root = tmp_path / "cohort"
    shutil.copytree(seven, root)
    return root


def scan(root, tmp_path, **changes):
    return scan_cohort(root, settings(**changes), tmp_path / "memory.jsonl")


def issues_of(found, case):
    return [(issue.kind, issue.severity, issue.message) for issue in found.issues if issue.case == case]


@contextlib.contextmanager
def changed_labels(path):
    """Yield the labels of a file, and write what becomes of them."""
    array = read_label_map(path).array.copy()
    yield array
    write(path, array, AFFINE)


def test_seven_sources_give_the_same_labels_in_our_values(seven, tmp_path):
    found = scan(seven, tmp_path)
    issues = [issue for issue in found.issues if issue.kind != "other_file_name"]
    assert issues == []
    assert len(found.cases) == 21
    names = {case.case: case for case in found.cases}
    assert {"btcv_001", "amos_0001", "kits_case_001", "lits_liver_001", "totalsegmentator_s001"} <= set(names)
    for index, name in enumerate(NAMES):
        cases = [case for case in found.cases if case.source == name]
        assert [case.category for case in cases] == [name] * 3
        for number, case in enumerate(cases, start=1):
            labels = read_label_map(case.label_files)
            assert np.array_equal(labels.array, expected(name, 10 * index + number)), case.case
            counts = {value: int((labels.array == value).sum()) for value in case.labels_present}
            assert case.voxels == counts
    assert [(issue.kind, issue.file.rpartition("/")[2]) for issue in found.issues] == [
        ("other_file_name", "amos_0510.nii.gz")
    ]


def test_a_mask_that_no_case_has_is_named_and_its_source_not_taken_for_whole(cohort, tmp_path):
    for path in cohort.rglob("segmentations/spleen.nii.gz"):
        path.unlink()
    values = merge(yaml.safe_load(RECIPE.read_text()), overrides())
    config = Config.check(values)
    lines = notices(find(cohort, config.sources), config.sources, True, [])
    assert "sources.totalsegmentator.values: no file fits the mask 'spleen': annotated in no case" in lines
    write_scan(scan(cohort, tmp_path), tmp_path / "results/cohort")
    model = {
        "train_on": {"manual_labels": ["btcv", "totalsegmentator"]},
        "intensity": {"low": 0, "high": 1, "mean": 0, "std": 1},
    }
    settings = Config.check(merge(values, {"models": {"student": model}})).preprocessing_settings("student")
    with pytest.raises(TrainingError, match="btcv_001 and totalsegmentator_s001 have different labels annotated"):
        check_training_set(Results(tmp_path / "results"), "student", settings, config.label_map.names, organs={})


def test_ignored_voxels_of_labels_with_sides_are_warned_of(cohort, tmp_path):
    path = next((cohort / "kits23/dataset").glob("*/segmentation.nii.gz"))
    volume = read_labels(path)
    volume.array[0, 0, 0] = 3  # `ignore` in its table
    write_volume(path, volume.array, volume.header)
    found = scan(cohort, tmp_path, sources={"kits": {"values": {3: "ignore"}}})
    assert [issue.case for issue in found.issues if issue.kind == "ignored_voxels"] == [f"kits_{path.parent.name}"]


def test_what_was_looked_for_is_known_of_each_case(seven, tmp_path):
    cases = {case.case: case for case in scan(seven, tmp_path).cases}
    lits = [LABELS.value_of("liver"), LABELS.value_of("tumor")]
    assert annotated_of(cases["lits_liver_001"]) == sorted(lits)
    gallbladder = LABELS.value_of("gallbladder")  # in no body
    assert gallbladder in annotated_of(cases["btcv_001"])
    assert gallbladder not in cases["btcv_001"].labels_present
    present = scan(seven, tmp_path, sources={"btcv": {"annotated": "present"}}).cases
    assert gallbladder not in annotated_of(next(case for case in present if case.case == "btcv_001"))


def test_a_mask_that_is_not_there_was_not_looked_for(cohort, tmp_path):
    (cohort / "Totalsegmentator_dataset_v201/s001/segmentations/spleen.nii.gz").unlink()
    cases = {case.case: case for case in scan(cohort, tmp_path).cases}
    spleen = LABELS.value_of("spleen")
    assert [spleen in annotated_of(cases[f"totalsegmentator_s00{number}"]) for number in (1, 2)] == [False, True]


def test_a_mask_that_is_a_link_to_nowhere_cannot_be_read(cohort, tmp_path):
    path = cohort / "Totalsegmentator_dataset_v201/s001/segmentations/spleen.nii.gz"
    path.unlink()
    path.symlink_to("annex/spleen")
    found = scan(cohort, tmp_path)
    issues = [(issue.case, issue.kind) for issue in found.issues if issue.severity == "quarantine"]
    assert issues == [("totalsegmentator_s001", "cannot_be_read")]


def test_a_mask_that_lies_beside_an_uncompressed_one_is_a_twin(cohort, tmp_path):
    path = cohort / "Totalsegmentator_dataset_v201/s001/segmentations/spleen.nii.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    issues = [(issue.case, issue.kind) for issue in scan(cohort, tmp_path).issues if issue.case]
    assert issues == [("totalsegmentator_s001", "uncompressed_twin")]


def test_masks_that_swap_their_names_are_read_again(cohort, tmp_path):
    folder = cohort / "Totalsegmentator_dataset_v201/s001/segmentations"
    before = {case.case: case for case in scan(cohort, tmp_path).cases}["totalsegmentator_s001"]
    (folder / "spleen.nii.gz").rename(folder / "x")
    (folder / "liver.nii.gz").rename(folder / "spleen.nii.gz")
    (folder / "x").rename(folder / "liver.nii.gz")
    after = {case.case: case for case in scan(cohort, tmp_path).cases}["totalsegmentator_s001"]
    liver, spleen = map(LABELS.value_of, ("liver", "spleen"))
    assert (after.voxels[liver], after.voxels[spleen]) == (before.voxels[spleen], before.voxels[liver])
    assert before.voxels[liver] != before.voxels[spleen]
    assert after.label_id != before.label_id


def test_missing_masks_are_refused_under_a_loss_that_takes_them_for_background(cohort, tmp_path):
    (cohort / "Totalsegmentator_dataset_v201/s002/segmentations/spleen.nii.gz").unlink()
    write_scan(scan(cohort, tmp_path), tmp_path / "results/cohort")
    model = {
        "train_on": {"manual_labels": ["totalsegmentator"]},
        "intensity": {"low": 0, "high": 1, "mean": 0, "std": 1},
    }
    values = merge(yaml.safe_load(RECIPE.read_text()), overrides())
    config = Config.check(merge(values, {"models": {"student": {**model, "training": {"loss": "nnunet"}}}}))
    message = "totalsegmentator_s001 and totalsegmentator_s002 have different labels annotated"
    with pytest.raises(TrainingError, match=message):
        check_training_set(
            Results(tmp_path / "results"), "student", config.preprocessing_settings("student"),
            config.label_map.names, config.background_organs("student"),
        )  # fmt: skip
    config = Config.check(merge(values, {"models": {"student": model}}))
    assert config.background_organs("student") is None


FIVE, ALL = (1, 2, 3, 4, 13), tuple(range(1, 14))


def check_manual(tmp_path, groups, completed=()):
    """Check a training set of label sets by source for the ordinary loss."""
    sets = [(source, present) for source, found in groups.items() for count, *present in found for _ in range(count)]
    cases = [
        Case(f"{source}_{number}", "i", "l", "training", dict.fromkeys(present, 5), "all_organs", source=source)
        for number, (source, present) in enumerate(sets)
    ]
    cases += [Case("more", "i", None, "training", {}, "unlabeled")] * bool(completed)
    results, config = Results(tmp_path), Config.load([RECIPE])
    write_cases(results.cases, cases)
    row = {"case": "more", "file": "f", "labels_present": " ".join(map(str, completed))}
    write_csv(results.collected("completed_labels", "unlabeled"), list(row), [row])
    settings = changed(
        config.preprocessing_settings("organ_teacher"), label_completions=["unlabeled"] if completed else []
    )
    organs = config.background_organs("organ_teacher")
    check_training_set(results, "organ_teacher", settings, config.label_map.names, organs)


@pytest.mark.parametrize(
    ("groups", "completed", "message"),
    [
        ({"flare23": [(61, *FIVE, 14), (89, 14)]}, (), "liver is in 61 of 150 cases of flare23, and nothing states"),
        ({"flare23": [(45, *FIVE)]}, ALL, "aorta is in 0 of 45 cases of flare23"),
        ({"flare23": [(45, *FIVE), (25, *ALL)]}, (), "aorta is in 25 of 70 cases of flare23"),
        ({"a": [(5, 1)], "b": [(5, 3)]}, (), "spleen is in 0 of 5 cases of a"),
    ],
)
def test_organs_that_most_cases_of_a_source_lack_are_refused_where_nothing_is_stated(
    tmp_path, groups, completed, message
):
    with pytest.raises(TrainingError, match=message) as refused:
        check_manual(tmp_path, groups, completed)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "completed"),
    [
        ({"flare23": [(23, *ALL), (2, *{*ALL} - {9})]}, ()),
        ({"flare23": [(23, *ALL), (2, *{*ALL} - {9})]}, (*ALL, 14)),
        ({"flare23": [(45, *FIVE)]}, ()),
        ({"flare23": [(30, 1), (20, 1, 14)]}, ()),
        ({"male": [(20, 1, 5), (24, 1, 6)]}, ()),
        ({"a": [(4, 1)], "b": [(4, 3)]}, ()),
    ],
    ids=["all organs", "beside completed ones", "five organs", "few tumors", "about half", "few cases"],
)
def test_organs_that_some_cases_lack_are_absent_there(tmp_path, groups, completed):
    check_manual(tmp_path, groups, completed)


def test_a_category_can_state_that_only_what_occurs_is_known(seven, tmp_path):
    states = dict.fromkeys(NAMES, "present") | {"lits": ["tumor"], "kits": None}
    rows = [{"name": name, "sources": [name], "annotated": stated} for name, stated in states.items()]
    plain = {case.case: case for case in scan(seven, tmp_path).cases}
    cases = {case.case: case for case in scan(seven, tmp_path, categories=rows).cases}
    partial = cases["btcv_001"]
    assert annotated_of(partial) == partial.labels_present != annotated_of(plain["btcv_001"])
    assert cases["lits_liver_001"].annotated == (label_map(settings().labels).value_of("tumor"),)
    assert cases["kits_case_001"] == plain["kits_case_001"]

    # Completed labels, and those that complete them further, know no more of what is absent.
    write_json(tmp_path / "models/teacher/model.json", {"labels": [{"name": "liver", "value": 1}], "unseen": []})
    config = Config.check(merge(yaml.safe_load(RECIPE.read_text()), overrides()))
    of_model = config.preprocessing_settings(next(iter(config.models)))
    sets = LabelSets(label_completions={"btcv": ("teacher",)})
    completed = TrainingCase(partial, Path("c.nii.gz"), "c", "btcv", (1, 4))
    assert annotated_in(Results(tmp_path), of_model, sets, completed) == sorted({1, 4, *partial.labels_present})
    bases = {"btcv_001": {"labels_present": "1 2"}}
    assert annotated_labels("present", partial, bases) == sorted({1, 2, *partial.labels_present})
    assert annotated_labels("only_present", plain["btcv_001"], {}) == partial.labels_present
    assert annotated_labels("only_present", plain["btcv_001"], bases) == [1, 2]

    drawn = scan(seven, tmp_path, categories=rows, validation={"share": 0.9, "sources": ["btcv", "lits"]}).cases
    held = {case.case: case for case in drawn if case.split == "validation"}
    assert len(held) == 6
    assert all(case.annotated == cases[name].annotated for name, case in held.items())
    assert not any(case.category for case in held.values())


def test_255_is_passed_over_in_a_label_with_a_table(cohort, tmp_path):
    with changed_labels(cohort / FILES["lits"][1].format("002")) as array:
        array[0, 0, 0] = 255
    only = cohort / FILES["lits"][1].format("003")
    write(only, np.where(array == 255, array, 0), AFFINE)
    found = scan(cohort, tmp_path)
    cases = {case.case: case for case in found.cases}
    assert read_label_map(cases["lits_liver_002"].label_files).array[0, 0, 0] == 255
    assert {(issue.case, issue.kind) for issue in found.issues if issue.case.startswith("lits")} == {
        ("lits_liver_002", "ignored_voxels"), ("lits_liver_003", "empty_label"),
    }  # fmt: skip


def test_a_label_of_nothing_but_background_of_ours_is_empty(seven, tmp_path):
    found = scan(seven, tmp_path, sources={"lits": {"values": {"1": "ignore", "2": "background"}, "annotated": []}})
    assert {issue.kind for issue in found.issues if issue.case.startswith("lits")} == {"empty_label"}


def test_tables_count_the_cases_of_each_source(seven, tmp_path):
    found = scan(seven, tmp_path)
    write_scan(found, tmp_path / "out")
    assert read_cases(tmp_path / "out/cases.csv") == found.cases
    rows = {(row["source"], row["label"]): row for row in read_csv(tmp_path / "out/sources.csv")}
    assert rows["kits", "right_kidney"]["cases"] == "3"
    assert float(rows["kits", "right_kidney"]["ml"]) == 4 * 4 * 4 * 0.125
    assert float(rows["kits", "right_kidney"]["right_mm"]) > 0 > float(rows["kits", "left_kidney"]["right_mm"])
    assert "kits                       3            0       3" in format_scan(found)


def test_the_table_of_a_scan_has_the_cases_that_are_used_beside_all_and_the_quarantined_ones(cohort, tmp_path):
    (cohort / FILES["btcv"][1].format("002")).write_bytes(b"")
    lines = [line.split() for line in format_scan(scan(cohort, tmp_path)).splitlines()]
    assert ["category", "cases", "quarantined", "used", "Gvoxel"] in lines
    assert ["source", "cases", "quarantined", "used"] in lines
    assert [line[:4] for line in lines if line[:1] == ["btcv"]][-1] == ["btcv", "3", "1", "2"]


def test_swapped_numbers_are_warned_of_by_both_names(cohort, tmp_path):
    for number in range(1, 4):
        with changed_labels(cohort / FILES["btcv"][1].format(f"{number:03d}")) as array:
            spleen, liver = array == 1, array == 6
            array[spleen], array[liver] = 6, 1
    found = scan(cohort, tmp_path)
    warned = {
        issue.message.partition(":")[0]: issue for issue in found.issues if issue.kind == "unlike_other_sources"
    }
    assert set(warned) == {"liver", "spleen"}
    assert warned["liver"].file == "sources.btcv"
    assert "in btcv" in warned["liver"].message
    assert "in lits" in warned["liver"].message
    assert all(case.usable for case in found.cases)


def test_right_and_left_that_are_swapped_are_warned_of(cohort, tmp_path):
    swapped = {"btcv": {"values": {"2": "left_kidney", "3": "right_kidney"}}}
    found = scan(cohort, tmp_path, sources=swapped)
    messages = [issue.message for issue in found.issues if issue.kind == "unlike_other_sources"]
    assert any(line.startswith("right_kidney: 45 mm to the left of the center in btcv") for line in messages)


def test_a_value_that_the_table_lacks_is_named_with_its_source(cohort, tmp_path):
    with changed_labels(cohort / FILES["lits"][1].format("002")) as array:
        array[0, 0, 0] = 9
        array[0, 0, 1:3] = 11
    found = scan(cohort, tmp_path)
    assert [case.case for case in found.cases if not case.usable] == ["lits_liver_002"]
    issue = next(issue for issue in found.issues if issue.case == "lits_liver_002")
    assert issue.kind == "unknown_label_values"
    assert issue.message == "has the values 9 (1 voxel), 11 (2 voxels), which are not in the `values` of its source"
    with pytest.raises(ImageError, match=re.escape(issue.message)):
        read_label_map(next(case for case in found.cases if case.case == "lits_liver_002").label_files)


def test_masks_that_overlap_are_named_and_the_later_row_wins(cohort, tmp_path):
    with changed_labels(cohort / "Totalsegmentator_dataset_v201/s001/segmentations/spleen.nii.gz") as spleen:
        spleen[BOXES["liver"]][0, 0, :5] = 1
    found = scan(cohort, tmp_path)
    case = next(case for case in found.cases if case.case == "totalsegmentator_s001")
    assert issues_of(found, case.case) == [
        ("overlapping_masks", "warn", f"later masks have voxels of liver (5 of {case.voxels[1] + 5})")
    ]
    labels = read_label_map(case.label_files).array
    assert (labels[BOXES["liver"]][0, 0, :5] == LABELS.value_of("spleen")).all()


def test_a_mask_that_later_ones_cover_wholly_leaves_the_case_out(cohort, tmp_path):
    folder = cohort / "Totalsegmentator_dataset_v201/s001/segmentations"
    for name, part in (("spleen", np.s_[:3]), ("pancreas", np.s_[2:])):
        with changed_labels(folder / f"{name}.nii.gz") as mask:
            mask[BOXES["right_kidney"]][part] = 1
    values = dict(preset("totalsegmentator")["values"])
    assert issues_of(scan(cohort, tmp_path), "totalsegmentator_s001") == [
        ("overlapping_masks", "warn", f"later masks have voxels of spleen (16 of {np.prod((4, 6, 5)) + 48})"),
        ("vanished_mask", "quarantine", "later masks have all voxels of kidney_right (64)"),
    ]
    parts = values | {"kidney_right": "pancreas", "spleen": "pancreas"}  # masks of one label take nothing
    of_one_label = scan(cohort, tmp_path, sources={"totalsegmentator": {"values": parts}})
    assert issues_of(of_one_label, "totalsegmentator_s001") == []
    elsewhere = values | {"kidney_right": "liver"}  # of which the liver's own mask has voxels
    whole = issues_of(
        scan(cohort, tmp_path, sources={"totalsegmentator": {"values": elsewhere}}), "totalsegmentator_s001"
    )
    assert "kidney_right (64 of 64)" in whole[0][2]
    assert [kind for kind, *_ in whole] == ["overlapping_masks"]
    below = values | {"kidney_right": "background"}
    background = scan(cohort, tmp_path, sources={"totalsegmentator": {"values": below}})
    assert [kind for kind, *_ in issues_of(background, "totalsegmentator_s001")] == ["overlapping_masks"]


def test_records_that_only_count_overlaps_are_read_again_if_there_are_any(cohort, tmp_path, caplog):
    first, memory = scan(cohort, tmp_path), tmp_path / "memory.jsonl"
    lines = []
    for line in memory.read_text().splitlines():
        *parts, info = json.loads(line)
        del info[OWN_CHECKSUM], info["lost"]
        info["overlaps"] = 5 * parts[1].endswith("s001/segmentations/{mask}.nii.gz")
        lines.append(json.dumps([*parts, info | {OWN_CHECKSUM: digest_of([*parts, info])}]))
    memory.write_text("\n".join(lines))
    caplog.set_level("INFO")
    assert scan(cohort, tmp_path) == first
    assert ", 1 of them new or changed" in caplog.text


def test_masks_of_another_shape_are_refused(cohort, tmp_path):
    write(cohort / "Totalsegmentator_dataset_v201/s001/segmentations/spleen.nii.gz", np.ones((3, 4, 5), np.uint8))
    found = scan(cohort, tmp_path)
    assert [(issue.case, issue.kind) for issue in found.issues if issue.case] == [
        ("totalsegmentator_s001", "shape_mismatch")
    ]


def test_a_horseshoe_kidney_has_no_sides(cohort, tmp_path):
    with changed_labels(cohort / FILES["kits"][1].format("003")) as array:
        array[3, 16, 6:25] = 1
    found = scan(cohort, tmp_path)
    issue = next(issue for issue in found.issues if issue.case == "kits_case_003")
    assert issue.kind == "unclear_sides"
    assert issue.message == "value 1 has a component that lies across the middle of the image"
    assert [case.case for case in found.cases if not case.usable] == ["kits_case_003"]


def test_sides_follow_the_world_and_not_the_axes():
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 15:19, 4:8] = mask[2:6, 15:19, 22:26] = True
    mask[8, 2, 5] = True
    for sign in (-1, 1):
        right = right_side(mask, np.diag([5.0 * sign, -5.0, 5.0, 1.0]))
        assert right[4, 16, 5] == right[8, 2, 5] == (sign < 0)
        assert right[4, 16, 24] == (sign > 0)
        assert not (right & ~mask).any()
    turned = np.array([[0, 0, 5.0, 0], [0, 5.0, 0, 0], [-5.0, 0, 0, 0], [0, 0, 0, 1]])  # z is the patient's x
    assert right_side(np.moveaxis(mask, 2, 0), turned)[24, 4, 16]


def test_two_kidneys_on_one_side_of_a_cropped_image_have_no_sides():
    mask = np.zeros((6, 10, 60), bool)
    mask[2:4, 4:8, 2:6] = mask[2:4, 4:8, 20:24] = True
    with pytest.raises(ImageError, match="90 mm apart on one side"):
        right_side(mask, AFFINE)


def test_a_changed_table_changes_the_labels_of_its_source_alone(seven, tmp_path):
    before = {case.case: case.label_id for case in scan(seven, tmp_path).cases}
    changed = scan(seven, tmp_path, sources={"lits": {"values": {"2": "ignore"}}})
    after = {case.case: case.label_id for case in changed.cases}
    assert {name for name in after if after[name] != before[name]} == {
        f"lits_liver_00{number}" for number in (1, 2, 3)
    }
    labels = read_label_map(changed.cases[[case.case for case in changed.cases].index("lits_liver_001")].label_files)
    assert set(np.unique(labels.array)) == {0, LABELS.value_of("liver"), 255}


def test_the_order_of_values_is_nothing_and_that_of_masks_counts():
    values = {"1": "spleen", "11": "stomach", "2": "liver"}
    one, other = (
        SourceLabels.of(Source(images="{case}.nii", labels="{case}_l.nii", values=dict(rows)), LABELS)
        for rows in (values.items(), reversed(values.items()))
    )
    assert label_id("file", one.table) == label_id("file", other.table)
    masks = {"spleen": "spleen", "pancreas": "pancreas"}
    one, other = (
        SourceLabels.of(Source(images="{case}.nii", masks="{case}_{mask}.nii", values=dict(rows)), LABELS)
        for rows in (masks.items(), reversed(masks.items()))
    )
    assert label_id("file", one.table) != label_id("file", other.table)
    patterns = {"validation_images": "{case}.nii", "validation_labels": "{case}_{mask}.nii"}
    references = SourceLabels.of(Source(**patterns, values={"spleen": "spleen", "pancreas": "pancreas"}), LABELS)
    assert list(references.table.targets) == ["spleen", "pancreas"]


def test_a_changed_table_reads_no_file_again(seven, tmp_path, caplog):
    scan(seven, tmp_path)
    caplog.set_level("INFO")
    scan(seven, tmp_path, sources={"lits": {"values": {"2": "background"}}})
    assert "42 files, 0 of them new or changed" in caplog.text


def test_labeled_cases_are_drawn_for_validation(seven, tmp_path):
    def drawn(**draw):
        return {case.case for case in scan(seven, tmp_path, validation=draw).cases if case.split == "validation"}

    first = drawn(share=0.3)
    assert len(first) == 7  # one of three, of each source
    assert drawn(share=0.3) == first
    assert {case for case in first if case.startswith("lits")} == drawn(share=0.3, sources=["lits"])
    assert any(drawn(share=0.3, seed=seed) != first for seed in range(1, 4))
    assert len(drawn(share=0.67)) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"1": "lever"}}, "sources.lits.values: there is no label 'lever'"),
        ({"values": {"0": "liver"}}, "sources.lits.values: '0' is not a whole number above 0"),
        ({"values": {"1": {"sides": ["liver", "liver"]}}}, "has an entry twice"),
        ({"annotated": ["spleen"]}, "sources.lits.annotated: there is no label of `values` 'spleen'"),
        ({"masks": "{case}/{mask}.nii.gz"}, "sources.lits.masks: are in place of `labels`"),
        ({"labels": "{case}/{mask}.nii.gz"}, "sources.lits.labels: '{case}/{mask}.nii.gz': {mask} is for `masks`"),
        ({"images": "imagesTr/volume.nii.gz"}, "is not a pattern such as"),
        ({"images": []}, "sources.lits: has no images"),
        ({"images": "{case:[}.nii.gz"}, "is no regular expression"),
        ({"labels": "Task03_Liver/imagesTr/{case}.nii.gz"}, "are images, too"),
    ],
)
def test_wrong_sources_are_refused_by_key(change, message):
    with pytest.raises(ConfigError) as refused:
        settings(sources={"lits": change})
    assert message in str(refused.value)
    assert str(refused.value).startswith("sources.lits")


def test_labels_that_no_source_annotates_are_refused_by_name_all_at_once():
    only = {name: None for name in NAMES if name not in ("lits", "kits")}
    with pytest.raises(ConfigError, match=r"^labels: annotated in no source, .*: spleen, pancreas, .*gallbladder"):
        settings(sources=only)


def test_sources_that_labeled_different_things_need_a_loss_that_knows_it():
    ordinary = {"model_defaults": {"training": {"loss": "nnunet"}}}
    with pytest.raises(ConfigError, match=r"'btcv' .* and 'amos' .* have different labels annotated"):
        settings(**ordinary)
    alike = {"models": {"student": {"train_on": {"manual_labels": ["kits", "lits"]}}}}
    only_tumors = {"sources": {name: {"annotated": ["tumor"]} for name in ("kits", "lits")}}
    settings(**ordinary, **alike, **only_tumors)


def test_every_preset_fits_the_labels_of_the_recipe():
    for path in sorted(PRESETS.glob("*.yaml")):
        config = Config.load([RECIPE, path], {"model_defaults": {"training": {"loss": "label_sets"}}})
        assert config.sources[path.stem].targets
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {*NAMES, "word", "flare23"}


def test_a_value_may_be_null_and_nothing_else_is_lost_by_it():
    values = settings(sources={"lits": {"values": {"2": None}}}).sources["lits"].values
    assert dict(values) == {"1": "liver", "2": "background"}


def test_a_table_survives_as_text():
    table = ValueTable({"1": (2, 13), "2": 14, "3": 255, "spleen a": 3})
    assert ValueTable.parse(table.text) == table
    assert ValueTable.parse("") is None


def test_one_labeled_case_at_least_is_drawn_for_validation():
    files = SimpleNamespace(name="s", images=dict.fromkeys("abcdefgh"), labels=dict.fromkeys("ab"))
    drawn = drawn_for_validation(files, SimpleNamespace(sources=(), seed=0, share=0.2))
    assert len(drawn) == 1
    assert drawn < {"a", "b"}
