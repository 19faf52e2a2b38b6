"""`flare23 stage ...`: one job of the workflow each."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare23_lib.cache.results import Results
from flare23_lib.cli.common import Commands, command, device, shard
from flare23_lib.io.atomic import checksums_in
from flare23_lib.runtime.devices import NAMES
from flare23_lib.runtime.signals import ended_at_once

if TYPE_CHECKING:
    from flare23_lib.inference.segmentations import ModelUse
    from flare23_lib.pseudo_labels.complete import CompletionJob

log = logging.getLogger(__name__)


def _parts(text: str) -> dict[str, Any]:
    """Return what shapes a job's results (`settings` in rules/common.smk), from JSON or from a file of it."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is neither JSON nor a file of it ({error})") from error


OPTIONS: dict[str, dict[str, Any]] = {
    "results": {"type": lambda text: Results(Path(text)), "required": True, "help": "the results folder"},
    "output": {"type": Path, "required": True, "help": "what is written last"},
    "settings": {"type": _parts, "required": True, "help": "what shapes the result: JSON, or its file"},
    "model": {"required": True, "help": "name of the model"},
    "completion": {"required": True, "help": "name of the completion"},
    "shard": {"type": shard, "required": True, "help": "which cases, such as 0-of-4"},
    "shards": {"type": int, "required": True, "help": "number of shards"},
    "device": {"type": device, "default": "auto", "help": NAMES},
    "threads": {"type": int, "default": 1, "help": "threads or processes"},
    "intensity": {"type": Path, "help": "record of the measured intensity, if the settings say measure"},
    "pretrained": {"type": Path, "help": "file of weights to start from"},
    "checkpoint-minutes": {"type": float, "default": 10.0},
    "gpus": {"type": int, "default": 1, "help": "GPUs that share each batch"},
    "attempt": {"type": int, "default": 1, "help": "which attempt of this run of the workflow it is"},
    "history": {"type": Path, "required": True, "help": "table of the epochs"},
    "confusion": {"type": Path, "required": True, "help": "table of original against predicted classes"},
    "memory": {"type": float, "help": "MB that all processes may take together"},
    "viewer": {"type": Path, "help": "folder of the viewing library, if it was fetched"},
}
"""Options that stages have; every stage has the first two."""

Run = Callable[[argparse.Namespace], None]

STAGES: dict[str, tuple[Run, str, list[str]]] = {}
"""Stage -> its function, what it does in one line, and its further options."""


def stage(name: str, text: str, options: str = "") -> Callable[[Run], Run]:
    """Make a function of the options the command `flare23 stage NAME`."""

    def add(run: Run) -> Run:
        STAGES[name] = (run, text, options.split())
        return run

    return add


