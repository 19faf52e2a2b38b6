from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flare23_lib import images
from flare23_lib.cohort.categories import Category, categorise
from flare23_lib.cohort.folders import find, listing
from flare23_lib.cohort.scan import scan, value_counts
from flare23_lib.cohort.survey import survey, write_survey
from flare23_lib.cohort.table import Case, read_cases, usable_cases, write_cases
from flare23_lib.config import Config
from flare23_lib.errors import CohortError
from flare23_lib.stages.preprocessing import training_set
from flare23_lib.stages.results import Results

RECIPE = Path(__file__).resolve().parent.parent / "config.yaml"
SETTINGS = Config.load([RECIPE]).cohort_settings()
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])


def write(path, array, affine=AFFINE):
    images.write_volume(path, array, images.header_for(array.shape, affine, array.dtype))


def image_array(seed=0):
    return np.random.default_rng(seed).integers(-1000, 500, (4, 5, 6)).astype(np.int16)


def label_array(*values):
    array = np.zeros((4, 5, 6), np.uint8)
    array.ravel()[: len(values)] = values
    return array


class Cohort:
    def __init__(self, root):
        self.root = root
        self.memory = root / "memory.jsonl"

    def image(self, case, folder="imagesTr2200", **options):
        write(self.root / folder / f"{case}_0000.nii.gz", image_array(len(case) + sum(map(ord, case))), **options)

    def label(self, case, *values, folder="labelsTr2200", **options):
        write(self.root / folder / f"{case}.nii.gz", label_array(*values), **options)

    def survey(self, processes=1):
        return survey(self.root, SETTINGS, self.memory, processes)

    def kinds(self):
        return [(fault.case, fault.kind, fault.severity) for fault in self.survey().faults]


@pytest.fixture
def cohort(tmp_path):
    """One good case of each category and a labeled validation case."""
    made = Cohort(tmp_path)
    for case, values in {"a": (1, 14), "b": (1, 5), "c": (2, 13)}.items():
        made.image(case)
        made.label(case, *values)
    made.image("d", folder="unlabeledTr1800")
    made.image("v", folder="validation")
    made.label("v", 1, folder="validation-gt")
    return made


def test_cases_are_found_paired_and_categorised(cohort):
    found = cohort.survey()
    assert [(case.case, case.split, case.category) for case in found.cases] == [
        ("a", "training", "tumor"),
        ("b", "training", "all_organs"),
        ("c", "training", "five_organs"),
        ("d", "training", "unlabeled"),
        ("v", "validation", ""),
    ]
    assert found.faults == []


def test_subfolders_are_searched(cohort):
    cohort.image("e", folder="imagesTr2200/1-500")
    cohort.label("e", 3, folder="labelsTr2200/more")
    assert [case.case for case in cohort.survey().cases] == ["a", "b", "c", "d", "e", "v"]


def test_a_case_survives_the_table(cohort, tmp_path):
    cases = cohort.survey().cases
    write_cases(tmp_path / "cases.csv", cases)
    assert read_cases(tmp_path / "cases.csv") == cases


def test_the_tables_count_cases_and_label_sets(cohort, tmp_path):
    cohort.image("a2")
    cohort.label("a2", 14)
    write_survey(cohort.survey(), tmp_path / "cases.csv", tmp_path / "quarantine.csv", tmp_path / "categories.csv")
    text = (tmp_path / "categories.csv").read_text()
    assert "training,tumor,all,2,0" in text
    assert "training,tumor,1 14,1,0" in text
    assert "training,unlabeled,all,1,0" in text


def spoil_gzip(cohort):
    path = cohort.root / "imagesTr2200" / "a_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])


def remove_label(cohort):
    (cohort.root / "labelsTr2200" / "a.nii.gz").unlink()


def remove_image(cohort):
    (cohort.root / "imagesTr2200" / "a_0000.nii.gz").unlink()


def flip_label(cohort):
    cohort.label("a", 1, 14, affine=np.diag([-2.0, 2.0, 5.0, 1.0]))


def unknown_value(cohort):
    cohort.label("a", 1, 77)


def fractions(cohort):
    nib.save(nib.Nifti1Image(np.full((6, 5, 4), 0.5, np.float32), AFFINE), cohort.root / "labelsTr2200" / "a.nii.gz")


def empty_label(cohort):
    cohort.label("a")


def constant(cohort):
    write(cohort.root / "imagesTr2200" / "a_0000.nii.gz", np.zeros((4, 5, 6), np.int16))


def not_finite(cohort):
    array = np.ones((4, 5, 6), np.float32)
    array[0, 0, 0] = np.nan
    write(cohort.root / "imagesTr2200" / "a_0000.nii.gz", array)


