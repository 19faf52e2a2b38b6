"""Commands about the cohort: `import-dicom`, `categorise`, `phantoms`, `status`, `estimate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flare23_lib.cli.common import (
    Commands,
    above_zero,
    add_config,
    add_processes,
    at_least,
    base_config,
    command,
    load_config,
    output_file,
    output_folder,
    source_name,
)
from flare23_lib.errors import ConfigError, FlareError


def _categorise(args: argparse.Namespace) -> None:
    from flare23_lib.dataset.discover import find, moved
    from flare23_lib.dataset.scan import scan_found
    from flare23_lib.dataset.summary import format_scan, write_scan

    config = load_config(args)
    settings = config.cohort_settings()
    for index, category in enumerate(settings.categories):
        if category.folders is not None:
            raise ConfigError(
                f"categories[{index}].folders: this command is given other folders than the sources'; use the target "
                "`cohort` of the workflow"
            )
    name = source_name(args.source, settings.sources)
    source = moved(settings.sources[name], args.images, args.labels, args.unlabeled)
    settings = type(settings).of(settings, sources={name: source}, validation=None)
    output = args.output
    scan = scan_found(find(Path("/"), settings.sources), settings, output / ".scan.jsonl", args.processes)
    write_scan(scan, output)
    print(format_scan(scan))
    print(f"{output}/cases.csv, quarantine.csv, warnings.csv and categories.csv are written")


def _init(args: argparse.Namespace) -> None:
    from flare23_lib.starter.init import init, summary

    if args.output.exists():
        raise FlareError(f"{args.output}: is there; remove it, or give another --output")
    config = init(args.folders, base_config(args), args.output, args.gpu_gb, args.processes)
    print(summary(config, args.output))


def _import_dicom(args: argparse.Namespace) -> int:
    from flare23_lib.dataset.import_dicom import NameTable, import_dicom

    names = NameTable.read(args.names) if args.names else None
    rows, unmatched = import_dicom(args.input, args.output, names, args.irregular)
    problems, labeled = (sum(bool(row[column]) for row in rows) for column in ("problem", "label"))
    print(f"{len(rows) - problems} of {len(rows)} series imported, {labeled} with labels")
    for name, count in sorted(unmatched.items()):
        print(f"no value for {name!r}, in {count} annotations")
    print(f"{args.output / 'sources.csv'} lists them, with {problems} problems")
    return 1 if problems else 0


def _phantoms(args: argparse.Namespace) -> None:
    from flare23_lib.phantom import PhantomLayout, write_cohort

    write_cohort(
        args.output,
        cases=args.cases,
        validation=args.validation,
        seed=args.seed,
        layout=PhantomLayout(coarseness=args.coarseness),
        processes=args.processes,
    )
    print(f"{args.output}: {args.cases} training and {args.validation} validation phantoms")


def _status(args: argparse.Namespace) -> None:
    config = load_config(args)
    from flare23_lib.dataset.summary import format_scan
    from flare23_lib.workflow.status import format_plan, make_plan

    plan = make_plan(config, args.processes)
    print(format_scan(plan.scan))
    print("")
    print(format_plan(plan))


def _estimate(args: argparse.Namespace) -> None:
    from flare23_lib import estimate
    from flare23_lib.dataset.cases import read_cases
    from flare23_lib.evaluation.tables import write_table

    config = load_config(args)
    table = args.cases or Path(config.results) / "cohort" / "cases.csv"
    if args.cases or table.exists():
        sizes = estimate.sizes_of_cases(read_cases(table))
    else:
        sizes = estimate.flare23_sizes(config)
        print(f"{table} is missing: FLARE23's numbers and sizes of cases are assumed\n")
    figures = estimate.measured_figures(args.measured, config) if args.measured else estimate.FIGURES
    result = estimate.estimate(config, sizes, figures)
    print(estimate.format_estimate(result))
    if args.output:
        write_table(args.output, result, "%.6g")


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "init", _init, "look at folders of CTs and labels, and write a configuration for them")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="one for each source")
    parser.add_argument("--output", type=output_file, default=Path("mine.yaml"), metavar="FILE",
                        help="the configuration (default: %(default)s)")  # fmt: skip
    parser.add_argument("--gpu-gb", type=above_zero, default=8, metavar="GB",
                        help="memory of the GPU that the network is planned for (default: %(default)s)")  # fmt: skip
    parser.add_argument("--base-config", type=Path, metavar="FILE",
                        help="the recipe, whose tolerances known labels take (default: config.yaml in the "
                             "workflow's folder, elsewhere that for FLARE23)")  # fmt: skip
    add_processes(parser)

    parser = command(commands, "import-dicom", _import_dicom, "write DICOM series and annotations as NIfTI")
    parser.add_argument("--input", type=Path, required=True, help="folder or zip archive with DICOM files")
    parser.add_argument("--output", type=output_folder, required=True, help="folder for images, labels and tables")
    parser.add_argument("--names", type=Path, metavar="FILE",
                        help="CSV: name, value, aliases of annotated structures (default: images only)")  # fmt: skip
    parser.add_argument("--irregular", choices=["refuse", "resample"], default="refuse",
                        help="slices that are not equally spaced (default: %(default)s)")  # fmt: skip

    parser = command(commands, "categorise", _categorise, "find, check and categorise the cases of a cohort")
    parser.add_argument("--images", type=Path, required=True, help="folder of the labeled images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their labels")
    parser.add_argument("--unlabeled", type=Path, help="folder of images without labels")
    parser.add_argument("--source", metavar="NAME",
                        help="whose file names and values they have (default: the first one)")  # fmt: skip
    parser.add_argument("--output", type=output_folder, required=True, help="folder for the tables")
    add_config(parser)
    add_processes(parser)

    parser = command(commands, "phantoms", _phantoms, "draw a cohort of synthetic CTs in FLARE23's layout")
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the cohort")
    parser.add_argument("--cases", type=int, default=32, help="training cases, 4 or more (default: %(default)s)")
    parser.add_argument("--validation", type=at_least(0), default=6, help="validation cases (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--coarseness", type=float, default=1.0, help="factor of voxel size (default: %(default)s)")
    add_processes(parser)

    parser = command(commands, "status", _status, "list what the next run of the workflow would compute")
    add_config(parser)
    add_processes(parser)

    parser = command(commands, "estimate", _estimate, "estimate what a run costs before it runs; needs no image")
    parser.add_argument("--cases", type=Path, metavar="FILE",
                        help="cases.csv of a cohort (default: that of the results, else FLARE23's)")  # fmt: skip
    parser.add_argument("--measured", type=Path, metavar="RESULTS",
                        help="results of an earlier run, which measured how fast its networks were")  # fmt: skip
    parser.add_argument("--output", type=output_file, metavar="FILE.csv", help="write the table there too")
    add_config(parser)
