"""The command line: what people run (`flare23 predict`), and what the workflow's rules run (`flare23 stage ...`).

A command imports only what it needs. Exit codes: 0 for success, 1 for bad input or cases that failed, 2 for bad
usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flare23_lib import __version__
from flare23_lib.errors import ConfigError, FlareError
from flare23_lib.store import Shard

log = logging.getLogger(__name__)


def _say(text: str) -> None:
    """Write to standard output what the person asked for."""
    print(text)


# ---------------------------------------------------------------- commands for people


def _categorise(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.folders import find_in
    from flare23_lib.cohort.survey import format_survey, survey_found, write_survey

    config = _load_config(args)
    settings = config.cohort_settings()
    found = find_in(args.images, args.labels, args.unlabeled, settings["layout"])
    output = args.output
    survey = survey_found(found, settings, output / ".scan.jsonl", args.processes)
    write_survey(survey, output / "cases.csv", output / "quarantine.csv", output / "categories.csv")
    _say(format_survey(survey))
    _say(f"{output}/cases.csv, quarantine.csv and categories.csv are written")
    return 0


def _phantoms(args: argparse.Namespace) -> int:
    from flare23_lib.phantom import write_cohort

    write_cohort(
        args.output,
        cases=args.cases,
        validation=args.validation,
        seed=args.seed,
        coarseness=args.coarseness,
        processes=args.processes,
    )
    _say(f"{args.output}: {args.cases} training and {args.validation} validation phantoms")
    return 0


def _predict(args: argparse.Namespace) -> int:
    import torch

    from flare23_lib.devices import choose
    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.predict import predict

    if args.threads:
        torch.set_num_threads(args.threads)
    faults = predict(
        args.input,
        args.output,
        load_bundle(args.model),
        device=choose(args.device),
        step=args.step,
        tta=args.tta,
        precision=args.precision,
        overwrite=args.overwrite,
    )
    return 1 if faults else 0


def _export(args: argparse.Namespace) -> int:
    from flare23_lib.inference.bundle import InferenceDefaults
    from flare23_lib.inference.export import export_checkpoint

    inference = InferenceDefaults(step=args.step, tta=bool(args.tta))
    model = export_checkpoint(args.checkpoint, args.output, args.name, args.orientation, inference)
    _say(f"{args.output}: {model.name}, {len(model.labels) - 1} labels, orientation {model.orientation}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from flare23_lib.evaluation.tables import evaluate_folders, format_summary

    report = evaluate_folders(
        args.predictions,
        args.references,
        args.output,
        _load_config(args).labels,
        mode=args.mode,
        processes=args.processes,
        progress=True,
    )
    _say(format_summary(report.summary))
    _say(f"{report.scored} of {report.cases} cases scored; {report.metrics} and {report.summary} are written")
    return 1 if report.faults else 0


def _status(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.survey import format_survey
    from flare23_lib.stages.status import format_plan, make_plan

    plan = make_plan(_load_config(args), args.processes)
    _say(format_survey(plan.survey))
    _say("")
    _say(format_plan(plan))
    return 0


def _store_list(args: argparse.Namespace) -> int:
    from flare23_lib.stages.results import Results
    from flare23_lib.stages.status import make_plan
    from flare23_lib.stages.upkeep import entries, format_entries

    config = _load_config(args)
    _say(format_entries(entries(Results(Path(config["results"])), make_plan(config, args.processes))))
    return 0


def _store_verify(args: argparse.Namespace) -> int:
    from flare23_lib.stages.results import Results
    from flare23_lib.stages.upkeep import verify

    found = verify(Results(Path(_load_config(args)["results"])))
    for path in found.missing:
        _say(f"gone or broken: {path}")
    for path in found.withdrawn:
        _say(f"withdrawn: {path}")
    _say(f"{found.checked} files checked, {len(found.missing)} not whole")
    if found.withdrawn:
        _say("the next run makes them again")
    return 1 if found.missing else 0


def _store_clean(args: argparse.Namespace) -> int:
    from flare23_lib.stages.results import Results
    from flare23_lib.stages.status import make_plan
    from flare23_lib.stages.upkeep import clean, entries, format_entries

    config = _load_config(args)
    results = Results(Path(config["results"]))
    plan = make_plan(config, args.processes)
    if args.yes:
        _say(f"{clean(results, plan) / 1e6:.1f} MB deleted")
    else:
        unused = [entry for entry in entries(results, plan) if entry.unused]
        _say(format_entries(unused))
        _say("nothing was deleted; --yes deletes what is unused")
    return 0


# ---------------------------------------------------------------- commands for the workflow


def _stage_cohort(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.survey import format_survey, survey, write_survey

    found = survey(args.cohort, args.settings, _results(args).scan_memory, args.threads)
    for fault in found.faults:
        log.warning("%s: %s: %s (%s): %s", fault.severity, fault.case, fault.kind, fault.file, fault.message)
    log.info("%s", format_survey(found))
    write_survey(found, args.output, args.quarantine, args.categories)
    return 0


def _stage_preprocess(args: argparse.Namespace) -> int:
    from flare23_lib.stages.preprocessing import preprocess

    preprocess(_results(args), args.settings, args.patch_size, args.shard, args.output)
    return 0


def _stage_train(args: argparse.Namespace) -> int:
    from flare23_lib.stages.training import train

    train(
        _results(args),
        args.model,
        args.settings,
        args.label_names,
        args.shards,
        args.device,
        args.threads,
        args.checkpoint_minutes,
        args.output,
    )
    return 0


def _stage_export(args: argparse.Namespace) -> int:
    from flare23_lib.stages.training import export

    export(_results(args), args.model, args.inference, args.label_names, args.output.parent)
    return 0


def _stage_pseudo_label(args: argparse.Namespace) -> int:
    from flare23_lib.stages.segmentation import pseudo_label

    pseudo_label(
        _results(args),
        args.completion,
        args.teacher,
        args.base,
        args.settings,
        args.inference,
        args.device,
        args.threads,
        args.shard,
        args.output,
    )
    return 0


def _stage_complete(args: argparse.Namespace) -> int:
    from flare23_lib.stages.completion import complete

    complete(_results(args), args.completion, args.base, args.settings, args.label_names, args.shard, args.output)
    return 0


def _stage_gather_completed(args: argparse.Namespace) -> int:
    from flare23_lib.stages.completion import gather

    gather(_results(args), args.completion, args.settings, args.label_names, args.shards, args.output)
    return 0


def _stage_predict(args: argparse.Namespace) -> int:
    from flare23_lib.stages.segmentation import predict_validation

    predict_validation(_results(args), args.model, args.inference, args.device, args.threads, args.shard, args.output)
    return 0


def _stage_gather_predictions(args: argparse.Namespace) -> int:
    from flare23_lib.stages.segmentation import gather_predictions

    gather_predictions(_results(args), args.model, args.shards, args.output)
    return 0


def _stage_evaluate(args: argparse.Namespace) -> int:
    from flare23_lib.stages.evaluation import evaluate

    evaluate(_results(args), args.model, args.settings, args.threads, args.output, args.summary)
    return 0


def _results(args: argparse.Namespace):
    from flare23_lib.stages.results import Results

    return Results(args.results)


# ---------------------------------------------------------------- the parser


def _load_config(args: argparse.Namespace):
    from flare23_lib.config import Config, parse_overrides

    return Config.load([args.base_config, *(args.configfile or [])], parse_overrides(args.config or []))


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 0-of-4") from error


def _json(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-config", type=Path, default=Path("config.yaml"), metavar="FILE",
                        help="the recipe, with config.schema.yaml beside it (default: config.yaml)")  # fmt: skip
    parser.add_argument("--configfile", type=Path, nargs="+", metavar="FILE",
                        help="what differs from it, as for snakemake")  # fmt: skip
    parser.add_argument("--config", nargs="+", metavar="KEY=VALUE", help="single values, as for snakemake")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="processes at once (default: the cores there are)")  # fmt: skip


Commands = argparse._SubParsersAction


def _command(commands: Commands, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _people(commands: Commands) -> None:
    parser = _command(commands, "categorise", _categorise, "find, check and categorise the cases of a cohort")
    parser.add_argument("--images", type=Path, required=True, help="folder of the labeled images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their labels")
    parser.add_argument("--unlabeled", type=Path, help="folder of images without labels")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables")
    _add_config(parser)
    _add_processes(parser)

    parser = _command(commands, "phantoms", _phantoms, "draw a cohort of synthetic CTs in FLARE23's layout")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cohort")
    parser.add_argument("--cases", type=int, default=32, help="training cases (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=6, help="validation cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--coarseness", type=float, default=1.0, help="factor on the size of voxels")
    _add_processes(parser)

    parser = _command(commands, "predict", _predict, "segment CTs with a model bundle")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json and model.safetensors")
    parser.add_argument("--input", type=Path, required=True, help="a NIfTI file or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the labels")
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=None,
                        help="average over mirrored passes (default: the model's)")  # fmt: skip
    parser.add_argument("--step", type=float, help="distance of windows in patch sizes (default: the model's)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="(default: the model's)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is there already")

    parser = _command(commands, "export", _export, "make a model bundle from an nnU-Net checkpoint of a STU-Net")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint_final.pth of nnU-Net v2")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--name", default="student", help="name of the model (default: %(default)s)")
    parser.add_argument("--orientation", choices=["stored", "canonical"],
                        help="default: what its plans say, else stored, nnU-Net's way")  # fmt: skip
    parser.add_argument("--step", type=float, default=0.5, help="distance of windows (default: %(default)s)")
    parser.add_argument("--tta", action="store_true", help="the model averages over mirrored passes by default")

    parser = _command(commands, "evaluate", _evaluate, "score a folder of predictions against references")
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for metrics.csv and summary.csv")
    parser.add_argument("--mode", choices=["flare23", "plain"], default="flare23",
                        help="the challenge's rules, or whole volumes without special rules")  # fmt: skip
    _add_config(parser)
    _add_processes(parser)

    parser = _command(commands, "status", _status, "say what the next run of the workflow would compute")
    _add_config(parser)
    _add_processes(parser)

    store = commands.add_parser("store", help="look after the store").add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", _store_list, "list what the store holds and what is unused"),
        ("verify", _store_verify, "check that every recorded file is whole, and withdraw records that lie"),
        ("clean", _store_clean, "delete what the configuration no longer uses"),
    ):
        parser = _command(store, name, run, text)
        _add_config(parser)
        _add_processes(parser)
        if name == "clean":
            parser.add_argument("--yes", action="store_true", help="really delete")


def _stages(commands: Commands) -> None:
    stages = commands.add_parser("stage", help="run one job of the workflow").add_subparsers(
        required=True, metavar="STAGE"
    )

    def stage(name: str, run: Callable, text: str, *options: str) -> argparse.ArgumentParser:
        parser = _command(stages, name, run, text)
        parser.add_argument("--results", type=Path, required=True, help="the results folder")
        parser.add_argument("--output", type=Path, required=True, help="what is written last")
        known: dict[str, dict] = {
            "--settings": {"type": _json, "required": True, "help": "what shapes the result, as JSON"},
            "--inference": {"type": _json, "required": True, "help": "how the model is used, as JSON"},
            "--model": {"required": True, "help": "name of the model"},
            "--completion": {"required": True, "help": "name of the completion"},
            "--base": {"help": "completion that this one builds on"},
            "--label-names": {"nargs": "+", "required": True, "help": "names of the labels in order"},
            "--shard": {"type": _shard, "required": True, "help": "which cases, such as 0-of-4"},
            "--shards": {"type": int, "required": True, "help": "number of shards"},
            "--device": {"choices": ["auto", "cuda", "cpu"], "default": "auto"},
            "--threads": {"type": int, "default": 1, "help": "threads or processes"},
        }
        for option in options:
            parser.add_argument(option, **known[option])
        return parser

    parser = stage("cohort", _stage_cohort, "find, check and categorise all cases", "--settings", "--threads")
    parser.add_argument("--cohort", type=Path, required=True, help="folder of the cohort")
    parser.add_argument("--quarantine", type=Path, required=True, help="table of faults")
    parser.add_argument("--categories", type=Path, required=True, help="table of counts")
    parser = stage("preprocess", _stage_preprocess, "prepare training cases", "--settings", "--shard")
    parser.add_argument("--patch-size", type=int, nargs=3, required=True, help="z y x; how files are chunked")
    parser = stage("train", _stage_train, "train a model", "--model", "--settings", "--label-names", "--shards",
                   "--device", "--threads")  # fmt: skip
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0)
    stage("export", _stage_export, "write a trained model's bundle", "--model", "--inference", "--label-names")
    parser = stage("pseudo-label", _stage_pseudo_label, "segment a category with a teacher", "--completion", "--base",
                   "--settings", "--inference", "--shard", "--device", "--threads")  # fmt: skip
    parser.add_argument("--teacher", required=True, help="name of the model")
    stage("complete", _stage_complete, "merge originals and pseudo-labels", "--completion", "--base", "--settings",
          "--label-names", "--shard")  # fmt: skip
    stage("gather-completed", _stage_gather_completed, "count completed labels and their conflicts", "--completion",
          "--settings", "--label-names", "--shards")  # fmt: skip
    stage("predict", _stage_predict, "segment the validation cases", "--model", "--inference", "--shard", "--device",
          "--threads")  # fmt: skip
    stage("gather-predictions", _stage_gather_predictions, "count predictions", "--model", "--shards")
    parser = stage("evaluate", _stage_evaluate, "score predictions", "--model", "--settings", "--threads")
    parser.add_argument("--summary", type=Path, required=True, help="table with a row per class")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="flare23", description="CT segmentation learned from partial labels.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"flare23 {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _people(commands)
    _stages(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.INFO,
        format="%(asctime)s %(message)s" if not sys.stderr.isatty() else "%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for noisy in ("nibabel", "matplotlib", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return args.run(args)
    except FlareError as error:
        if args.debug:
            raise
        kind = "configuration: " if isinstance(error, ConfigError) else ""
        sys.stderr.write(f"flare23: {kind}{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
