"""The environments for `--sdm conda` and for containers hold the versions that the project was tested with."""

import re
import tomllib

import pytest
import yaml
from places import REPOSITORY


def name_of(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name_of(name): version for name, version in pins}


def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def pip_requirements():
    environment = yaml.safe_load((REPOSITORY / "envs" / "workflow.yaml").read_text())
    return next(row["pip"] for row in environment["dependencies"] if isinstance(row, dict))


def test_the_conda_environment_pins_the_versions_of_the_constraints():
    pins = dict(row.split("==") for row in pip_requirements())
    known = constraints()
    assert pins == {name: known[name_of(name)] for name in pins}


def test_the_conda_environment_holds_all_that_jobs_import():
    wanted = {name_of(row) for row in [*project()["dependencies"], *project()["optional-dependencies"]["workflow"]]}
    assert {name_of(row) for row in pip_requirements()} == wanted - {"snakemake"}


def test_every_direct_dependency_is_pinned():
    tables = [project()["dependencies"], *project()["optional-dependencies"].values()]
    assert {name_of(row) for rows in tables for row in rows} <= set(constraints())


@pytest.mark.parametrize("rules", sorted((REPOSITORY / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_every_job_has_a_conda_environment(rules):
    text = rules.read_text()
    jobs = text.count("    shell:\n") + text.count("    script:\n")
    assert text.count('        "../envs/workflow.yaml"\n') == jobs


def test_the_snakefile_says_where_the_conda_environment_finds_the_library():
    script = (REPOSITORY / "envs" / "workflow.post-deploy.sh").read_text()
    assert "$FLARE23_REPOSITORY" in script
    assert 'environ["FLARE23_REPOSITORY"]' in (REPOSITORY / "rules" / "common.smk").read_text()


def test_the_readme_says_which_versions_of_python_were_tried_and_what_newer_ones_take():
    text = (REPOSITORY / "README.md").read_text()
    lowest, highest = re.search(r"Python (3\.\d+) to (3\.\d+)", text).groups()
    assert project()["requires-python"] == f">={lowest}"
    rows = dict(re.findall(r"^\| (3\.\d+(?:, 3\.\d+)*) \| (.+) \|$", text, re.MULTILINE))
    named = [version for row in rows for version in row.split(", ")]
    assert named == [f"3.{minor}" for minor in range(int(lowest[2:]), int(highest[2:]) + 2)]
    newer = rows[named[-1]]
    assert newer.startswith("nothing; ")
    assert "C compiler" in newer
    pin = re.search(r"`(\w+)==([\d.]+)`", newer).groups()
    assert constraints()[pin[0]] == pin[1]


@pytest.mark.parametrize("file", ["envs/workflow.yaml", "Dockerfile"])
def test_environments_have_a_version_of_python_that_was_tried(file):
    found = re.findall(r"(?:- python=|ARG BASE=python:)(3\.\d+)", (REPOSITORY / file).read_text())
    assert found == [project()["requires-python"].removeprefix(">=")]


def test_the_images_are_built_of_the_same_files():
    docker = re.findall(r"^COPY (.*?)(?: \S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for names in docker for name in names.split()} - {"${MODEL}", "predict.sh"}
    definition = (REPOSITORY / "envs" / "apptainer.def").read_text()
    assert set(re.findall(r"^    (\S+) /opt/flare23/\1$", definition, re.MULTILINE)) == copied
    assert "setup.py" in copied
