"""The whole chain on a few small phantoms, run once; each test looks at its results or changes a copy."""

import csv
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import processes
import pytest
import yaml
from conftest import CHAIN, CONFIGURATION, ENVIRONMENT, flare23, run_snakemake, snakemake_command
from faults import flip
from machines import wait_until
from places import RECIPE
from processes import Command

from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.atomic import TEMPORARY_MARK, read_json
from flare23_lib.io.images import read_header
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv
from flare23_lib.phantom import draw_phantom
from flare23_lib.pseudo_labels.merge import OUTCOMES


def stored(folder: Path, stage: str) -> dict[str, int]:
    """Times of the files of a stage in the store, by name."""
    root = folder / "results" / "store" / stage
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in sorted(root.rglob("*.nii.gz"))}


def weights(folder: Path) -> dict[str, int]:
    root = folder / "results" / "store" / "training"
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.glob("*/model.safetensors")}


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def completions(folder: Path):
    cases = {case.case: case for case in read_cases(folder / "results/cohort/cases.csv")}
    for name in ("tumor", "all_organs", "five_organs", "unlabeled"):
        for row in read_csv(folder / f"results/completed_labels/{name}/conflicts.csv"):
            yield name, cases[row["case"]], row


def test_every_training_case_is_completed_and_every_validation_case_predicted(finished_chain):
    cases = read_cases(finished_chain / "results/cohort/cases.csv")
    completed = sorted(case.case for _, case, _ in completions(finished_chain))
    assert completed == sorted(case.case for case in cases if case.split == "training")
    predicted = read_csv(finished_chain / "results/predictions/student/predictions.csv")
    assert [row["case"] for row in predicted] == [case.case for case in cases if case.split == "validation"]


def test_labels_have_names_for_viewers_and_models_a_card(finished_chain):
    results = finished_chain / "results"
    for folder in (*(results / "completed_labels").iterdir(), *(results / "predictions").iterdir()):
        assert read_csv(folder / "labels.csv")[0]["Name"] == "liver"
        assert "1 liver" in (folder / "labels.ctbl").read_text()
    description = read_json(results / "models" / "student" / "model.json")
    assert description["labels"][1]["tolerance_mm"] == 5
    assert sum(description["training_images"]["axes"].values()) == description["provenance"]["trained_on_cases"]
    assert description["training_images"]["lowest"][0] < -900
    card = (results / "models" / "student" / "README.md").read_text()
    assert "| liver | " in card.split("## Scores")[1]


def test_a_completed_label_lies_on_its_image_to_the_last_bit(finished_chain):
    for name, case, row in completions(finished_chain):
        label = finished_chain / "results/completed_labels" / name / f"{case.case}.nii.gz"
        assert label.resolve() == (finished_chain / "results" / row["file"]).resolve()
        image, completed = (read_header(path)[0] for path in (finished_chain / case.image, label))
        assert completed.shape == image.shape
        assert np.array_equal(completed.affine, image.affine)


def test_every_original_voxel_is_kept(finished_chain):
    for name, case, row in completions(finished_chain):
        if name == "unlabeled":
            continue
        original = read_labels(finished_chain / case.label).array
        completed = read_labels(finished_chain / "results" / row["file"]).array
        assert (completed[original != 0] == original[original != 0]).all()


def test_the_conflicts_add_up_to_the_voxels(finished_chain):
    for _, case, row in completions(finished_chain):
        counts = sum(
            int(value) for key, value in row.items() if key.split("_")[0] in {o.split("_")[0] for o in OUTCOMES}
        )
        assert counts + int(row["background"]) == int(row["voxels"]) == np.prod(case.shape)


def test_links_of_completed_labels_are_relative(finished_chain):
    links = list((finished_chain / "results/completed_labels").glob("*/*.nii.gz"))
    assert len(links) == 6
    assert not any(link.readlink().is_absolute() for link in links)


