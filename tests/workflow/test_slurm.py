"""What of the profile for SLURM can be told without one; tests/cluster/drills.py runs the workflow on one."""

import re
import subprocess

import pytest
import yaml
from places import REPOSITORY

from flare23_lib.errors import ConfigError
from flare23_lib.runtime.machine import has_slurm_accounts

PROFILE = REPOSITORY / "profiles" / "slurm"


def rules():
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    return set(re.findall(r"^rule (\w+):", text, re.MULTILINE))


def test_the_profile_speaks_of_rules_that_there_are():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert set(profile["set-resources"]) <= rules()


def test_the_folder_of_logs_is_no_change_of_the_clone():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert f"/{profile['slurm-logdir']}/" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_the_example_of_partitions_has_a_place_for_every_job():
    partitions = yaml.safe_load((PROFILE / "partitions.yaml").read_text())["partitions"]
    assert any(limits.get("max_gpu") for limits in partitions.values())
    assert any(not limits.get("max_gpu") for limits in partitions.values())


def test_the_stand_in_for_sacct_asks_squeue_about_the_run(tmp_path):
    (tmp_path / "squeue").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "squeue").chmod(0o755)
    question = ["-X", "--parsable2", "--noheader", "--format=JobIdRaw,State", "--endtime", "now", "--name", "RUN"]
    done = subprocess.run(
        [PROFILE / "no_accounting" / "sacct", *question], env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["--name", "RUN", "--states", "all", "--noheader", "--format", "%i|%T"]


@pytest.mark.parametrize(
    ("script", "has_accounts"),
    [
        ("echo 'AccountingStorageType   = accounting_storage/slurmdbd'", True),
        ("echo 'AccountingStorageType   = accounting_storage/none'", False),
        ("echo 'AccountingStorageType   = (null)'", False),  # of current versions
        ("echo 'Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_accounts_are_those_of_slurmdbd(tmp_path, monkeypatch, script, has_accounts):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert has_slurm_accounts() == has_accounts


def test_without_scontrol_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no scontrol here"):
        has_slurm_accounts()