@stage("cohort", "find, check and categorise all cases", "settings threads")
def _cohort(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import CohortSettings
    from flare23_lib.dataset.scan import scan_cohort
    from flare23_lib.dataset.summary import format_scan, write_scan

    parts = args.settings
    settings = CohortSettings.from_json(parts["settings"])
    scan = scan_cohort(Path(parts["cohort"]), settings, args.results.scan_memory, args.threads)
    for issue in scan.issues:
        log.warning("%s: %s: %s (%s): %s", issue.severity, issue.case, issue.kind, issue.file, issue.message)
    log.info("%s", format_scan(scan))
    write_scan(scan, args.output.parent)


@stage("measure-intensity", "measure the intensities of a training set", "model settings threads")
def _measure_intensity(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import TrainingSet
    from flare23_lib.preprocessing.fit_intensity import measure

    settings = TrainingSet.from_json(args.settings["settings"])
    measure(args.results, args.model, settings, args.threads, args.output)


@stage("preprocess", "prepare training cases", "model settings intensity shard")
def _preprocess(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import PreprocessingSettings
    from flare23_lib.preprocessing.fit_intensity import with_intensity
    from flare23_lib.preprocessing.preprocess_cases import check_training_set, preprocess

    parts = args.settings
    settings = with_intensity(PreprocessingSettings.from_json(parts["settings"]), args.intensity)
    check_training_set(args.results, args.model, settings, parts["label_names"], parts["organs"])
    preprocess(args.results, settings, parts["patch_size"], args.shard, args.output)


@stage(
    "train", "train a model",
    "model settings intensity shards device threads pretrained checkpoint-minutes gpus attempt history",
)  # fmt: skip
def _train(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import TrainingSettings
    from flare23_lib.nnunet.train import TrainingRuntime, train
    from flare23_lib.nnunet.training_job import training_job

    parts = args.settings
    settings, given = TrainingSettings.from_json(parts["settings"]), (args.intensity, args.pretrained)
    job = training_job(args.results, args.model, settings, parts["label_names"], args.shards, *given)
    runtime = TrainingRuntime(args.device, args.threads, args.gpus, args.checkpoint_minutes, args.attempt)
    train(job, runtime, args.pretrained, args.output, args.history)


@stage("export", "write a trained model's bundle", "model settings")
def _export(args: argparse.Namespace) -> None:
    from flare23_lib.config.training_models import InferenceSettings
    from flare23_lib.labels import Label
    from flare23_lib.nnunet.train import export

    parts = args.settings
    inference = InferenceSettings.from_json(parts["inference"])
    labels = [Label(**row) for row in parts["labels"]]
    export(args.results, args.model, inference, labels, args.output.parent)


@stage("pseudo-label", "segment a category with a teacher", "settings shard device threads")
@ended_at_once()
def _pseudo_label(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import PseudoLabelSettings
    from flare23_lib.pseudo_labels.pseudo_label import pseudo_label

    parts = args.settings
    settings = PseudoLabelSettings.from_json(parts["settings"])
    pseudo_label(args.results, _model(args, parts["teacher"]), settings, args.shard, args.output)


def _model(args: argparse.Namespace, name: str) -> ModelUse:
    from flare23_lib.config.training_models import InferenceSettings
    from flare23_lib.inference.segmentations import ModelUse

    return ModelUse(name, InferenceSettings.from_json(args.settings["inference"]), args.device, args.threads)


def _completion(args: argparse.Namespace) -> CompletionJob:
    from flare23_lib.config.settings import CompletionSettings
    from flare23_lib.pseudo_labels.complete import CompletionJob

    parts = args.settings
    settings = CompletionSettings.from_json(parts["settings"])
    return CompletionJob(args.results, args.completion, parts.get("base"), settings, parts["label_names"])


@stage("complete", "merge originals and pseudo-labels", "completion settings shard")
def _complete(args: argparse.Namespace) -> None:
    from flare23_lib.pseudo_labels.complete import complete

    complete(_completion(args), args.shard, args.output)


@stage("gather-completed", "count completed labels and their conflicts", "completion settings shards confusion")
def _gather_completed(args: argparse.Namespace) -> None:
    from flare23_lib.pseudo_labels.complete import collect_completed

    collect_completed(_completion(args), args.shards, args.output, args.confusion)


@stage("predict", "segment the validation cases", "model settings shard device threads")
@ended_at_once()
def _predict(args: argparse.Namespace) -> None:
    from flare23_lib.inference.segmentations import predict_validation

    predict_validation(args.results, _model(args, args.model), args.shard, args.output)


@stage("gather-predictions", "count predictions", "model shards")
def _gather_predictions(args: argparse.Namespace) -> None:
    from flare23_lib.inference.segmentations import collect_predictions

    collect_predictions(args.results, args.model, args.shards, args.output)


@stage("evaluate", "score predictions", "model settings threads memory")
def _evaluate(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import EvaluationSettings
    from flare23_lib.evaluation.evaluate import evaluate

    settings = EvaluationSettings.from_json(args.settings["settings"])
    evaluate(args.results, args.model, settings, args.output.parent, args.threads, args.memory)


@stage("measure-efficiency", "measure a model's inference case by case", "model settings device threads")
def _measure_efficiency(args: argparse.Namespace) -> None:
    from flare23_lib.evaluation.efficiency import measure

    measure(args.results, _model(args, args.model), args.settings["cases"], args.output)


@stage("model-card", "write what a model is and how it scored", "model settings")
def _model_card(args: argparse.Namespace) -> None:
    from flare23_lib.report.model_card import write_model_card

    scored = args.model in args.settings["evaluated"]
    write_model_card(args.results, args.model, args.settings["about"], args.output, scored)


@stage("paper-tables", "set out scores as in the paper's tables", "settings")
def _paper_tables(args: argparse.Namespace) -> None:
    from flare23_lib.config.settings import TablesSettings
    from flare23_lib.evaluation.paper_tables import write_tables

    write_tables(args.results, TablesSettings.from_json(args.settings["settings"]), args.output)


@stage("report", "make the page of the run", "settings viewer")
def _report(args: argparse.Namespace) -> None:
    from flare23_lib.config import Config
    from flare23_lib.report.page import write_report

    write_report(args.results, Config.from_json(args.settings["settings"]), args.viewer, args.output)


def _with_checksums(run: Callable[[argparse.Namespace], Any]) -> Callable[[argparse.Namespace], Any]:
    """Return a stage that keeps checksums of the text files in the folder of its output, or in its output."""

    @functools.wraps(run)
    def job(args: argparse.Namespace) -> Any:
        with checksums_in(args.output.parent, args.output):
            return run(args)

    return job


def register(commands: Commands) -> None:
    """Add the commands."""
    stages = commands.add_parser("stage", help="run one job of the workflow").add_subparsers(
        required=True, metavar="STAGE"
    )
    for name, (run, text, options) in STAGES.items():
        parser = command(stages, name, _with_checksums(run), text)
        for option in ("results", "output", *options):
            parser.add_argument(f"--{option}", **OPTIONS[option])
