"""The workflow's form: what Snakemake itself has to say about it."""

import re
import shutil
import sys

import matplotlib.font_manager  # has written its list of fonts, during which it says something
import pytest
from conftest import run_from_scratch, run_snakemake, snakemake_command
from places import REPOSITORY


def test_snakemakes_linter_has_nothing_to_say(finished_chain):
    done = run_snakemake(finished_chain, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_stage_has_a_named_target(finished_chain):
    targets = ["cohort", "teachers", "pseudo_labels", "models", "evaluation", "report"]
    done = run_snakemake(finished_chain, "--dry-run", "--", *targets)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_raised_version_starts_the_jobs_of_its_rule(finished_chain, tmp_path):
    for name in ("flare23_lib", "rules", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(REPOSITORY / name, tmp_path)
    module = tmp_path / "flare23_lib" / "versions.py"
    module.write_text(re.sub(r"^MERGE = \d+", "MERGE = 1000", module.read_text(), flags=re.MULTILINE))
    command = snakemake_command("--dry-run", snakefile=tmp_path / "Snakefile")
    done = run_from_scratch(command, finished_chain)
    assert done.returncode == 0, done.stderr
    planned = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert int(planned["complete"]) == 4
    assert int(planned["pseudo_label"]) == 3, "those of the teacher that learns from merged labels"
    assert "cohort" not in planned


def test_the_plan_does_not_grow_with_the_cohort(finished_chain, tmp_path):
    """As many jobs for a cohort ten times as large."""

    def jobs(cohort):
        done = run_snakemake(
            tmp_path, "--dry-run", "--forceall", "--config", f"cohort={cohort}", f"results={tmp_path}/results"
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout + done.stderr
        return [line.split()[-1] for line in text.splitlines() if line.startswith("total")]

    small = finished_chain / "cohort"
    images = tmp_path / "large" / "unlabelTr1800"
    images.mkdir(parents=True)
    for number in range(60):
        (images / f"case{number}_0000.nii.gz").write_bytes(b"")
    assert jobs(small) == jobs(images.parent) != []


SCRIPT = """
import runpy, sys
from types import SimpleNamespace
table, figure, log, script = sys.argv[1:]
snakemake = SimpleNamespace(
    input=SimpleNamespace(categories=table, confusion=table, history=table, summaries=[table], metrics=[table]),
    output=SimpleNamespace(figure=figure), log=[log],
    params=SimpleNamespace(labels={}, label_names=[], models=["student"]),
    wildcards=SimpleNamespace(completion="tumor", model="student"),
)
runpy.run_path(script, {"snakemake": snakemake})
"""


@pytest.mark.parametrize("name", ["cohort", "method", "training", "conflicts", "score"])
def test_a_figure_of_a_changed_table_ends_in_one_line_in_its_log(tmp_path, name):
    (tmp_path / "table.csv").write_text("class;DSC\nliver;0,9\n")
    script = REPOSITORY / f"scripts/{name}_figure.py"
    command = [sys.executable, "-c", SCRIPT, "table.csv", "f.svg", "f.log", str(script)]
    done = run_from_scratch(command, tmp_path, MPLCONFIGDIR=matplotlib.get_cachedir())
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    (line,) = (tmp_path / "f.log").read_text().splitlines()
    assert line.startswith("flare23: table.csv: has semicolons between its columns")


def test_a_run_succeeds_beside_a_summary_that_it_did_not_make(cohort):
    summary = cohort.root / "results/evaluation/student/summary.csv"
    summary.parent.mkdir(parents=True)
    summary.write_text("class;DSC\nliver;0,9\n")
    done = run_snakemake(cohort.root, "--config", f"cohort={cohort.root}", "--", "cohort")
    assert done.returncode == 0, done.stderr
    assert "summary.csv: has semicolons between its columns" in done.stdout
