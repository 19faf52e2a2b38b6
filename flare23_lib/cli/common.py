"""What the commands share."""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from flare23_lib.cache.entries import Shard
from flare23_lib.choices import RECIPE
from flare23_lib.errors import ConfigError, UsageError
from flare23_lib.runtime.devices import check_name
from flare23_lib.runtime.machine import available_cores

Commands = argparse._SubParsersAction

log = logging.getLogger(__name__)


def command(commands: Commands, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """Add a command with what it does in one line; the function gets the options, and returns the exit code or None
    for 0."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number of at least this."""

    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    parse.__name__ = "whole number"  # argparse says: invalid whole number value
    return parse


def above_zero(text: str) -> float:
    """Return a number above 0, as an option's type."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def window_step(text: str) -> float:
    """Return a distance of windows in patch sizes, in (0, 1], as an option's type."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


window_step.__name__ = "number"  # argparse says: invalid number value


def device(text: str) -> str:
    """Return the name of a device, as an option's type."""
    try:
        return check_name(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("device: ")) from error


def shard(text: str) -> Shard:
    """Return a shard, written `0/4` or `0-of-4`, as an option's type."""
    try:
        return Shard.parse(text.replace("/", "-of-"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 0/4") from error


def output_folder(text: str) -> Path:
    """Return the path of a folder to write into; refused before any work if that cannot be."""
    path = Path(text)
    place = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not place.exists():
        raise argparse.ArgumentTypeError(f"{place} is a link that leads nowhere")
    if not place.is_dir():
        raise argparse.ArgumentTypeError(f"{place} is a file, not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"you may not write into {place}")
    return path


def output_file(text: str) -> Path:
    """Return the path of a file to write; refused before any work if that cannot be."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder, not a file")
    output_folder(str(path.absolute().parent))
    return path


def base_config(args: argparse.Namespace) -> Path:
    """Return the recipe: the file that is given, else config.yaml here if this is the workflow's folder, else the
    package's."""
    here, rules = Path("config.yaml"), Path("rules/pseudo_labels.smk")  # another project has a config.yaml, too
    return args.base_config or (here if here.exists() and rules.exists() else RECIPE)


def load_config(args: argparse.Namespace):
    """Return the checked configuration that the options of `add_config` name."""
    from flare23_lib.config import Config
    from flare23_lib.config.load import parse_overrides

    base = base_config(args)
    config = Config.load([base, *(args.configfile or [])], parse_overrides(args.config or []))
    if base is RECIPE and config.recipe != "none":
        log.info("the recipe is the package's, for FLARE23")
    return config


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the configuration."""
    parser.add_argument("--base-config", type=Path, metavar="FILE",
                        help="the recipe (default: config.yaml in the workflow's folder, elsewhere that for "
                        "FLARE23)")  # fmt: skip
    parser.add_argument("--configfile", type=Path, nargs="+", metavar="FILE",
                        help="what differs from it, as for snakemake")  # fmt: skip
    parser.add_argument("--config", nargs="+", metavar="KEY=VALUE", help="single values, as for snakemake")


def source_name(name: str | None, sources: Mapping[str, object]) -> str:
    """Return the given source or the first one; UsageError for one that the configuration does not have."""
    name = name or next(iter(sources))
    if name not in sources:
        raise UsageError(f"--source: there is no source {name!r}; there are {', '.join(sources)}")
    return name


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add --processes."""
    parser.add_argument("--processes", type=at_least(1), default=available_cores(), metavar="N",
                        help="processes at once (default: the cores there are)")  # fmt: skip
