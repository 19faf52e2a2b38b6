"""CT segmentation from partial labels: teachers complete what annotators left open, a student learns from all of it.

What a run makes is said by the configuration's tables `completions` and `models`; the order follows from them.
Targets: `all` (the default), `cohort`, `teachers`, `pseudo_labels`, `models`, `evaluation`, `report`, or any file.
"""

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

from flare23_lib.cohort.folders import find, listing
from flare23_lib.config import Config
from flare23_lib.errors import FlareError
from flare23_lib.store import fingerprint

min_version("9.0")

ROOT = Path(workflow.basedir)


configfile: ROOT / "config.yaml"


try:
    CONFIG = Config.check(config, ROOT / "config.schema.yaml")
    find(CONFIG["cohort"], CONFIG["layout"])
except FlareError as error:
    sys.exit(f"configuration: {error}")

# Rules call `flare23`; it lies beside the interpreter that runs Snakemake, on the PATH or not.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

R = CONFIG["results"]
SHARDS = CONFIG["shards"]
DEVICE = CONFIG["device"]
CHECKPOINT_MINUTES = CONFIG["checkpoint_minutes"]
LABEL_NAMES = CONFIG.labels.names
TEACHERS = sorted({row["teacher"] for row in CONFIG["completions"].values()})


def shards(stage: str) -> list[str]:
    """Return the names of a stage's shards, as in its records' file names."""
    return [f"{index}-of-{SHARDS[stage]}" for index in range(SHARDS[stage])]


def stage_settings(stage: str, wildcard: str):
    """Return a function that gives a stage's settings for a rule's `params`."""
    return lambda wildcards: CONFIG.settings(stage, wildcards[wildcard])


wildcard_constraints:
    model="|".join(CONFIG.models),
    completion="|".join(CONFIG.completions) or "none",
    shard=r"\d+-of-\d+",


include: "rules/cohort.smk"
include: "rules/training.smk"
include: "rules/pseudo_labels.smk"
include: "rules/segmentation.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.models.input,
        rules.evaluation.input,
        rules.report.input,


onsuccess:
    from flare23_lib.evaluation.tables import format_summary

    for model in CONFIG.evaluated:
        summary = Path(R) / "evaluation" / model / "summary.csv"
        if summary.exists():
            print(f"\n{model} ({summary})\n\n{format_summary(summary)}")