def test_the_summary_has_a_row_per_class_and_the_organs_mean(finished_chain):
    rows = read_csv(finished_chain / "results/evaluation/student/summary.csv")
    assert len(rows) == 15
    assert [row["class"] for row in rows[-2:]] == ["tumor", "organs"]


def test_a_teacher_knows_which_labels_it_never_saw(finished_chain):
    assert "tumor" in read_json(finished_chain / "results/models/organ_teacher/model.json")["unseen"]


def test_no_validation_case_is_in_any_training_set(finished_chain):
    paths = [*(finished_chain / "results/store/training").glob("*/manifest.json")]
    assert paths
    for path in paths:
        trained_on = [row[0] for row in read_json(path)["key"]["cases"]]
        assert trained_on
        assert not any(case.startswith("FLARE23Ts") for case in trained_on)


def test_the_training_folder_is_laid_out_as_nnunets(finished_chain):
    records = [*(finished_chain / "results/training").glob("*/training.json")]
    assert records
    for record in records:
        folder = record.with_name("nnunet")
        assert (folder / "plans.json").exists()
        assert (folder / "dataset.json").exists()
        assert (folder / "fold_all" / "checkpoint_final.pth").exists()


def test_a_checkpoint_of_ours_exports_to_the_bundle_that_the_workflow_made(finished_chain, tmp_path):
    checkpoint = finished_chain / "results/training/student/nnunet/fold_all/checkpoint_final.pth"
    succeed(flare23(tmp_path, "export", "--checkpoint", str(checkpoint), "--output", "bundle"))
    made = read_json(tmp_path / "bundle/model.json")
    ours = read_json(finished_chain / "results/models/student/model.json")
    for key in ("network", "patch_size", "spacing", "intensity", "orientation", "mirror_axes", "weights"):
        assert made[key] == ours[key]
    # How labels are scored is in no checkpoint.
    made_labels, our_labels = ([(row["name"], row["value"]) for row in one["labels"]] for one in (made, ours))
    assert made_labels == our_labels


def test_predict_gives_what_the_workflow_gave(finished_chain, tmp_path):
    model = str(finished_chain / "results/models/student")
    image = next((finished_chain / "cohort/validation").glob("*.nii.gz"))
    options = ["--step", "0.8", "--no-tta", "--device", "cpu", "--threads", "2"]
    succeed(flare23(tmp_path, "predict", "--model", model, "--input", str(image), "--output", "out", *options))
    name = image.name.replace("_0000", "")
    workflow = read_labels(finished_chain / "results/predictions/student" / name).array
    assert np.mean(read_labels(tmp_path / "out" / name).array == workflow) > 0.999


def test_started_again_it_does_nothing(finished_chain):
    assert "Nothing to be done" in succeed(run_snakemake(finished_chain, "--dry-run"))


def test_how_it_is_computed_starts_only_the_measurement_again(finished_chain):
    other = ("--config", "device=cpu", "checkpoint_interval_minutes=3")
    planned = succeed(run_snakemake(finished_chain, "--dry-run", *other, "--", "models", "pseudo_labels"))
    assert "Nothing to be done" in planned
    assert "measure_efficiency" in succeed(run_snakemake(finished_chain, "--dry-run", *other))


def test_lost_weights_of_a_bundle_are_written_again_and_nothing_is_trained(chain):
    file, trained = chain / "results/models/student/model.safetensors", weights(chain)
    content = file.read_bytes()
    file.unlink()
    succeed(run_snakemake(chain, "--", "results/models/student/model.safetensors"))
    assert file.read_bytes() == content
    assert weights(chain) == trained


def test_status_says_that_everything_is_there(finished_chain):
    assert "computes nothing" in succeed(flare23(finished_chain, "status", *CONFIGURATION))


def test_scores_that_are_older_than_their_cohort_are_shown_with_a_note(chain):
    os.utime(chain / "results/cohort/cases.csv")
    shown = succeed(run_snakemake(chain, "--force", "--", "results/report/figures/cohort.svg"))
    assert "summary.csv; older than its inputs: the target `evaluation` updates it" in shown


