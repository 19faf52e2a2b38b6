"""Draw what benchmarks/recovery.py found: organ and tumor DSC of each arm, a dot for each seed, a line at the mean.

    python benchmarks/recovery_figure.py RESULT.json [RESULT.json ...] --output benchmarks/results/recovery.svg

A PNG is written beside the SVG.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flare23_lib.io.atomic import read_json
from flare23_lib.report.style import INK, MODEL_COLORS, PALE_INK, STYLE, save_figure

ARMS = {
    "labeled_only": "L: fully labeled cases alone",
    "student": "S: pipeline",
    "student_left_out": "S, cases that changed most left out",
    "student_unsure": "S, unsure voxels ignored",
    "student_specks": "S, specks dropped",
    "full_truth": "U: the truth of all cases",
}


def draw(path: Path, results: Sequence[dict]) -> None:
    """Write the figure; each result is one orientation."""
    arms = [arm for arm in ARMS if any(arm in result["summary"]["arms"] for result in results)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.4 + 0.4 * len(arms)), facecolor="white", layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, score in zip(panels, ("organs", "tumor"), strict=True):
            for place, result in enumerate(results):
                shift = 0.3 * (place - (len(results) - 1) / 2)
                draw_arms(axes, result, score, arms, shift, MODEL_COLORS[place])
            axes.set_title("organs" if score == "organs" else "tumors", loc="left", fontweight="bold", color=INK)
            axes.set_xlabel("mean DSC on validation phantoms", color=PALE_INK)
            axes.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.tick_params(length=0, labelcolor=INK)
            axes.grid(axis="x", color="#d5dbe1", linewidth=0.8)
            axes.set_axisbelow(True)
            for side in axes.spines.values():
                side.set_visible(False)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", frameon=False, ncols=len(names), labelcolor=INK)
        save_figure(path, figure)


def draw_arms(axes: Axes, result: dict, score: str, arms: Sequence[str], shift: float, color: str) -> None:
    """Draw one orientation: dots of seeds, and a line at their mean."""
    number = len(result["seeds"])
    label = f"orientation: {result['orientation']} ({number} seed{'s' * (number > 1)})"
    for place, arm in enumerate(arms):
        values = [seed[arm].get(score, 0.0) for seed in result["seeds"].values() if arm in seed]
        if not values:
            continue
        axes.scatter(values, [place + shift] * len(values), s=22, color=color, alpha=0.55, linewidth=0, label=label)
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [place + shift - 0.14, place + shift + 0.14], color=color, linewidth=2.2)
        label = None


def main() -> None:
    """Draw the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="outputs of benchmarks/recovery.py")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    draw(args.output, [read_json(path) for path in args.results])


if __name__ == "__main__":
    main()
