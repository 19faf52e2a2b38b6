"""The method as a drawing: which categories there are, who learns from what, who completes what.

The drawing is made from the configuration's tables alone, whatever they say. It is a layered graph, read from left to
right: a box stands one column right of the last thing it needs; an arrow that spans several columns gets a lane of
its own through those between, so that no arrow runs through a box; the order within the columns is the one with the
fewest crossings that sweeps by barycenter find (Sugiyama, Tagawa and Toda 1981).

`python -m flare23_lib.report.method config.yaml docs/method.svg` draws the recipe with FLARE23's numbers of cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flare23_lib import store
from flare23_lib.config import Config
from flare23_lib.report.method.placement import lay_out
from flare23_lib.report.method.svg import render

FLARE23_CASES: Mapping[str, int] = {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800}
"""Numbers of FLARE23's training cases by category of the recipe."""


def draw_method(
    path: Path,
    categories: Sequence[str],
    completions: Mapping[str, Mapping],
    train_on: Mapping[str, Mapping],
    counts: Mapping[str, int],
) -> None:
    """Write the drawing of a checked configuration as SVG; the same tables give the same bytes.

    Args:
        path: the file to write.
        categories: names of the categories.
        completions: for each completion its `category`, its `teacher` and, if it has one, `on_top_of`.
        train_on: for each model the categories whose `originals` and the `completions` that it learns from.
        counts: numbers of cases by category; a category that is not named has none.
    """
    store.write_text(path, render(lay_out(categories, completions, train_on, counts)))


def draw_recipe(path: Path, config: Config) -> None:
    """Write the drawing of a configuration with FLARE23's numbers of cases."""
    draw_method(
        path,
        categories=[category.name for category in config.categories],
        completions={name: completion.to_json() for name, completion in config.completions.items()},
        train_on={name: model.train_on.to_json() for name, model in config.models.items()},
        counts=FLARE23_CASES,
    )
