"""What jobs ask for: little where their work is done, more where they failed."""

import os
import re

import processes
import pytest
from conftest import CONFIGURATION, ENVIRONMENT, flare23, run_snakemake, snakemake_command
from places import REPOSITORY, rules

from flare23_lib.cache.entries import CacheFolder
from flare23_lib.errors import StoreError
from flare23_lib.io.nifti import read_volume, write_volume
from flare23_lib.networks import NETWORKS, Architecture
from flare23_lib.networks.size import parameters
from flare23_lib.nnunet import retry_state
from flare23_lib.nnunet.retry_state import attempt
from flare23_lib.runtime.signals import StoppedError
from flare23_lib.workflow.resources import noop_or, scale_with_attempt
from flare23_lib.workflow.up_to_date import UpToDate


def asked(folder, profile="default"):
    """What each job would ask for if all were started now, by rule and wildcards."""
    command = snakemake_command("--dry-run", "--forceall", profile=profile)
    done = processes.run(command, folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = {}
    for block in re.split(r"\n(?=rule )", done.stdout + done.stderr)[1:]:
        rule = re.match(r"rule (\w+):", block)[1]
        wildcards = re.search(r"wildcards: (.*)", block)
        values = re.findall(r"=([^\s,]+)", wildcards[1]) if wildcards else []
        resources = re.search(r"resources: (.*)", block)[1]
        found[(rule, *values)] = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?:,|$)", resources)}
    return found


RESUMED = [
    ("preprocess", "organ_teacher", "0-of-1"), ("train", "organ_teacher"), ("pseudo_label", "unlabeled", "0-of-1"),
    ("complete", "tumor", "0-of-1"), ("predict", "student", "0-of-1"),
]  # fmt: skip


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_jobs_whose_work_is_done_ask_for_no_gpu_and_a_few_minutes(finished_chain, profile):
    found = asked(finished_chain, profile)
    for job in RESUMED:
        assert found[job].get("gpu", 0) == 0, job
        assert found[job]["runtime"] == 10, job
        assert found[job]["mem_mb"] == 2000, job


def test_jobs_with_work_to_do_ask_for_all_of_it(tmp_path, finished_chain):
    (tmp_path / "cohort").symlink_to(finished_chain / "cohort")
    found = asked(tmp_path)
    for job in RESUMED:
        assert found[job]["runtime"] > 10, job
        assert found[job].get("gpu") == (1 if job[0] in ("train", "pseudo_label", "predict") else None), job


def test_after_one_unlabeled_case_only_those_who_meet_it_ask_for_a_gpu(chain):
    image = read_volume(sorted((chain / "cohort/unlabelTr1800").iterdir())[0])
    write_volume(chain / "cohort/unlabelTr1800/FLARE23_9999_0000.nii.gz", image.array, image.header)
    done = run_snakemake(chain, "--", "results/cohort/cases.csv")
    assert done.returncode == 0, done.stderr
    found = asked(chain)
    assert [job for job, resources in found.items() if job[0] == "pseudo_label" and resources["gpu"]] == [
        ("pseudo_label", "unlabeled", "0-of-1")
    ]
    for teacher in ("organ_teacher", "tumor_teacher"):
        for job in (("preprocess", teacher, "0-of-1"), ("train", teacher), ("bundle", teacher)):
            assert found[job].get("gpu", 0) == 0, job
            assert found[job]["runtime"] <= 10, job


def test_a_lost_file_is_work_to_do(chain):
    next((chain / "results/store/segmentations").glob("*/FLARE23_2201.*.json")).unlink()
    assert asked(chain)["pseudo_label", "unlabeled", "0-of-1"]["gpu"] == 1


def test_after_verify_a_lost_segmentation_is_work_to_do(chain):
    lost = next((chain / "results/store/segmentations").glob("*/FLARE23_2201.*.nii.gz"))
    lost.unlink()
    assert flare23(chain, "verify", *CONFIGURATION).returncode == 1
    assert asked(chain)["pseudo_label", "unlabeled", "0-of-1"]["gpu"] == 1


def test_a_training_whose_input_is_damaged_ends_in_one_line_after_its_retries(chain):
    record = chain / "results/preprocessed/organ_teacher/0-of-1.csv"
    text = record.read_text()
    record.write_text(text.replace("case", "kase", 1))
    target = "results/training/organ_teacher/training.json"
    (chain / target).unlink()
    done = run_snakemake(chain, "--config", "max_training_restarts=1", "--", target)
    assert done.returncode == 1
    assert "Trying to restart" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "InputFunctionException" not in done.stderr


