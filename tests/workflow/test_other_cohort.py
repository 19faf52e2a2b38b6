"""Someone else's cohort, through the whole chain, by configuration alone."""

import csv
import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import flare23, run_snakemake
from places import BASE_CONFIG, REPOSITORY

from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.atomic import read_json
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv
from flare23_lib.phantom import PhantomLayout, write_cohort

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a second whole chain

OTHER = REPOSITORY / "tests" / "other_cohort.yaml"
OTHER_OPTIONS = [*BASE_CONFIG, "--configfile", str(OTHER)]
VALUES = {"liver": 50, "spleen": 7, "right_kidney": 21, "left_kidney": 20, "aorta": 200}
NAMES = {50: "hepar", 7: "lien", 21: "ren_dexter", 20: "ren_sinister", 200: "aorta_abdominalis"}
LAYOUT = PhantomLayout(
    coarseness=2.0,
    images="scans/annotated/p{number}_ct.nii.gz",
    labels="annotations/train/p{number}_seg.nii.gz",
    unlabeled_images="scans/plain/p{number}_ct.nii.gz",
    validation_images="scans/test/t{number}_ct.nii.gz",
    validation_labels="annotations/test/t{number}_seg.nii.gz",
    truth="hidden/p{number}_seg.nii.gz",
    first_unlabeled=901,
    validation_step=1,
    values=VALUES,
    annotated={"complete": tuple(VALUES), "kidneys": ("right_kidney", "left_kidney")},
    kinds=("complete", "kidneys"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    write_cohort(folder / "cohort", cases=6, validation=2, seed=3, layout=LAYOUT)
    done = run_snakemake(folder, configfile=OTHER)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_cases_fall_into_its_own_categories(finished):
    cases = read_cases(finished / "results/cohort/cases.csv")
    assert all(case.status == "ok" for case in cases)
    assert {case.category for case in cases if case.split == "training"} == {"complete", "kidneys", "plain"}
    assert sum(case.split == "validation" for case in cases) == 2


def test_completed_labels_hold_its_values_and_keep_its_annotations(finished):
    cases = {case.case: case for case in read_cases(finished / "results/cohort/cases.csv")}
    rows = read_csv(finished / "results/completed_labels/kidneys/conflicts.csv")
    assert rows
    for row in rows:
        original = read_labels(finished / cases[row["case"]].label).array
        completed = read_labels(finished / "results" / row["file"]).array
        assert set(np.unique(completed)) <= {0, *VALUES.values()}
        for value in (20, 21):
            assert np.array_equal(completed == value, original == value)


def test_its_student_is_scored_by_its_own_names_and_tolerances(finished):
    with (finished / "results/evaluation/student/metrics.csv").open(newline="") as handle:
        header = next(csv.reader(handle))
    assert [name for name in header if name.endswith("_DSC")] == [f"{name}_DSC" for name in NAMES.values()]
    assert "tumor" not in " ".join(header)
    labels = read_json(finished / "results/models/student/model.json")["labels"]
    assert [(row["name"], row["value"]) for row in labels[1:]] == [(name, value) for value, name in NAMES.items()]


def test_its_teacher_uses_the_intensities_that_were_measured(finished):
    measured = read_json(finished / "results/training/teacher/intensity.json")
    assert measured["cases"] == len(read_csv(finished / "results/preprocessed/teacher/0-of-1.csv"))
    assert measured["intensity"]["low"] < measured["intensity"]["mean"] < measured["intensity"]["high"]
    for record in ("models/teacher/model.json", "training/teacher/training.json"):
        content = read_json(finished / "results" / record)
        assert content.get("settings", content)["intensity"] == measured["intensity"]
    image = read_csv(finished / "results/preprocessed/teacher/0-of-1.csv")[0]["image"]
    about = read_json((finished / "results" / image).with_name("manifest.json"))
    assert about["key"]["intensity"] == measured["intensity"]
    assert not (finished / "results/training/student/intensity.json").exists()


def test_nothing_of_a_finished_run_is_unused(finished):
    assert flare23(finished, "clean", *OTHER_OPTIONS).stdout == (
        "0.0 MB in 0 files and folders are unused; --yes deletes them\n"
    )


def test_its_student_starts_from_its_teacher(finished):
    logged = (finished / "results/logs/train/student.log").read_text()
    loaded, of = re.search(r"(\d+) of (\d+) parameters start from", logged).groups()
    assert loaded == of
    digest = read_json(finished / "results/models/teacher/model.json")["weights"]["sha256"]
    assert read_json(finished / "results/training/student/training.json")["settings"]["pretrained"] == digest


def test_status_says_what_waits_for_a_measurement_and_what_for_another_model(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    more = yaml.safe_load(OTHER.read_text())["models"]["student"]
    second = {**more, "train_on": {"manual_labels": ["complete"]}, "pretrained": {"model": "student"}}
    (run / "more.yaml").write_text(yaml.safe_dump({"models": {"second": second}}))
    options = [*OTHER_OPTIONS, "more.yaml"]
    assert "The next run trains from zero: second\n" in flare23(run, "status", *options).stdout
    (run / "results" / read_json(run / "results/training/student/training.json")["weights"]).unlink()
    assert "student, from which it starts, is still to be trained" in flare23(run, "status", *options).stdout
    shutil.rmtree(run / "results" / "store" / "intensities")
    assert "its intensities are still to be measured" in flare23(run, "status", *options).stdout


def test_its_report_speaks_of_it_alone(finished):
    text = re.sub(r"base64,[^\"]+", "", (finished / "results/report/index.html").read_text())
    for name in ("hepar", "ren dexter", "kidneys"):
        assert name in text
    shown = text.split('id="provenance"')[0]
    for word in ("FLARE", "liver", "five organs", "tumor", "Huang"):
        assert word not in shown
    for figure in ("cohort", "scores", "training/student", "pseudo_labels/kidneys"):
        for suffix in (".svg", ".png"):
            assert (finished / "results/report/figures" / f"{figure}{suffix}").stat().st_size


def test_status_and_estimate_know_it(finished):
    status = flare23(finished, "status", *OTHER_OPTIONS)
    assert "computes nothing" in status.stdout, status.stdout + status.stderr
    estimate = flare23(finished, "estimate", *OTHER_OPTIONS)
    assert estimate.returncode == 0, estimate.stderr
    assert all(name in estimate.stdout for name in ("teacher", "student", "kidneys", "plain"))