def everything(folder: Path):
    return stored(folder, "segmentations"), stored(folder, "completed_labels"), weights(folder)


@pytest.mark.parametrize("stage", ["pseudo_labels", "completed_labels"])
def test_records_of_a_stage_that_were_deleted_are_made_again_without_computing(chain, stage):
    for record in (chain / "results" / stage / "unlabeled").glob("*.csv"):
        record.unlink()
    before = everything(chain)
    target = {"pseudo_labels": "0-of-1.csv", "completed_labels": "conflicts.csv"}[stage]
    succeed(run_snakemake(chain, "--", f"results/{stage}/unlabeled/{target}"))
    assert read_csv(chain / "results" / stage / "unlabeled" / target)
    assert everything(chain) == before


def lose_files(chain: Path) -> list[str]:
    """Delete a pseudo-label and the completed label of another case; return their names in `results`."""
    names = [
        read_csv(chain / f"results/{stage}/tumor/0-of-1.csv")[row]["file"]
        for row, stage in enumerate(("pseudo_labels", "completed_labels"))
    ]
    for name in names:
        (chain / "results" / name).unlink()
    return names


def assert_only_made_again(chain: Path, lost: list[str], before: tuple[dict[str, int], ...]) -> None:
    """Check that the lost files are there and that nothing else changed."""
    assert all((chain / "results" / name).exists() for name in lost)
    after = everything(chain)
    assert sum(map(len, after)) == sum(map(len, before)) + len(lost)
    assert all({name: new[name] for name in old} == old for old, new in zip(before, after, strict=True))


def test_lost_files_are_named_and_made_again_and_nothing_is_trained_for_them(chain):
    lost = lose_files(chain)
    found = flare23(chain, "verify", *CONFIGURATION)
    assert found.returncode == 1
    assert all(name in found.stdout for name in lost)
    assert "from zero" not in succeed(flare23(chain, "status", *CONFIGURATION))
    before = everything(chain)
    succeed(run_snakemake(chain, "--", "results/completed_labels/tumor/conflicts.csv"))
    assert_only_made_again(chain, lost, before)
    assert "0 missing or broken" in succeed(flare23(chain, "verify", *CONFIGURATION))
    assert "computes nothing" in succeed(flare23(chain, "status", *CONFIGURATION))


@pytest.mark.slow  # most jobs of the chain, once more
def test_a_whole_run_makes_again_what_is_lost_or_broken_and_trains_nothing(chain):
    results = chain / "results"
    lost = lose_files(chain)
    shard = results / "pseudo_labels/unlabeled/0-of-1.csv"
    shard.write_bytes(shard.read_bytes()[:-5])
    training = results / "training/organ_teacher/training.json"
    training.write_bytes(b"")
    bundle = results / "models/student/model.safetensors"
    content = bundle.read_bytes()
    flip(bundle, -1)
    link = next((results / "completed_labels/five_organs").glob("*.nii.gz"))
    link.unlink()
    assert flare23(chain, "verify", *CONFIGURATION).returncode == 1
    before = everything(chain)
    succeed(run_snakemake(chain))
    assert shard.exists()
    assert training.exists()
    assert bundle.read_bytes() == content
    assert link.exists()
    assert_only_made_again(chain, lost, before)
    assert "0 missing or broken" in succeed(flare23(chain, "verify", *CONFIGURATION))


def test_a_setting_changed_and_changed_back_computes_nothing_the_second_time(chain, tmp_path):
    target = "results/completed_labels/tumor/conflicts.csv"
    changed = tmp_path / "changed.yaml"
    changed.write_text(CHAIN.read_text() + "\ncompletions: {tumor: {conflict_policy: ignore}}\n")
    first = stored(chain, "completed_labels")
    succeed(run_snakemake(chain, "--", target, configfile=changed))
    second = stored(chain, "completed_labels")
    assert len(second) == len(first) + 2
    succeed(run_snakemake(chain, "--", target))
    assert stored(chain, "completed_labels") == second
    rows = read_csv(chain / target)
    assert {row["file"].removeprefix("store/completed_labels/") for row in rows} <= set(first)


