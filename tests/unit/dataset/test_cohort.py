import json
from pathlib import Path

import numpy as np
import pytest
from cohorts import SETTINGS, changed, label_array, small_cohort, with_folders, write

from flare23_lib import versions
from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import checks
from flare23_lib.config.cohort_models import Category, label_map
from flare23_lib.config.settings import TrainingSet
from flare23_lib.dataset.cases import Case, read_cases, usable_cases, write_cases
from flare23_lib.dataset.discover import find
from flare23_lib.dataset.image_info import value_counts
from flare23_lib.dataset.read_files import Task, read_files
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.dataset.summary import write_scan
from flare23_lib.errors import CohortError
from flare23_lib.io.checksum import OWN_CHECKSUM, digest_of
from flare23_lib.preprocessing.preprocess_cases import training_set

CATEGORIES = [category.to_json() for category in SETTINGS.categories]


def test_cases_are_found_paired_and_categorised(cohort):
    found = cohort.scan()
    assert [(case.case, case.split, case.category) for case in found.cases] == [
        ("a", "training", "tumor"),
        ("b", "training", "all_organs"),
        ("c", "training", "five_organs"),
        ("d", "training", "unlabeled"),
        ("v", "validation", ""),
    ]
    assert found.issues == []


def test_a_case_survives_the_table(cohort, tmp_path):
    cases = cohort.scan().cases
    write_cases(tmp_path / "cases.csv", cases)
    assert read_cases(tmp_path / "cases.csv") == cases


def test_the_tables_count_cases_and_label_sets(cohort, tmp_path):
    cohort.image("a2")
    cohort.label("a2", 14)
    write_scan(cohort.scan(), tmp_path)
    text = (tmp_path / "categories.csv").read_text()
    assert "training,tumor,all,2,0,1440" in text
    assert "training,tumor,1 14,1,0,720" in text
    assert "training,unlabeled,all,1,0,720" in text


def test_an_id_in_two_folders_is_quarantined(cohort):
    cohort.image("a", folder="unlabelTr1800")
    assert [case.case for case in cohort.scan().cases if not case.usable] == ["a"]


def test_a_label_set_that_fits_no_category_is_refused_by_name(cohort):
    kept = [category.to_json() for category in SETTINGS.categories if category.name != "five_organs"]
    settings = changed(SETTINGS, categories=kept)
    found = scan_cohort(cohort.root, settings, cohort.memory)
    assert [(issue.case, issue.kind) for issue in found.issues] == [("c", "no_category")]


def test_a_label_that_was_looked_for_in_four_cases_and_is_in_none_is_named(cohort):
    (source,) = SETTINGS.sources
    annotated = ["liver", "stomach", "tumor"]
    settings = changed(SETTINGS, sources={source: {"annotated": annotated}})
    cohort.image_path("c").unlink()
    cohort.label_path("c").unlink()
    assert scan_cohort(cohort.root, settings, cohort.memory).issues == []  # 3 cases
    cohort.image("e")
    cohort.label("e", 1)
    found = scan_cohort(cohort.root, settings, cohort.memory).issues
    assert [(issue.case, issue.file, issue.kind, issue.severity, issue.message) for issue in found] == [
        ("", f"sources.{source}", "label_in_no_case", "warn", "stomach is annotated in 4 cases and occurs in none")
    ]
    cohort.label("e", 1, 250)  # one that is left out does not count
    found = scan_cohort(cohort.root, settings, cohort.memory).issues
    assert [issue.kind for issue in found] == ["unknown_label_values"]


def test_a_second_scan_reads_only_what_is_new(cohort, caplog):
    cohort.scan()
    cohort.image("e", folder="unlabeledTr1800")
    caplog.set_level("INFO")
    cohort.scan()
    assert "10 files, 1 of them new" in caplog.text


