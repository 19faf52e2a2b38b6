# Shared by all files of rules: the checked configuration, names of shards, and the inputs and parameters that follow from
# the configuration's tables. The configuration is refused here, before any job, in one line.

import json
import sys
from dataclasses import asdict
from functools import cache
from os import environ, pathsep
from pathlib import Path
from shlex import quote

from flare23_lib import versions
from flare23_lib.dataset.discover import find, listing, notices
from flare23_lib.config import Config
from flare23_lib.errors import FlareError
from flare23_lib.evaluation.details import detail_tables
from flare23_lib.evaluation.paper_tables import FORMATS, table_names
from flare23_lib.evaluation.tables import format_summary
from flare23_lib.cache.results import Results
from flare23_lib.cache.entries import fingerprint
from flare23_lib.runtime.machine import has_slurm_accounts

try:
    # Not Snakemake's `config`, which does not tell the recipe from what is laid over it (`recipe: none`).
    RECIPE = Path(workflow.basedir) / "config.yaml"
    CONFIG = Config.load([RECIPE, *workflow.overwrite_configfiles], workflow.config_settings.config)
    CONFIG.check_given_files()
    RESULTS = Results(Path(CONFIG.results))
except FlareError as error:
    sys.exit(f"configuration: {error}")

# Rules call `flare23`; it lies beside the interpreter that runs Snakemake, on the PATH or not.
environ["PATH"] = f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}"

# A notebook's own backend, which it hands to the commands that it starts, cannot draw here.
environ["MPLBACKEND"] = "agg"

# Conda environments install the library from here (envs/workflow.post-deploy.sh).
environ["FLARE23_REPOSITORY"] = str(workflow.basedir)

R = str(RESULTS.root)
SHARDS = dict(CONFIG.shards)
DEVICE = CONFIG.device
CHECKPOINT_MINUTES = str(CONFIG.checkpoint_interval_minutes)  # a resource is no fraction
# A submitted job runs a Snakemake of its own, which would repeat a training on the same node, in the same memory.
RETRIES = CONFIG.max_training_restarts if workflow.is_main_process else 0
LABEL_NAMES = CONFIG.label_map.names
LABELS = [asdict(label) for label in CONFIG.label_map.labels]
MEASURED = CONFIG.evaluated if CONFIG.evaluation.efficiency_cases else []
TABLES = table_names(CONFIG.label_map, CONFIG.evaluation.compare, bool(MEASURED))
DETAILS = detail_tables(CONFIG.label_map) if CONFIG.evaluation.details else []
TEACHERS = sorted({completion.teacher for completion in CONFIG.completions.values()})


wildcard_constraints:
    model="|".join(CONFIG.models),
    completion="|".join(CONFIG.completions) or "none",
    shard=r"\d+-of-\d+",


def results(wildcards):
    """The results folder; as text Snakemake's linter takes it for a prefix of outputs."""
    return R


def shards(stage):
    """The names of a stage's shards, as in its records' file names."""
    return [f"{index}-of-{SHARDS[stage]}" for index in range(SHARDS[stage])]


def settings(**parts):
    """A function that gives what shapes a rule's result as JSON, for its `params`; parts may be functions.

    Snakemake runs the jobs again whose parameters changed. The command takes the text as it is, so that the command
    line that `snakemake -n -p` shows can be run by hand. Tables keep their order: of two masks the later one wins.
    """

    def text(wildcards):
        content = {part: value(wildcards) if callable(value) else value for part, value in parts.items()}
        return json.dumps(content, default=lambda table: table.to_json())

    return text


@cache
def dataset_hash(wildcards):
    """A hash of the names, sizes and times of the dataset's files, so that new and changed files are noticed.

    The folders are walked when the rule that reads them is planned, not when the Snakefile is parsed.
    """
    try:
        found = find(CONFIG.cohort, CONFIG.sources)
    except FlareError as error:
        sys.exit(f"configuration: {error}")
    if workflow.is_main_process:
        for line in notices(found, CONFIG.sources, CONFIG.validation is not None, CONFIG.evaluated):
            logger.warning(line)
    return fingerprint(listing(found))


def teacher_name(wildcards):
    """The name of a completion's teacher."""
    return CONFIG.completions[wildcards.completion].teacher


def base_name(wildcards):
    """The name of the completion that a completion builds on; None without one."""
    return CONFIG.completions[wildcards.completion].base


def completed_labels(wildcards):
    """The gathered completions that a model learns from."""
    return expand(
        f"{R}/completed_labels/{{completion}}/conflicts.csv",
        completion=CONFIG.models[wildcards.model].train_on.label_completions,
    )


def measured_intensity(wildcards):
    """The record of a model's measured intensity; empty where it is given."""
    measured = CONFIG.models[wildcards.model].intensity == "measure"
    return f"{R}/training/{wildcards.model}/intensity.json" if measured else []


def pretrained(wildcards):
    """The file of weights that a model starts from; empty without one."""
    path = CONFIG.pretrained_file(wildcards.model)
    return [] if path is None else str(path)


def option(name, file):
    """A function that gives a command's option for a function's file; empty without a file."""
    return lambda wildcards: f"{name} {quote(file(wildcards))}" if file(wildcards) else ""


def bundle(model):
    """The files of a model's bundle."""
    return [f"{R}/models/{model}/{name}" for name in ("model.json", "model.safetensors")]


def base(wildcards):
    """The record of the completion that a completion builds on; empty without one."""
    name = base_name(wildcards)
    return f"{R}/completed_labels/{name}/conflicts.csv" if name else []


def refuse_emulation():
    """Before the first job of a run on this machine, refuse a precision that it only emulates."""
    if workflow.local_exec:
        try:
            CONFIG.check_precision()
        except FlareError as error:
            sys.exit(f"configuration: {error}")


def ask_squeue_for_sacct():
    """Where jobs go to a SLURM without accounts, put a stand-in for `sacct` on the PATH.

    While SLURM's controller is away the plugin asks `sacct`, whatever the profile says. Without accounts that fails,
    and the plugin waits forever for jobs that it has lost sight of.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    try:
        has_accounts = has_slurm_accounts()
    except FlareError as error:
        sys.exit(f"executor slurm: {error}")
    if not has_accounts:
        environ["PATH"] = f"{workflow.basedir}/profiles/slurm/no_accounting{pathsep}{environ['PATH']}"


def print_summaries():
    """Show the scores of the evaluated models and where the report lies, at the end of a run."""
    for model in CONFIG.evaluated:
        summary = RESULTS.summary(model)
        if not summary.exists():
            continue
        inputs = [RESULTS.cases, RESULTS.training(model), RESULTS.collected("predictions", model)]
        is_older = any(not path.exists() or path.stat().st_mtime > summary.stat().st_mtime for path in inputs)
        note = "; older than its inputs: the target `evaluation` updates it if they changed" if is_older else ""
        try:
            scores = format_summary(summary)
        except FlareError as error:
            scores = error
        print(f"\n{model} ({summary}{note})\n\n{scores}")
    page = Path(R) / "report" / "index.html"
    if page.exists():
        print(f"\nReport: {page}")
