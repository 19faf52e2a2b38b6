"""Drills on a SLURM of one node: does the workflow end complete, whatever happens, and compute nothing twice?

Each drill is a run of a small chain through profiles/slurm to which something is done. It raises AssertionError if
what is expected does not come, and returns figures. A SLURM must be up (tests/cluster/slurm.sh up --accounting). The
output file keeps what it has of drills that are not run this time.

    PYTHONPATH=tests/helpers:benchmarks python tests/cluster/drills.py --output benchmarks/results/cluster.json
    PYTHONPATH=tests/helpers:benchmarks python tests/cluster/drills.py cancel_training controller --folder FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import slurm
from places import REPOSITORY
from provenance import provenance

from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.tables import read_csv
from flare23_lib.phantom import PhantomLayout, write_cohort

TEACHER = "results/models/organ_teacher/model.json"
SHARD = "results/pseudo_labels/unlabeled/0-of-1.csv"
LONG_EPOCHS = 400
ADDED = 60


# ------------------------------------------------------------------ what drills start from and look at


def fresh(folder: Path) -> Path:
    """Make a folder with a cohort in it."""
    write_cohort(folder / "cohort", cases=6, validation=2, seed=1, layout=PhantomLayout(coarseness=2.0))
    return folder


def copy_of(finished: Path, folder: Path) -> Path:
    """Copy a finished run, its times included, to go on with."""
    assert (finished / "results/report/index.html").exists(), "the whole chain, with which this begins, did not end"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


def add_unlabeled(folder: Path, number: int) -> None:
    """Add unlabeled cases to the cohort: the first one under other names."""
    images = folder / "cohort" / "unlabelTr1800"
    source = sorted(images.iterdir())[0]
    for index in range(number):
        shutil.copy(source, images / f"FLARE23_{5000 + index}_0000.nii.gz")


def long_training(folder: Path) -> Path:
    """Write a configuration with trainings that last; return its path."""
    path = folder / "long.yaml"
    path.write_text(f"model_defaults: {{training: {{epochs: {LONG_EPOCHS}}}}}\n", encoding="utf-8")
    return path


def checkpoint(folder: Path) -> bool:
    """Say whether a training under way has a checkpoint."""
    return any((folder / "results/store/training").glob("*/results/*/*/fold_all/checkpoint_latest.pth"))


def weights(folder: Path) -> dict[str, int]:
    """Return when the final weights of trainings were written."""
    root = folder / "results/store/training"
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.glob("*/model.safetensors")}


def segmentations(folder: Path) -> dict[str, int]:
    """Return when the segmentations in the store were written."""
    root = folder / "results/store/segmentations"
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.glob("*/*.nii.gz")}


def epochs_once(folder: Path) -> bool:
    """Say whether the teacher's history has every epoch once and in order."""
    rows = read_csv(folder / "results/training/organ_teacher/training.csv")
    return [int(row["epoch"]) for row in rows] == list(range(1, LONG_EPOCHS + 1))


def states(folder: Path, rule: str) -> list[str]:
    """Return how the jobs of a rule ended, in order."""
    return [job.state for job in slurm.jobs(folder) if job.rule == rule]