def twice(cohort):
    cohort.image("a", folder="imagesTr2200/again")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (spoil_gzip, "unreadable"),
        (remove_label, "image_without_label"),
        (flip_label, "geometry_mismatch"),
        (unknown_value, "unknown_label_values"),
        (fractions, "unknown_label_values"),
        (empty_label, "empty_label"),
        (constant, "constant_image"),
        (not_finite, "not_finite"),
        (twice, "duplicate_case"),
    ],
)
def test_a_fault_quarantines_its_case_and_no_other(cohort, spoil, kind):
    spoil(cohort)
    assert ("a", kind, "quarantine") in cohort.kinds()
    assert [case.case for case in cohort.survey().quarantined] == ["a"]


def test_a_label_without_an_image_is_reported(cohort):
    remove_image(cohort)
    assert cohort.kinds() == [("a", "label_without_image", "warn")]


def test_an_id_in_two_folders_is_quarantined(cohort):
    cohort.image("a", folder="unlabelTr1800")
    assert [case.case for case in cohort.survey().quarantined] == ["a"]


def test_a_label_set_that_fits_no_category_is_refused_by_name(cohort):
    settings = {**SETTINGS, "categories": [row for row in SETTINGS["categories"] if row["name"] != "five_organs"]}
    found = survey(cohort.root, settings, cohort.memory)
    assert [(fault.case, fault.kind) for fault in found.faults] == [("c", "no_category")]


def test_placeholder_spacing_only_warns(cohort):
    for folder, name in (("imagesTr2200", "a_0000.nii.gz"), ("labelsTr2200", "a.nii.gz")):
        array = image_array() if "images" in folder else label_array(14)
        write(cohort.root / folder / name, array, affine=np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert cohort.kinds() == [("a", "placeholder_spacing", "warn")]
    assert cohort.survey().quarantined == []


def test_a_severity_can_be_configured(cohort):
    constant(cohort)
    settings = {**SETTINGS, "faults": {**SETTINGS["faults"], "constant_image": "warn"}}
    assert survey(cohort.root, settings, cohort.memory).quarantined == []


def test_a_second_scan_reads_only_what_is_new(cohort, caplog):
    cohort.survey()
    cohort.image("e", folder="unlabeledTr1800")
    caplog.set_level("INFO")
    cohort.survey()
    assert "10 files, 1 of them new" in caplog.text


def test_a_scan_that_was_killed_in_a_line_goes_on(cohort):
    first = cohort.survey()
    text = cohort.memory.read_text()
    cohort.memory.write_text(text[: len(text) // 2])
    assert cohort.survey().cases == first.cases
    assert cohort.survey().cases == first.cases


def test_parallel_scans_see_the_same(cohort):
    found = find(cohort.root, SETTINGS["layout"])
    tasks = [(path, "labels" in str(path) or "-gt" in str(path)) for path in found.files()]
    assert scan(tasks, cohort.root / "one.jsonl", 1) == scan(tasks, cohort.root / "two.jsonl", 2)


def test_the_listing_changes_with_every_file(cohort):
    before = listing(cohort.root, SETTINGS["layout"])
    cohort.image("e", folder="unlabeledTr1800")
    assert listing(cohort.root, SETTINGS["layout"]) != before


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CohortError, match="nowhere"):
        find(tmp_path / "nowhere", SETTINGS["layout"])
    with pytest.raises(CohortError, match="no file"):
        find(tmp_path, SETTINGS["layout"])


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
    labels = Config.load([RECIPE]).labels
    categories = [Category.from_config(row, labels) for row in SETTINGS["categories"]]
    found = categorise(present, categories)
    assert (found.name if found else None) == name


def test_contains_all_wants_all():
    category = Category("both", contains_all=frozenset({1, 2}))
    assert category.fits({1, 2, 3})
    assert not category.fits({1})


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
    settings = {"originals": ["all_organs"], "completions": []}
    assert [case.case.case for case in training_set(results, settings)] == ["train"]
    assert [case.case for case in usable_cases(results.cases, "validation")] == ["check"]


def test_a_completed_label_of_a_validation_case_stops_the_run(tmp_path):
    results = Results(tmp_path)
    write_cases(results.cases, [Case(case="check", image="x", label="y", split="validation", voxels={1: 5})])
    table = results.gathered("completed_labels", "all_organs")
    table.parent.mkdir(parents=True)
    table.write_text("case,file\ncheck,store/x.nii.gz\n")
    with pytest.raises(CohortError, match="check"):
        training_set(results, {"originals": [], "completions": ["all_organs"]})