def test_a_scan_that_was_killed_in_a_line_goes_on(cohort):
    first = cohort.scan()
    text = cohort.memory.read_text()
    cohort.memory.write_text(text[: len(text) // 2])
    assert cohort.scan().cases == first.cases
    assert cohort.scan().cases == first.cases


def test_the_memory_forgets_files_that_are_long_gone(cohort):
    for number in range(20):
        cohort.image(f"e{number}", folder="unlabeledTr1800")
    cohort.scan()
    for number in range(20):
        cohort.image_path(f"e{number}", "unlabeledTr1800").unlink()
    cohort.scan()
    remembered = [json.loads(line) for line in cohort.memory.read_text().splitlines()]
    assert len(remembered) == len(find(cohort.root, SETTINGS.sources).files())
    for *parts, info in remembered:  # the form is that of all memories of this version
        assert parts[0] == versions.SCAN
        assert info.pop(OWN_CHECKSUM) == digest_of([*parts, info])


def test_parallel_scans_see_the_same(cohort):
    found = find(cohort.root, SETTINGS.sources)
    tasks = [Task(path, "labels" in str(path) or "-gt" in str(path)) for path in found.files()]
    assert read_files(tasks, cohort.root / "one.jsonl", 1) == read_files(tasks, cohort.root / "two.jsonl", 2)


def test_a_scan_of_headers_reads_no_voxel_of_an_image(cohort):
    settings = changed(SETTINGS, scan={"check_images": "header"})
    path = cohort.image_path("d", "unlabeledTr1800")
    write(path, np.random.default_rng(0).integers(-1000, 500, (40, 50, 60)).astype(np.int16))
    raw = path.read_bytes()
    path.write_bytes(raw[:-30] + bytes(22) + raw[-8:])
    assert scan_cohort(cohort.root, settings, cohort.memory).issues == []
    assert [issue.kind for issue in cohort.scan().issues] == ["truncated_gzip"]


def test_voxels_are_counted_across_blocks(tmp_path):
    array = np.zeros((40, 200, 200), np.uint8)
    array[20:, 50:, :] = 3
    array[39, 199, 190:] = 7
    write(tmp_path / "label.nii.gz", array)
    task = Task(tmp_path / "label.nii.gz", True)
    info = read_files([task], tmp_path / "memory.jsonl")[task]
    assert info.voxels == {3: 20 * 150 * 200 - 10, 7: 10}


def test_values_are_counted_as_numpy_counts_them():
    array = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).repeat(3, axis=2)
    values, counts = np.unique(array, return_counts=True)
    assert value_counts(array) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert value_counts(np.zeros(0, int)) == {}


@pytest.mark.parametrize(
    ("present", "name"),
    [
        ({14, 1, 5}, "tumor"),
        ({5}, "all_organs"),
        ({1, 9}, "five_organs"),
        ({9}, None),
        (set(), None),
        (None, "unlabeled"),
    ],
)
def test_the_first_category_that_fits_counts(present, name):
    labels = label_map(SETTINGS.labels)
    names = None if present is None else set(map(labels.name_of, present))
    found = next((one for one in SETTINGS.categories if one.fits("a", names)), None)
    assert (found.name if found else None) == name


def test_a_category_may_be_that_of_a_folder(cohort):
    cohort.image("e", folder="other")
    cohort.label("e", 5)
    folders = ["imagesTr2200", "other"]
    categories = [{"name": "source", "folders": ["other"]}, *CATEGORIES]
    cohort.settings = changed(with_folders(images=folders), categories=categories)
    found = {case.case: case.category for case in cohort.scan().cases}
    assert found == {"a": "tumor", "b": "all_organs", "c": "five_organs", "d": "unlabeled", "e": "source", "v": ""}


def test_a_category_may_be_a_part_of_all_cases(cohort):
    names = [f"case_{number:03d}" for number in range(40)]
    for name in names:
        cohort.image(name)
        cohort.label(name, 14)
    parts = [{"name": f"tumor_{part}", "contains_any": ["tumor"], "subset": f"{part}/2"} for part in (0, 1)]
    cohort.settings = changed(SETTINGS, categories=[*parts, *CATEGORIES[1:]])
    found = {case.case: case.category for case in cohort.scan().cases}
    halves = [{name for name in names if found[name] == f"tumor_{part}"} for part in (0, 1)]
    assert halves[0] | halves[1] == set(names)
    assert min(map(len, halves)) >= 12
    shards = [{name for name in half if name in Shard(0, 2)} for half in halves]
    assert all(0 < len(shard) < len(half) for shard, half in zip(shards, halves, strict=True))  # no shard of its own
    assert found["b"] == "all_organs"


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        ({"contains_any": ["1", "2"]}, {"contains_any": ["1"]}, True),
        ({"contains_any": ["1"]}, {"contains_any": ["1", "2"]}, False),
        ({"contains_any": ["1"]}, {"contains_all": ["1", "2"]}, True),
        ({"contains_all": ["1"]}, {"contains_all": ["1", "2"]}, True),
        ({"contains_all": ["1", "2"]}, {"contains_all": ["1"]}, False),
        ({"contains_all": ["1"]}, {"contains_any": ["1"]}, True),
        ({"contains_all": ["1"]}, {"contains_any": ["1", "2"]}, False),
        ({"contains_all": ["1"]}, {"no_labels": True}, False),
        ({"no_labels": True}, {"no_labels": True}, True),
        ({"folders": ["x", "y"]}, {"folders": ["x"], "contains_all": ["1"]}, True),
        ({"folders": ["x"]}, {"folders": ["x", "y"]}, False),
        ({"folders": ["x"]}, {"contains_all": ["1"]}, False),
        ({"subset": "1/2"}, {"subset": "1/2", "contains_all": ["1"]}, True),
        ({"subset": "1/2"}, {"subset": "3/4"}, True),
        ({"subset": "1/2"}, {"subset": "2/4"}, False),
        ({"subset": "1/2"}, {"subset": "1/3"}, False),
        ({"subset": "3/4"}, {"subset": "1/2"}, False),
        ({"subset": "1/2"}, {"contains_all": ["1"]}, False),
        ({"contains_all": ["1"]}, {"subset": "1/2", "contains_all": ["1"]}, True),
    ],
)
def test_one_category_covers_another_if_all_that_fit_that_fit_it(one, other, covers):
    made = [Category.from_json({"name": "c", **conditions}) for conditions in (one, other)]
    assert checks.covers(*made) is covers


