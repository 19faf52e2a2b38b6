"""`flare23 store ...`: looking after the store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flare23_lib.cli.common import Commands, add_config, add_processes, command, load_config, say
from flare23_lib.errors import StoreError

if TYPE_CHECKING:
    from flare23_lib.cache.results import Results
    from flare23_lib.config import Config
    from flare23_lib.workflow.status import Plan


def _store_list(args: argparse.Namespace) -> int:
    from flare23_lib.workflow.cleanup import entries, format_entries
    from flare23_lib.workflow.status import make_plan

    config = load_config(args)
    results = _existing(config)
    plan = make_plan(config, args.processes)
    say(format_entries(entries(results, plan)))
    _say_doubts(plan)
    return 0


def _existing(config: Config) -> Results:
    """Return the results that a configuration names; StoreError if there are none."""
    from flare23_lib.cache.results import Results

    results = Results(Path(config.results))
    if not results.root.is_dir():
        raise StoreError(f"there is no folder of results {results.root}")
    return results


def _say_doubts(plan: Plan) -> None:
    for notice in plan.notices:
        say(notice)
    if plan.unknown:
        say(f"what is unused is known when these are made again: {', '.join(plan.unknown)}")


def _store_verify(args: argparse.Namespace) -> int:
    from flare23_lib.workflow.verify import verify

    results = _existing(load_config(args))
    found = verify(results, args.processes)
    for path in found.missing:
        say(f"gone or broken: {path}")
    for path in found.withdrawn:
        say(f"withdrawn: {path}")
    say(f"{found.checked} files checked, {len(found.missing)} not whole")
    if found.withdrawn:
        say("the next run makes them again")
    return 1 if found.missing else 0


def _store_clean(args: argparse.Namespace) -> int:
    from flare23_lib.workflow.cleanup import clean, entries, format_entries
    from flare23_lib.workflow.status import make_plan

    config = load_config(args)
    results = _existing(config)
    plan = make_plan(config, args.processes)
    _say_doubts(plan)
    if args.yes:
        say(f"{clean(results, plan) / 1e6:.1f} MB deleted")
    else:
        unused = [entry for entry in entries(results, plan) if entry.unused]
        say(format_entries(unused))
        say("nothing was deleted; --yes deletes what is unused")
    return 0


def register(commands: Commands) -> None:
    """Add the commands."""
    store = commands.add_parser("store", help="look after the store").add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", _store_list, "list what the store holds and what is unused"),
        ("verify", _store_verify, "check that every recorded file is whole, and withdraw records that lie"),
        ("clean", _store_clean, "delete what neither the configuration nor a record uses"),
    ):
        parser = command(store, name, run, text)
        add_config(parser)
        add_processes(parser)
        if name == "clean":
            parser.add_argument("--yes", action="store_true", help="really delete")
