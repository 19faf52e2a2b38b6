"""Commands that measure and compare: `evaluate`, `measure`, `rank`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from flare23_lib.choices import EvaluationMode
from flare23_lib.cli.common import (
    Commands,
    add_config,
    add_processes,
    at_least,
    command,
    load_config,
    output_file,
    output_folder,
    source_name,
)
from flare23_lib.errors import UsageError


def _evaluate(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from flare23_lib.config.models import Evaluation
    from flare23_lib.evaluation.cases import OK, Scoring
    from flare23_lib.evaluation.evaluate import evaluate_folders
    from flare23_lib.evaluation.tables import format_summary
    from flare23_lib.inference.model import read_model

    config = load_config(args)
    references = None if args.partial is None else "partial" if args.partial else "complete"
    given = {"mode": args.mode, "details": args.details, "references": references}
    model = read_model(args.model) if args.model else None
    labels, unseen = (model.label_map, model.unseen) if model else (config.label_map, ())
    settings = Evaluation.of(config.evaluation, **{key: value for key, value in given.items() if value is not None})
    scoring = Scoring.from_settings(settings, labels, unseen)
    scoring = replace(scoring, processes=args.processes, memory_mb=args.memory)
    folders = args.predictions, args.references, args.output
    name = source_name(args.source, config.sources)
    source = (name, config.sources[name]) if args.source else None
    table, extra = evaluate_folders(*folders, scoring, config.sources[name].label_suffix, source)
    scored, metrics, summary = (table["status"] == OK).sum(), args.output / "metrics.csv", args.output / "summary.csv"
    print(format_summary(summary))
    print(f"{scored} of {len(table)} cases scored; {metrics} and {summary} are written")
    return 0 if scored == len(table) and not extra else 1


def _measure(args: argparse.Namespace) -> int:
    from flare23_lib.dataset.quality import MAX_NAME_BYTES
    from flare23_lib.evaluation.efficiency import (
        add_measurement,
        efficiency_row,
        format_efficiency,
        read_measurements,
    )
    from flare23_lib.evaluation.profiling import find_gpu, profile_command
    from flare23_lib.runtime.machine import available_cores

    name = args.name or Path(args.command[0]).name
    if "/" in name or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(
            f"--name {name!r}: a curve's file is named so; give a name of up to {MAX_NAME_BYTES} bytes without / and "
            ". in front"
        )
    read_measurements(args.output)  # refuses another table before the command runs
    gpu = find_gpu(args.gpu)
    profile, code = profile_command(args.command, gpu)
    row = efficiency_row(name, profile, gpu, available_cores())
    print(format_efficiency(row))
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        print(f"{args.command[0]} failed ({how}); nothing is written", file=sys.stderr)
        return 128 - code if code < 0 else code
    print(f"{add_measurement(args.output, row, profile)} is written")
    return 0


def _rank(args: argparse.Namespace) -> None:
    from flare23_lib.evaluation.ranking import format_ranking, rank_folders
    from flare23_lib.evaluation.tables import write_table

    ranking = rank_folders(args.folders, load_config(args).label_map)
    write_table(args.output, ranking.table)
    print(format_ranking(ranking))
    print(f"{args.output} is written")


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "evaluate", _evaluate, "score a folder of predictions against references")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of label files")
    parser.add_argument("--references", type=Path, required=True, help="folder of label files of the same names")
    parser.add_argument("--output", type=output_folder, required=True, help="folder for metrics.csv and summary.csv")
    parser.add_argument("--source", metavar="NAME",
                        help="whose file names, values and annotated labels the references have (default: names as "
                        "the first one's, values of `labels`)")  # fmt: skip
    parser.add_argument("--model", type=Path,
                        help="bundle that gives names, tolerances and slices of the labels (default: the "
                        "configuration)")  # fmt: skip
    parser.add_argument("--mode", choices=get_args(EvaluationMode),
                        help="the challenge's rules, or whole volumes (default: the configuration's)")  # fmt: skip
    parser.add_argument("--details", action=argparse.BooleanOptionalAction,
                        help="tables of HD95, volumes and found tumors (default: the configuration's)")  # fmt: skip
    parser.add_argument("--partial", action=argparse.BooleanOptionalAction,
                        help="references hold only what was labeled: a class is not scored where the reference lacks "
                        "it (default: the configuration's)")  # fmt: skip
    parser.add_argument("--memory", type=at_least(1), metavar="MB",
                        help="memory limit for all processes together (default: none)")  # fmt: skip
    add_config(parser)
    add_processes(parser)

    parser = command(commands, "measure", _measure, "measure time, memory and CPU use of one command")
    parser.add_argument("--output", type=output_folder, required=True, help="folder for efficiency.csv and curves/")
    parser.add_argument("--name", help="the row's name, such as a case's (default: the program's)")
    parser.add_argument("--gpu", type=at_least(0), metavar="N",
                        help="GPU as nvidia-smi counts (default: the first visible one)")  # fmt: skip
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --: the program and its arguments")

    parser = command(commands, "rank", _rank, "rank result folders by FLARE23's metrics")
    parser.add_argument("--output", type=output_file, required=True, help="CSV file for the ranking")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER",
                        help="with metrics.csv and, if efficiency is to count, efficiency.csv")  # fmt: skip
    add_config(parser)
