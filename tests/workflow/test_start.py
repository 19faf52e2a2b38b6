"""docs/start.md: from a folder to first scores in three commands, run as they are written there."""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import flare23, run_snakemake
from folders import decathlon
from places import BASE_CONFIG, REPOSITORY

from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.tables import read_csv

pytestmark = pytest.mark.slow  # two whole chains


def commands():
    """The three commands of the section."""
    section = (REPOSITORY / "docs" / "start.md").read_text().split("## Your own CTs in three commands")[1]
    return re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].splitlines()


@pytest.mark.timeout(1800)
def test_three_commands_lead_from_a_folder_to_scores(tmp_path):
    install, init, run = commands()
    assert install.startswith("make .venv/installed")
    decathlon(tmp_path / "Task09_Spleen")
    words = shlex.split(init)[1:]
    words[words.index("/data/Task09_Spleen")] = "Task09_Spleen"
    done = flare23(tmp_path, *words, *BASE_CONFIG)
    assert done.returncode == 0, done.stderr
    configfile = tmp_path / shlex.split(run)[-1]
    done = run_snakemake(tmp_path, "--config", "smoke=true", configfile=configfile)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = read_csv(tmp_path / "smoke/spleen_results/evaluation/student/summary.csv")
    assert {"liver", "right_kidney"} <= {row["class"] for row in rows}
    cases = read_cases(tmp_path / "smoke/spleen_results/cohort/cases.csv")
    assert {case.split for case in cases} == {"training", "validation"}