def test_without_snakemakes_memory_a_forced_run_sees_what_changed_and_computes_nothing_else(chain, tmp_path):
    """As in another folder, or after the results moved: parameters are remembered in .snakemake."""
    shutil.rmtree(chain / ".snakemake")
    assert "Nothing to be done" in succeed(run_snakemake(chain, "--dry-run"))
    changed = tmp_path / "changed.yaml"
    changed.write_text(CHAIN.read_text() + "\ncompletions: {tumor: {conflict_policy: ignore}}\n")
    image = sorted((chain / "cohort/unlabelTr1800").iterdir())[0]
    shutil.copy(image, image.with_name("FLARE23_9999_0000.nii.gz"))
    before = {stage: stored(chain, stage) for stage in ("completed_labels", "segmentations", "training")}
    target = "results/completed_labels/tumor/conflicts.csv"
    succeed(run_snakemake(chain, "--forceall", "--", target, configfile=changed))
    assert "FLARE23_9999" in [row["case"] for row in read_csv(chain / "results/cohort/cases.csv")]
    after = {stage: stored(chain, stage) for stage in before}
    assert {stage: len(after[stage]) - len(before[stage]) for stage in before} == {
        "completed_labels": 2, "segmentations": 0, "training": 0,
    }  # fmt: skip


