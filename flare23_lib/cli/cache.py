"""`flare23 verify` and `flare23 clean`: the kept results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.cli.common import Commands, add_config, add_processes, command, load_config
from flare23_lib.errors import StoreError

if TYPE_CHECKING:
    from flare23_lib.cache.results import Results
    from flare23_lib.config import Config


def _existing(config: Config) -> Results:
    """Return the results folder of a configuration; StoreError if it does not exist."""
    from flare23_lib.cache.results import Results

    results = Results(Path(config.results))
    if not results.root.is_dir():
        raise StoreError(f"there is no folder of results {results.root}")
    return results


def _verify(args: argparse.Namespace) -> int:
    config = load_config(args)
    from flare23_lib.workflow.verify import verify

    found = verify(_existing(config), args.processes, args.deep)
    for path in found.broken:
        print(f"missing or broken: {path}")
    for path in found.withdrawn:
        print(f"deleted, to be made again: {path}")
    print(f"{found.checked} files checked, {len(found.broken)} missing or broken")
    return 1 if found.broken else 0


def _clean(args: argparse.Namespace) -> None:
    config = load_config(args)
    from flare23_lib.workflow.cleanup import clean, is_unfinished, refuse_under_way, size, unused
    from flare23_lib.workflow.status import make_plan

    results = _existing(config)
    if args.yes:  # before new images are read
        refuse_under_way(results)
    plan = make_plan(config, args.processes)
    for notice in plan.notices:
        print(notice)
    paths = unused(results, plan, config)
    if not args.unfinished and (kept := [path for path in paths if is_unfinished(path)]):
        print("unfinished trainings of other settings or cases, deleted with --unfinished only:", *kept, sep="\n")
        paths = [path for path in paths if path not in kept]
    sizes = [size(path) for path in paths]
    for path, number in zip(paths, sizes, strict=True):
        print(f"{number / 1e6:10.1f} MB  {path}")
    total = f"{sum(sizes) / 1e6:.1f} MB in {len(paths)} files and folders"
    if args.yes:
        clean(results, paths)
        print(f"{total} deleted")
    else:
        print(f"{total} are unused; --yes deletes them")


def register(commands: Commands) -> None:
    """Add the commands."""
    for name, run, text in (
        ("verify", _verify, "check that every recorded file exists and is whole; delete records of broken ones"),
        ("clean", _clean, "list files that neither the configuration nor a record uses, and delete them with --yes"),
    ):
        parser = command(commands, name, run, text)
        add_config(parser)
        add_processes(parser)
        if name == "verify":
            parser.add_argument("--deep", action="store_true", help="read files whole: a flipped bit is noticed")
        else:
            parser.add_argument("--yes", action="store_true", help="delete them")
            parser.add_argument("--unfinished", action="store_true", help="unfinished trainings, too")
