"""Commands about the cohort: `categorise`, `phantoms`, `status`, `estimate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flare23_lib.commands.common import (
    Commands,
    add_config,
    add_processes,
    at_least,
    command,
    load_config,
    output_file,
    output_folder,
    say,
)
from flare23_lib.errors import ConfigError


def _categorise(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.folders import find_in
    from flare23_lib.cohort.summary import format_survey, write_survey
    from flare23_lib.cohort.survey import survey_found

    config = load_config(args)
    settings = config.cohort_settings()
    for index, category in enumerate(settings.categories):
        if category.folders is not None:
            raise ConfigError(
                f"categories[{index}].folders: this command is given other folders than the layout's; use the target "
                "`cohort` of the workflow"
            )
    if settings.layout.prefixes:
        raise ConfigError(
            "layout.prefixes: name folders of the layout, and this command is given others; use the target `cohort` "
            "of the workflow"
        )
    found = find_in(args.images, args.labels, args.unlabeled, settings.layout)
    output = args.output
    survey = survey_found(found, settings, output / ".scan.jsonl", args.processes)
    write_survey(survey, output)
    say(format_survey(survey))
    say(f"{output}/cases.csv, quarantine.csv, warnings.csv and categories.csv are written")
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
    say(f"{args.output}: {args.cases} training and {args.validation} validation phantoms")
    return 0


def _status(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.summary import format_survey
    from flare23_lib.stages.status import format_plan, make_plan

    plan = make_plan(load_config(args), args.processes)
    say(format_survey(plan.survey))
    say("")
    say(format_plan(plan))
    return 0


def _estimate(args: argparse.Namespace) -> int:
    from flare23_lib.cohort.table import read_cases
    from flare23_lib.estimate.extents import Sizes, parse_counts, read_geometry
    from flare23_lib.estimate.measured import measured_figures
    from flare23_lib.estimate.table import estimate, format_estimate, write_estimate
    from flare23_lib.estimate.throughputs import FIGURES

    config = load_config(args)
    categories = [category.name for category in config.categories]
    if args.geometry:
        sizes = Sizes.of_sample(read_geometry(args.geometry), parse_counts(args.count or []), categories)
    elif args.count:
        raise ConfigError("--count goes with --geometry; cases.csv says itself how many cases there are")
    else:
        cases = args.cases or Path(config.results) / "cohort" / "cases.csv"
        sizes = Sizes.of_cases(read_cases(cases), categories)
    figures = measured_figures(args.measured, config, FIGURES) if args.measured else FIGURES
    result = estimate(config, sizes, figures)
    say(format_estimate(result))
    if args.output:
        write_estimate(args.output, result)
    return 0


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "categorise", _categorise, "find, check and categorise the cases of a cohort")
    parser.add_argument("--images", type=Path, required=True, help="folder of the labeled images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their labels")
    parser.add_argument("--unlabeled", type=Path, help="folder of images without labels")
    parser.add_argument("--output", type=output_folder, required=True, help="folder for the tables")
    add_config(parser)
    add_processes(parser)

    parser = command(commands, "phantoms", _phantoms, "draw a cohort of synthetic CTs in FLARE23's layout")
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the cohort")
    parser.add_argument("--cases", type=int, default=32, help="training cases (default: %(default)s)")
    parser.add_argument("--validation", type=at_least(0), default=6, help="validation cases (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed gives the same bytes")
    parser.add_argument("--coarseness", type=float, default=1.0, help="factor on the size of voxels")
    add_processes(parser)

    parser = command(commands, "status", _status, "say what the next run of the workflow would compute")
    add_config(parser)
    add_processes(parser)

    parser = command(commands, "estimate", _estimate, "say what a run costs before it runs; needs no image")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--cases", type=Path, metavar="FILE",
                       help="cases.csv of a cohort (default: that of the configured results)")  # fmt: skip
    table.add_argument("--geometry", type=Path, metavar="FILE",
                       help="shapes and spacings of CTs, for a cohort that is not there; needs --count")  # fmt: skip
    parser.add_argument("--count", nargs="+", action="extend", metavar="CATEGORY=N",
                        help="with --geometry: cases per category, validation cases as validation=N")  # fmt: skip
    parser.add_argument("--measured", type=Path, metavar="RESULTS",
                        help="results of an earlier run, whose figures replace what is assumed")  # fmt: skip
    parser.add_argument("--output", type=output_file, metavar="FILE.csv", help="write the table there too")
    add_config(parser)