def test_a_dry_run_writes_nothing(tmp_path, cohort):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cohort").symlink_to(cohort.root)
    succeed(run_snakemake(tmp_path / "run", "--dry-run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"cohort", ".snakemake"}
    written = [path for path in (tmp_path / "run" / ".snakemake").rglob("*") if path.is_file()]
    assert {path.parent.name for path in written} <= {"log", "iocache"}, "Snakemake's own files"


def test_a_changed_merge_rule_segments_nothing_again(chain, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(CHAIN.read_text() + "\ncompletions: {unlabeled: {min_component_ml: {liver: 1}}}\n")
    target = "results/completed_labels/unlabeled/conflicts.csv"
    done = run_snakemake(chain, "--dry-run", "--", target, configfile=changed)
    said = succeed(done) + done.stderr
    jobs = {line.split()[0] for line in said.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit()}
    assert {"complete", "gather_completed"} <= jobs
    assert "pseudo_label" not in jobs


@pytest.fixture
def renamed(tmp_path):
    """A configuration in which a label has another name."""
    recipe = RECIPE.read_text().replace("gallbladder", "bile_sac")
    labels = yaml.safe_load(recipe)["labels"]
    path = tmp_path / "renamed.yaml"
    path.write_text(CHAIN.read_text() + yaml.safe_dump({"labels": labels}))
    return path


def test_a_label_with_another_name_is_no_work_but_for_the_scores(finished_chain, renamed):
    status = succeed(flare23(finished_chain, "status", *CONFIGURATION[:2], "--configfile", str(renamed)))
    assert "from zero" not in status
    stages = ("preprocessing", "pseudo-labels", "completion", "predictions")
    rows = [line.split() for line in status.splitlines() if line.startswith(stages)]
    assert len(rows) == 12
    assert {row[3] for row in rows} == {"-"}


@pytest.mark.slow  # all jobs of the chain, once more
def test_a_label_with_another_name_computes_no_voxel(chain, renamed):
    before = everything(chain)
    succeed(run_snakemake(chain, configfile=renamed))
    assert everything(chain) == before
    rows = read_csv(chain / "results/completed_labels/tumor/conflicts.csv")
    assert all(row["agreement"] for row in rows)
    assert "bile_sac" in [row["class"] for row in read_csv(chain / "results/evaluation/student/summary.csv")]


def test_an_unlabeled_case_added_is_one_case_computed_and_status_knows_beforehand(chain):
    from flare23_lib.io.nifti import header_for, write_volume

    phantom = draw_phantom(np.random.default_rng(5), coarseness=2.0)
    image, affine = phantom.image, phantom.affine
    path = chain / "cohort/unlabelTr1800/FLARE23_9999_0000.nii.gz"
    write_volume(path, image, header_for(image.shape, affine, image.dtype))
    status = succeed(flare23(chain, "status", *CONFIGURATION))
    assert "trains from zero: student\n" in status
    before, trained = stored(chain, "segmentations"), weights(chain)
    succeed(run_snakemake(chain, "--", "results/completed_labels/unlabeled/conflicts.csv"))
    new = set(stored(chain, "segmentations")) - set(before)
    assert len(new) == 1
    assert "FLARE23_9999" in new.pop()
    assert weights(chain) == trained


def kill_when(condition: Callable[[], object], folder: Path, target: str, configfile: Path = CHAIN) -> None:
    """Start the workflow, and kill it with all of its jobs when the condition is met."""
    command = snakemake_command("--", target, configfile=configfile)
    process = Command(command, folder, ENVIRONMENT, start_new_session=True)
    try:
        wait_until(condition, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow  # a training of minutes, through the workflow; test_training.py kills others
def test_a_training_that_is_killed_goes_on_from_its_checkpoint(chain, tmp_path):
    longer = tmp_path / "longer.yaml"
    longer.write_text(CHAIN.read_text().replace("epochs: 2", "epochs: 40"))
    target = "results/models/organ_teacher/model.json"

    def has_checkpoint():
        return any((chain / "results/store/training").glob("*/results/*/*/fold_all/checkpoint_latest.pth"))

    kill_when(has_checkpoint, chain, target, longer)
    succeed(run_snakemake(chain, "--unlock", configfile=longer))
    status = succeed(flare23(chain, "status", *CONFIGURATION[:2], "--configfile", str(longer)))
    assert "resumes from its last checkpoint" in status
    succeed(run_snakemake(chain, "--", target, configfile=longer))
    log = (chain / "results/logs/train/organ_teacher.log").read_text()
    # Between the two renames of a checkpoint a kill leaves the one before it alone.
    assert re.search(r"checkpoint_(latest|previous)\.pth: epoch", log)
    epochs = [int(row["epoch"]) for row in read_csv(chain / "results/training/organ_teacher/training.csv")]
    assert epochs == list(range(1, 41))


def test_pseudo_labeling_that_is_killed_goes_on_with_the_next_case(chain):
    shutil.rmtree(chain / "results/store/segmentations")
    for record in (chain / "results/pseudo_labels/tumor").glob("*.csv"):
        record.unlink()
    target = "results/pseudo_labels/tumor/0-of-1.csv"

    def notes():
        found = (chain / "results/store/segmentations").glob("*/*.json")
        return [path for path in found if path.name != "manifest.json" and not path.name.startswith(TEMPORARY_MARK)]

    kill_when(notes, chain, target)
    done = {path: path.stat().st_mtime_ns for path in notes()}
    succeed(run_snakemake(chain, "--unlock"))
    succeed(run_snakemake(chain, "--", target))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    with (chain / target).open() as handle:
        assert len(list(csv.DictReader(handle))) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("completions: {tumor: {teacher: nobody}}", "completions.tumor.teacher: there is no model 'nobody'"),
        ("completions: {tumor: {teacher: tumor_teacher}}", "in a circle"),
        ("cohort: nowhere", "there is no folder nowhere"),
        ("models: {student: {patch_size: [16, 24]}}", "models.student.patch_size"),
        ("device: cpu\ncohort: cohort\ndevice: cpu", "wrong.yaml: device is there twice in a table (line 3)"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line_before_any_job(finished_chain, tmp_path, change, words):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(change + "\n")
    command = snakemake_command("--dry-run", configfile=CHAIN)
    command[command.index(str(CHAIN)) + 1 : command.index(str(CHAIN)) + 1] = [str(wrong)]
    done = processes.run(command, finished_chain, ENVIRONMENT)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "configuration:" in line]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in done.stderr