def test_a_submitted_training_is_not_repeated_within_its_job(tmp_path):
    record = tmp_path / "results/preprocessed/organ_teacher/0-of-1.csv"
    record.parent.mkdir(parents=True)
    record.write_text("kase\n")
    as_submitted = ["--mode", "remote", "--retries", "0", "--force", "--nolock", "--allowed-rules", "train"]
    target = "results/training/organ_teacher/training.json"
    done = run_snakemake(tmp_path, "--config", "max_training_restarts=1", *as_submitted, "--", target)
    assert done.returncode == 1
    assert "At least one job did not complete successfully" in done.stderr
    assert (tmp_path / "results/logs/train/organ_teacher.log").exists()
    assert "Trying to restart" not in done.stderr


def test_a_job_is_looked_at_again_only_when_a_file_changed(tmp_path):
    file = tmp_path / "cases.csv"
    entry = CacheFolder.of(tmp_path, "labels", {}).create().entry("a", {})
    entry.file(".nii.gz").touch()
    entry.save([".nii.gz"], {})
    calls = []

    def entries(wildcards):
        calls.append(wildcards)
        return [entry]

    up_to_date = UpToDate(entries)
    assert not up_to_date(["a"], [file]), "what is missing is not done"
    file.write_text("one")
    assert up_to_date(["a"], [file])
    assert up_to_date(["a"], [file])
    assert len(calls) == 1
    assert up_to_date(["b"], [file])
    entry.file(".nii.gz").unlink()
    os.utime(file, ns=(1, 1))
    assert not up_to_date(["a"], [file])
    assert len(calls) == 3
    assert UpToDate(entries, has_files=False)(["a"], [file])
    entry.metadata_path.unlink()
    assert not UpToDate(entries, has_files=False)(["a"], [file])


def test_what_cannot_be_told_is_work():
    def entries(wildcards):
        raise StoreError("cases.csv is missing")

    assert not UpToDate(entries)(["a"], [])


def test_attempts_that_were_killed_are_told_from_those_that_were_stopped(tmp_path):
    progress = iter(range(10))
    with pytest.raises(StoppedError), attempt(tmp_path, 1, lambda: next(progress)):
        raise StoppedError(15, " in epoch 1")
    assert retry_state.killed(tmp_path) == 0
    with pytest.raises(KeyboardInterrupt), attempt(tmp_path, 2, lambda: next(progress)):
        raise KeyboardInterrupt
    assert retry_state.killed(tmp_path) == 1
    assert not retry_state.is_given_up(tmp_path)
    with pytest.raises(StoreError), attempt(tmp_path, 3, lambda: next(progress)):
        raise StoreError("a file is gone")
    assert retry_state.is_given_up(tmp_path)


def test_the_bundle_of_the_largest_network_is_written_within_its_jobs_memory():
    strides = [(1, 1, 1)] + [(2, 2, 2)] * 5
    largest = max(parameters(Architecture.named(name, strides), 15) for name in NETWORKS if name != "stunet_tiny")
    copies, interpreter = 2 * 4 * largest, 1e9
    assert 1e6 * amount("mem_mb", rules()["bundle"]) > copies + interpreter


def test_a_job_that_failed_asks_for_more_memory():
    short, shard = scale_with_attempt(4000), noop_or(lambda *_: True, "mem_mb", 32000)
    assert [short(None, attempt) for attempt in (1, 2, 3, 4)] == [4000, 6000, 8000, 8000]
    assert [shard(None, None, attempt) for attempt in (1, 2, 3, 4)] == [2000, 48000, 64000, 64000]
    assert noop_or(lambda *_: True, "runtime", 720)(None, None, 2) == 720


def amount(name, rule):
    """What a rule asks for where there is work to do; None if it does not say."""
    found = re.search(rf"^ +{name}(?:=|: )(?:.*\D)?(\d+)\)?(?:,|  #|$)", rule, re.MULTILINE)
    return int(found[1]) if found else None


def test_the_table_of_resources_is_that_of_the_rules():
    table = re.search(r"\| rule \| threads .*?\n\n", (REPOSITORY / "docs/cluster.md").read_text(), re.S)[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.strip().splitlines()[2:]]
    asked = {name: rule for name, rule in rules().items() if "mem_mb=" in rule}
    for name, threads, memory, minutes, gpu in rows[:-1]:
        rule = asked.pop(name.split("`")[1])
        found = amount("threads", rule) or 1, amount("mem_mb", rule), amount("runtime", rule)
        assert found == (int(threads), 1000 * int(memory), int(minutes.replace(",", ""))), name
        of_model = re.search(r"gpu=.*\.gpus\)", rule)
        assert of_model if "gpus" in gpu else str(amount("gpu", rule) or "") == gpu, name
    name, threads, memory, minutes, gpu = rows[-1]
    assert (name, threads, gpu) == ("all others", "1", "")
    for words, resource, factor in (memory, "mem_mb", 1000), (minutes, "runtime", 1):
        least, most = (factor * int(number) for number in words.split(" to "))
        amounts = {amount(resource, rule) for rule in asked.values()}
        assert (min(amounts), max(amounts)) == (least, most)
    assert not any("threads:" in rule or "gpu=" in rule for rule in asked.values())
