"""Commands that measure: `evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flare23_lib.commands.common import Commands, add_config, add_processes, command, load_config, say


def _evaluate(args: argparse.Namespace) -> int:
    from flare23_lib.evaluation.tables import evaluate_folders, format_summary

    report = evaluate_folders(
        args.predictions,
        args.references,
        args.output,
        load_config(args).labels,
        mode=args.mode,
        processes=args.processes,
        progress=True,
    )
    say(format_summary(report.summary))
    say(f"{report.scored} of {report.cases} cases scored; {report.metrics} and {report.summary} are written")
    return 1 if report.faults else 0


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "evaluate", _evaluate, "score a folder of predictions against references")
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for metrics.csv and summary.csv")
    parser.add_argument("--mode", choices=["flare23", "plain"], default="flare23",
                        help="the challenge's rules, or whole volumes without special rules")  # fmt: skip
    add_config(parser)
    add_processes(parser)
