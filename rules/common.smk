# Shared by all files of rules: the checked configuration, names of shards, and the inputs and parameters that follow from
# the configuration's tables. The configuration is refused here, before any job, in one line.

import json
import subprocess
import sys
from os import environ, pathsep
from pathlib import Path
from shlex import quote

from flare23_lib import versions
from flare23_lib.cohort.folders import find, listing, notices
from flare23_lib.config import Config
from flare23_lib.config.load import read_yaml
from flare23_lib.config.models import Table
from flare23_lib.errors import FlareError
from flare23_lib.evaluation.details import detail_tables
from flare23_lib.evaluation.formats import FORMATS
from flare23_lib.evaluation.paper_tables import table_names
from flare23_lib.evaluation.tables import format_summary
from flare23_lib.stages.done import is_evaluated
from flare23_lib.stages.results import Results
from flare23_lib.store import fingerprint, keep_json, link_to

try:
    for file in workflow.configfiles:
        read_yaml(Path(file))  # Snakemake takes the last of two equal keys without a warning
    CONFIG = Config.check(config, read_yaml(Path(workflow.basedir) / "config.yaml"))
    FOUND = find(CONFIG.cohort, CONFIG.layout)
    LISTING = fingerprint(listing(FOUND))
    CONFIG.check_given_files()
    RESULTS = Results(Path(CONFIG.results))
    RESULTS.settings("cohort").parent.mkdir(parents=True, exist_ok=True)
except FlareError as error:
    sys.exit(f"configuration: {error}")
except OSError as error:
    sys.exit(f"configuration: results: {error.filename} cannot be made ({error.strerror})")

if workflow.is_main_process:
    for line in notices(FOUND, CONFIG.cohort, CONFIG.layout, CONFIG.evaluated):
        logger.warning(line)

# Rules call `flare23`; it lies beside the interpreter that runs Snakemake, on the PATH or not.
environ["PATH"] = f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}"

# Conda environments install the library from here (envs/workflow.post-deploy.sh).
environ["FLARE23_REPOSITORY"] = str(workflow.basedir)

R = str(RESULTS.root)
SHARDS = dict(CONFIG.shards)
DEVICE = CONFIG.device
CHECKPOINT_MINUTES = CONFIG.checkpoint_interval_minutes
RETRIES = CONFIG.max_training_restarts
LABEL_NAMES = CONFIG.label_map.names
MEASURED = CONFIG.evaluated if CONFIG.evaluation.efficiency_cases else []
TABLES = table_names(CONFIG.label_map, CONFIG.evaluation.compare, bool(MEASURED))
DETAILS = detail_tables(CONFIG.label_map) if CONFIG.evaluation.details else []
TEACHERS = sorted({completion.teacher for completion in CONFIG.completions.values()})


wildcard_constraints:
    model="|".join(CONFIG.models),
    completion="|".join(CONFIG.completions) or "none",
    shard=r"\d+-of-\d+",


def results(wildcards):
    """The results folder."""
    return R


def shards(stage):
    """The names of a stage's shards, as in its records' file names."""
    return [f"{index}-of-{SHARDS[stage]}" for index in range(SHARDS[stage])]


TOLD = {}
"""By link, the file that it leads to once the jobs of this run begin (`onstart`)."""


def told(rule, *names, **parts):
    """A function that gives the file of what shapes a rule's results, for its `input`; parts may be functions.

    Another content is another file, so that Snakemake runs the rule's jobs again, and a job that has started reads
    what it was told, whatever the next dry run says. As `params` the same would be remembered in `.snakemake` alone,
    and forgotten by whoever starts Snakemake in another folder.
    """

    def file(wildcards):
        link = RESULTS.settings(rule, *(wildcards[name] for name in names))
        if link not in TOLD:
            content = {part: value(wildcards) if callable(value) else value for part, value in parts.items()}
            TOLD[link] = keep_json(link, {part: plain(value) for part, value in content.items()})
        return str(TOLD[link])

    return file


def plain(value):
    """Settings as plain data, keys in alphabetical order (files are named after their text); others as they are."""
    return json.loads(json.dumps(value.to_json(), sort_keys=True)) if isinstance(value, Table) else value


def of_model(settings):
    """A function that gives a model's settings of a stage, from a method of the configuration."""
    return lambda wildcards: settings(wildcards.model)


def of_completion(settings):
    """A function that gives a completion's settings of a stage, from a method of the configuration."""
    return lambda wildcards: settings(wildcards.completion)


def teacher_name(wildcards):
    """The name of a completion's teacher."""
    return CONFIG.completion(wildcards.completion).teacher


def base_name(wildcards):
    """The name of the completion that a completion builds on; None without one."""
    return CONFIG.completion(wildcards.completion).base


def completed_labels(wildcards):
    """The gathered completions that a model learns from."""
    return expand(
        f"{R}/completed_labels/{{completion}}/conflicts.csv",
        completion=CONFIG.model(wildcards.model).train_on.label_completions,
    )


def measured_intensity(wildcards):
    """The record of a model's measured intensity; empty where it is given."""
    measured = CONFIG.model(wildcards.model).intensity == "measure"
    return f"{R}/training/{wildcards.model}/intensity.json" if measured else []


def pretrained(wildcards):
    """The file of weights that a model starts from; empty without one."""
    path = CONFIG.pretrained_file(wildcards.model)
    return [] if path is None else str(path)


def training_gpus(wildcards):
    """The GPUs that share a model's batches."""
    return CONFIG.model(wildcards.model).gpus


def option(name, file):
    """A function that gives a command's option for a function's file; empty without a file."""
    return lambda wildcards: f"{name} {quote(file(wildcards))}" if file(wildcards) else ""


def bundle(model):
    """The files of a model's bundle."""
    return [f"{R}/models/{model}/{name}" for name in ("model.json", "model.safetensors")]


def teacher(wildcards):
    """The bundle of a completion's teacher."""
    return bundle(teacher_name(wildcards))


def base(wildcards):
    """The record of the completion that a completion builds on; empty without one."""
    name = base_name(wildcards)
    return f"{R}/completed_labels/{name}/conflicts.csv" if name else []


def compared(wildcards):
    """The record of the completion that one is compared with to leave cases out; empty without one."""
    name = CONFIG.completion(wildcards.completion).compared_completion
    return f"{R}/completed_labels/{name}/conflicts.csv" if name else []


def ask_squeue_for_sacct():
    """Where jobs go to a SLURM without accounts, put a stand-in for `sacct` on the PATH.

    While SLURM's controller is away the plugin asks `sacct`, whatever the profile says. Without accounts that fails,
    and the plugin waits forever for jobs that it has lost sight of.
    """
    if workflow.executor_plugin.name == "slurm" and not has_accounts():
        environ["PATH"] = f"{workflow.basedir}/profiles/slurm/no_accounting{pathsep}{environ['PATH']}"


def has_accounts():
    """Say whether SLURM keeps accounts of jobs."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    return "accounting_storage/none" not in shown.stdout


def print_summaries():
    """Show the scores of the evaluated models and where the report lies, at the end of a run, if they are current."""
    for model in CONFIG.evaluated:
        summary = RESULTS.summary(model)
        if is_evaluated(RESULTS, model, CONFIG.evaluation_settings()):
            print(f"\n{model} ({summary})\n\n{format_summary(summary)}")
        elif summary.exists():
            print(f"\n{model}: {summary} is older than what it is made from; the target `evaluation` makes it anew")
    page = Path(R) / "report" / "index.html"
    if page.exists():
        print(f"\nReport: {page}")