def training_begun(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a long training of the teacher and return when it has a checkpoint."""
    process = slurm.start(folder, *arguments, "--", TEACHER, configfiles=[long_training(folder)])
    slurm.wait_until(lambda: checkpoint(folder) and slurm.running(folder, "train"), 240, process)
    return process


def training_log(folder: Path) -> str:
    """Return the log of the teacher's latest attempt; empty before there is one."""
    path = folder / "results/logs/train/organ_teacher.log"
    return path.read_text(encoding="utf-8") if path.exists() else ""


# ------------------------------------------------------------------ drills


def whole_chain(finished: Path, folder: Path) -> dict:
    """The whole chain: every job is accounted by SLURM as completed, and networks alone have a GPU."""
    begun = time.perf_counter()
    slurm.finish(slurm.start(fresh(folder)), folder)
    found = slurm.jobs(folder)
    assert {job.state for job in found} == {"COMPLETED"}, found
    assert {job.rule for job in found} >= {"cohort", "preprocess", "complete", "evaluate"}, found
    networks = {"train", "pseudo_label", "predict"}
    assert {(job.rule, job.gpus) for job in found if job.gpus} == {(rule, 1) for rule in networks}, found
    assert len(read_csv(folder / "results/evaluation/student/summary.csv")) == 15
    return {"jobs": len(found), "seconds": round(time.perf_counter() - begun, 1)}


def cancel_training(finished: Path, folder: Path) -> dict:
    """`scancel` on a running training: it saves, and the next job goes on."""
    process = training_begun(fresh(folder))
    job = slurm.running(folder, "train")[0]
    subprocess.run(["scancel", str(job.id)], check=True)
    slurm.wait_until(lambda: "stopped by SIGTERM" in training_log(folder), 60)
    slurm.finish(process, folder)
    assert states(folder, "train") == ["CANCELLED", "COMPLETED"], states(folder, "train")
    assert epochs_once(folder)
    return {"states": states(folder, "train"), "saved_on_cancel": True, "every_epoch_once": True}


def requeue(finished: Path, folder: Path) -> dict:
    """A running training goes back into the queue, as by preemption: it saves, and the same job goes on later."""
    process = training_begun(fresh(folder))
    job = slurm.running(folder, "train")[0]
    subprocess.run(["scontrol", "requeue", str(job.id)], check=True)
    slurm.wait_until(lambda: "stopped by SIGTERM" in training_log(folder), 60)
    slurm.finish(process, folder, 900)
    (last,) = [job for job in slurm.jobs(folder) if job.rule == "train"]
    assert (last.id, last.state, last.restarts) == (job.id, "COMPLETED", 1), last
    assert epochs_once(folder)
    return {"state": last.state, "restarts": last.restarts, "saved": True, "every_epoch_once": True}


def cancel_shard(finished: Path, folder: Path) -> dict:
    """`scancel` on a shard of pseudo-labels: the next job goes on with the next case."""
    copy_of(finished, folder)
    add_unlabeled(folder, ADDED)
    before = segmentations(folder)
    process = slurm.start(folder, "--", SHARD)
    slurm.wait_until(lambda: len(segmentations(folder)) >= len(before) + 5, 240, process)
    subprocess.run(["scancel", str(slurm.running(folder, "pseudo_label")[0].id)], check=True)
    slurm.wait_until(lambda: not slurm.running(folder, "pseudo_label"), 60)
    done = segmentations(folder)
    slurm.finish(process, folder)
    after = segmentations(folder)
    ended = states(folder, "pseudo_label")[-2:]
    assert ended == ["CANCELLED", "COMPLETED"], ended
    assert {name: after[name] for name in done} == done
    assert len(after) == len(before) + ADDED
    return {"states": ended, "cases_before_cancel": len(done) - len(before), "cases": ADDED, "computed_twice": 0}


def over_memory(finished: Path, folder: Path) -> dict:
    """A job that asks for too little memory is tried again with more."""
    workflow = folder / "workflow"
    for name in ("rules", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, workflow / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / name, workflow)
    rules = workflow / "rules" / "cohort.smk"
    text = rules.read_text(encoding="utf-8")
    assert text.count("mem_mb=scale_with_attempt(16000)") == 1
    rules.write_text(
        text.replace("mem_mb=scale_with_attempt(16000)", "mem_mb=scale_with_attempt(150)"), encoding="utf-8"
    )
    slurm.finish(slurm.start(fresh(folder), "--", "cohort", workflow=workflow), folder)
    found = [job for job in slurm.jobs(folder) if job.rule == "cohort"]
    assert len(found) > 1, found
    assert found[-1].state == "COMPLETED", found
    assert "COMPLETED" not in [job.state for job in found[:-1]], found
    return {"states": [job.state for job in found], "memory_mb": [job.memory_mb for job in found]}


def over_time(finished: Path, folder: Path) -> dict:
    """A training that is longer than its job's time limit: warned, it saves, and the next job goes on, to the end."""
    limit = ["--set-resources", "train:runtime=3", "train:slurm_extra=--signal=TERM@60"]
    process = slurm.start(fresh(folder), *limit, "--", TEACHER, configfiles=[long_training(folder)])
    slurm.wait_until(lambda: len(slurm.running(folder, "train")) == 1, 240, process)
    slurm.wait_until(lambda: "stopped by SIGTERM" in training_log(folder), 240)
    slurm.finish(process, folder, 1200)
    found = [job for job in slurm.jobs(folder) if job.rule == "train"]
    assert len(found) > 1, found
    assert found[-1].state == "COMPLETED", found
    assert epochs_once(folder)
    return {
        "states": [job.state for job in found],
        "seconds": [round(job.ended - job.started) for job in found],
        "saved_on_warning": True,
        "every_epoch_once": True,
    }


def controller(finished: Path, folder: Path) -> dict:
    """slurmctld stopped for a minute, with a job running and others to come."""
    process = training_begun(fresh(folder))
    trained = slurm.running(folder, "train")[0].id
    slurm.control("stop-controller")
    time.sleep(60)
    slurm.control("start-controller")
    slurm.finish(process, folder)
    found = slurm.jobs(folder)
    assert [job.id for job in found if job.rule == "train"] == [trained], found
    assert epochs_once(folder)
    return {"states": {job.rule: job.state for job in found}, "seconds_without": 60}


def interrupt(finished: Path, folder: Path) -> dict:
    """Ctrl-C: the jobs are cancelled, the training saves, and a new start goes on."""
    process = training_begun(fresh(folder))
    begun = time.perf_counter()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    ended = time.perf_counter() - begun
    slurm.wait_until(lambda: not slurm.running(folder, "train"), 60)
    assert "stopped by SIGTERM" in training_log(folder)
    assert not weights(folder)
    slurm.finish(slurm.start(folder, "--", TEACHER, configfiles=[folder / "long.yaml"]), folder)
    assert epochs_once(folder)
    return {"states": states(folder, "train"), "seconds_to_end": round(ended, 1), "every_epoch_once": True}


def kill(finished: Path, folder: Path) -> dict:
    """SIGKILL of Snakemake, whose training runs on, and a new start beside it: one writer, nothing twice."""
    process = training_begun(fresh(folder))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    refused = slurm.run(folder, "--", TEACHER, configfiles=[folder / "long.yaml"])
    assert refused.returncode != 0
    assert "--unlock" in refused.stderr
    unlocked = slurm.run(folder, "--unlock", configfiles=[folder / "long.yaml"])
    assert unlocked.returncode == 0, unlocked.stderr
    assert slurm.running(folder, "train"), "the training ended too soon; more epochs are needed"
    process = slurm.start(folder, "--", TEACHER, configfiles=[folder / "long.yaml"])
    slurm.wait_until(lambda: len(slurm.running(folder, "train")) == 2, 120, process)
    slurm.wait_until(lambda: "waiting for another job" in training_log(folder), 60, process)
    slurm.finish(process, folder)
    assert len(weights(folder)) == 1
    assert epochs_once(folder)
    first, second = [job for job in slurm.jobs(folder) if job.rule == "train"]
    return {
        "states": [first.state, second.state],
        "second_ended_after_first_s": round(second.ended - first.ended),
        "every_epoch_once": True,
    }


def one_more_case(finished: Path, folder: Path) -> dict:
    """One unlabeled case added: no job of a teacher's training asks for a GPU or more than 10 minutes."""
    copy_of(finished, folder)
    trained = weights(folder)
    add_unlabeled(folder, 1)
    slurm.finish(slurm.start(folder), folder)
    found = slurm.jobs(folder)
    assert {job.state for job in found} == {"COMPLETED"}, found
    teachers = [job for job in found if job.wildcards.startswith("organ_teacher")]
    assert {job.rule for job in teachers} >= {"preprocess", "train"}, found
    idle = [*teachers, *(job for job in found if job.wildcards == "tumor_0-of-1")]
    assert all(job.gpus == 0 and job.minutes <= 10 for job in idle), idle
    gpus = sorted(f"{job.rule} {job.wildcards}" for job in found if job.gpus)
    assert gpus == ["predict student_0-of-1", "pseudo_label unlabeled_0-of-1", "train student"], gpus
    after = weights(folder)
    assert {name: after[name] for name in trained} == trained
    return {"jobs": len(found), "with_gpu": gpus, "without": len(idle), "most_minutes_of_those": 10}


def many_shards(finished: Path, folder: Path, number: int = 200) -> dict:
    """Many shards whose work is done: what a job costs beyond its work."""
    copy_of(finished, folder)
    targets = [f"results/pseudo_labels/unlabeled/{index}-of-{number}.csv" for index in range(number)]
    shards = folder / "shards.yaml"
    shards.write_text(f"shards: {{pseudo_labels: {number}}}\n", encoding="utf-8")
    begun, before = time.perf_counter(), os.times()
    slurm.finish(slurm.start(folder, "--", *targets, configfiles=[shards], jobs=8), folder, 3600)
    seconds, after = time.perf_counter() - begun, os.times()
    processor = sum(getattr(after, kind) - getattr(before, kind) for kind in ("children_user", "children_system"))
    found = [job for job in slurm.jobs(folder) if job.rule == "pseudo_label"]
    assert len(found) == number, len(found)
    work = [
        float(path.read_text().splitlines()[1].split("\t")[0])
        for path in (folder / "results/benchmarks/pseudo_label/unlabeled").glob(f"*-of-{number}.tsv")
    ]
    return {
        "jobs": number,
        "at_once": 8,
        "seconds": round(seconds, 1),
        "job_s": round(statistics.median(job.ended - job.started for job in found), 1),
        "of_which_its_command_s": round(statistics.median(work), 1),
        "snakemake_core_s": round(processor, 1),
    }


DRILLS: dict[str, Callable[[Path, Path], dict]] = {
    drill.__name__: drill
    for drill in (
        whole_chain, cancel_training, requeue, cancel_shard, over_memory, over_time, controller, interrupt, kill,
        one_more_case, many_shards,
    )
}  # fmt: skip


def slurm_version() -> str:
    """Return SLURM's version."""
    return subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def with_accounting() -> bool:
    """Say whether SLURM keeps accounts."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    return "accounting_storage/slurmdbd" in shown


def main() -> None:
    """Run the drills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", choices=[[], *DRILLS], help=f"of {', '.join(DRILLS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="work here and leave everything (default: a temporary folder)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--patience", type=float, default=1, help="wait this many times as long, on a busy machine")
    args = parser.parse_args()
    slurm.patience = args.patience
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # As in a shell's background; the workflow that a drill interrupts would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not slurm.is_up():
        sys.exit("no SLURM answers; tests/cluster/slurm.sh up --accounting")
    versions = {name: version(name) for name in ("snakemake", "snakemake-executor-plugin-slurm")}
    found = {**provenance(), "slurm": slurm_version(), "accounting": with_accounting()}
    found["versions"] |= versions
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = root.absolute()
        known = read_json(args.output)["drills"] if args.output and args.output.exists() else {}
        found["drills"] = known
        names = args.drills or list(DRILLS)
        finished = root / "whole_chain"
        if "whole_chain" not in names and not finished.exists():
            names = ["whole_chain", *names]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            begun = time.perf_counter()
            try:
                result = {"passed": True, **DRILLS[name](finished, root / name)}
            except AssertionError as error:
                result = {"passed": False, "why": str(error)}
            result |= {"date": found["date"], "drill_s": round(time.perf_counter() - begun)}
            found["drills"][name] = result
            print(json.dumps({name: result}, indent=2), flush=True)
            if args.output:
                write_json(args.output, found)
    sys.exit(0 if all(found["drills"][name]["passed"] for name in names) else 1)


if __name__ == "__main__":
    main()
