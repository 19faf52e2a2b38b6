"""Draws a configuration's method with FLARE23's numbers of cases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flare23_lib.config import Config
from flare23_lib.report.method import draw_recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a configuration file's method with FLARE23's numbers of cases."""
    parser = argparse.ArgumentParser(prog="python -m flare23_lib.report.method", description=main.__doc__)
    parser.add_argument("config", type=Path, help="the configuration")
    parser.add_argument("figure", type=Path, help="the SVG to write")
    options = parser.parse_args(arguments)
    draw_recipe(options.figure, Config.load([options.config]))


if __name__ == "__main__":
    main()