def test_contains_all_wants_all():
    category = Category(name="both", contains_all=("1", "2"))
    assert category.fits("a", {"1", "2", "3"})
    assert not category.fits("a", {"1"})


def test_a_validation_case_never_enters_a_training_set_even_if_it_looks_like_one(tmp_path):
    results = Results(tmp_path)
    common = {
        "image": "x",
        "label": "y",
        "voxels": {1: 5, 5: 3},
        "category": "all_organs",
        "image_id": "1",
        "label_id": "2",
    }
    write_cases(
        results.cases,
        [Case(case="train", split="training", **common), Case(case="check", split="validation", **common),
         Case(case="bad", split="training", status="quarantined", **common)],
    )  # fmt: skip
    settings = TrainingSet(manual_labels=("all_organs",), label_completions=())
    assert [case.case.case for case in training_set(results, settings)] == ["train"]
    assert [case.case for case in usable_cases(results.cases, "validation")] == ["check"]


def test_a_completed_label_of_a_validation_case_stops_the_run(tmp_path):
    results = Results(tmp_path)
    write_cases(results.cases, [Case(case="check", image="x", label="y", split="validation", voxels={1: 5})])
    table = results.collected("completed_labels", "all_organs")
    table.parent.mkdir(parents=True)
    table.write_text("case,file\ncheck,store/x.nii.gz\n")
    with pytest.raises(CohortError, match="check"):
        training_set(results, TrainingSet(manual_labels=(), label_completions=("all_organs",)))


def test_an_empty_validation_label_counts_as_none_if_that_is_wanted(tmp_path):
    cohort = small_cohort(tmp_path)
    label = next(case.label for case in cohort.scan().cases if case.split == "validation")
    write(Path(label), 0 * label_array(1))
    settings = changed(SETTINGS, quality_issues={"empty_label": "unlabeled"})
    found = scan_cohort(cohort.root, settings, tmp_path / "memory.jsonl")
    case = next(case for case in found.cases if case.split == "validation")
    assert (case.label, case.label_id, case.status) == (None, "", "warned")


def test_an_empty_label_may_say_that_nothing_was_found(cohort):
    cohort.image("e", folder="controls")
    for path in (cohort.label("e"), cohort.label_path("v", "validation-gt"), cohort.label_path("a")):
        write(path, 0 * label_array(1))
    cohort.settings = changed(
        with_folders(images=["imagesTr2200", "controls"]),
        categories=[*CATEGORIES, {"name": "healthy", "folders": ["controls"]}],
        quality_issues={"empty_label": "warn"},
    )
    found = {case.case: case for case in cohort.scan().cases}
    assert (found["e"].category, found["e"].status, found["e"].label) == (
        "healthy",
        "warned",
        str(cohort.label_path("e")),
    )
    assert (found["v"].status, found["v"].label) == ("warned", str(cohort.label_path("v", "validation-gt")))
    assert found["a"].status == "quarantined"  # no category takes it


def test_a_damaged_table_of_cases_is_named(cohort, tmp_path):
    write_cases(tmp_path / "cases.csv", cohort.scan().cases)
    text = (tmp_path / "cases.csv").read_text()
    (tmp_path / "cases.csv").write_text(text.replace(",8,9,10,", ",8,x,10,"))
    with pytest.raises(CohortError, match=r"cases\.csv: is damaged"):
        read_cases(tmp_path / "cases.csv")
