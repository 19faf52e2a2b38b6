"""What the paper's recipe leaves off, in the chain: a second look, unsure voxels, specks, another round."""

import csv
import shutil

import pytest
import yaml
from conftest import CHAIN, flare23, run_snakemake
from places import BASE_CONFIG, RECIPE, REPOSITORY

from flare23_lib.config import Config
from flare23_lib.config.load import merge, read_yaml
from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv
from flare23_lib.labels import IGNORE_VALUE

OPTIONS = """
completions:
  tumor_unsure: {category: tumor, teacher: organ_teacher, min_agreement: 0.6}
  tumor_again:
    {category: tumor, base: tumor_unsure, teacher: tumor_teacher, unmarked_tumors: if_sure, min_tumor_agreement: 0.6}
  all_organs_again:
    {category: all_organs, teacher: tumor_teacher, tumor_inside_organs: if_sure, min_component_ml: {liver: 500}}
  five_organs_again:
    {category: five_organs, teacher: tumor_teacher, conflict_policy: ignore}
  unlabeled_again: {category: unlabeled, teacher: student}
models:
  student_again:
    network: {depth: [1, 1, 1], widths: [4, 8, 8]}
    patch_size: [16, 24, 24]
    spacing: [14, 12, 12]
    strides: [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    train_on: {label_completions: [tumor_again, all_organs_again, five_organs_again, unlabeled_again]}
"""


@pytest.fixture(scope="module")
def options(finished_chain, tmp_path_factory):
    """A finished chain whose labels were completed with options too; its folder and configuration."""
    folder = tmp_path_factory.mktemp("options") / "chain"
    shutil.copytree(finished_chain, folder, symlinks=True)
    configuration = folder / "options.yaml"
    configuration.write_text(yaml.safe_dump(merge(read_yaml(CHAIN), yaml.safe_load(OPTIONS))))
    trained = set(folder.glob("results/store/training/*"))
    targets = ["pseudo_labels", "results/preprocessed/student_again/0-of-1.csv"]
    done = run_snakemake(folder, "--", *targets, configfile=configuration)
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(folder.glob("results/store/training/*")) == trained
    return folder, configuration


def rows_of(folder, completion):
    return {row["case"]: row for row in read_csv(folder / "results/completed_labels" / completion / "conflicts.csv")}


def labels_of(folder, completion):
    rows = rows_of(folder, completion)
    return {case: read_labels(folder / "results" / row["file"]).array for case, row in rows.items()}


def total(row, outcome):
    return sum(int(value) for name, value in row.items() if name.startswith(f"{outcome}_"))


def test_unsure_voxels_are_ignored_and_counted(options):
    folder, _ = options
    rows, labels = rows_of(folder, "tumor_unsure"), labels_of(folder, "tumor_unsure")
    assert sum(total(row, "unsure") for row in rows.values()) > 0
    for case, row in rows.items():
        assert total(row, "unsure") == (labels[case] == IGNORE_VALUE).sum()


def test_original_tumors_stay_what_they_are(options):
    folder, _ = options
    cases = {case.case: case for case in read_cases(folder / "results/cohort/cases.csv")}
    for case, labels in labels_of(folder, "tumor_again").items():
        original = read_labels(folder / cases[case].label).array
        assert (labels[original == 14] == 14).all()


def test_the_table_of_classes_against_classes_holds_every_voxel(options):
    folder, _ = options
    for completion in ("tumor_unsure", "tumor_again", "five_organs_again", "unlabeled"):
        with (folder / "results/completed_labels" / completion / "confusion.csv").open() as handle:
            table = list(csv.DictReader(handle))
        voxels = sum(int(row["voxels"]) for row in rows_of(folder, completion).values())
        assert sum(int(row["voxels"]) for row in table) == voxels
        kept = sum(int(row["voxels"]) for row in table if row["original"] == row["predicted"] != "background")
        assert kept == sum(total(row, "agreed") for row in rows_of(folder, completion).values())


def test_status_knows_the_options_too(options):
    folder, configuration = options
    arguments = [*BASE_CONFIG, "--configfile", str(configuration)]
    said = flare23(folder, "status", *arguments).stdout
    undone = [line for line in said.splitlines() if line.startswith(("pseudo-labels", "completion", "preprocessing"))]
    assert len(undone) > 10
    assert all(line.split()[3] == "-" for line in undone), said


def test_the_example_of_more_rounds_is_valid():
    config = Config.load([RECIPE, REPOSITORY / "presets/rounds.yaml"])
    order = config.order()
    assert order.index(("models", "student")) < order.index(("completions", "unlabeled_2"))
    assert order[-1] == ("models", "student_2")


def test_in_the_example_of_a_second_look_no_teacher_looks_at_cases_that_it_learned_from():
    config = Config.load([RECIPE, REPOSITORY / "presets/second_look.yaml"])
    looks = {name: row for name, row in config.completions.items() if row.base}
    assert len(looks) == 2
    for row in looks.values():
        learned = config.models[row.teacher].train_on.label_completions
        assert row.category not in {config.completions[name].category for name in learned}
    learned = config.models["tumor_teacher"].train_on.label_completions
    assert set(learned) == set(looks)
