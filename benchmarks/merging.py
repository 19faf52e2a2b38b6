"""How long it takes to merge a large case, on one core, by each of the rules.

    taskset -c 0 python benchmarks/merging.py [--output FILE]

The prediction is a phantom of 200x512x512 voxels (z, y, x) with tumors, the original four of its organs, shifted; the
passes disagree along the borders.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from provenance import provenance

from flare23_lib.io.atomic import write_json
from flare23_lib.phantom import FLARE23_VALUES, draw_phantom
from flare23_lib.pseudo_labels.components import Votes, remove_small_components
from flare23_lib.pseudo_labels.merge import MergeRules, merge

SHAPE, SPACING = (200, 512, 512), (2.0, 0.8, 0.8)

TUMOR = FLARE23_VALUES["tumor"]

RULES = {
    "the paper's": {},
    "next_class": {"conflict_policy": "next_class"},
    "unsure voxels": {"min_agreement": 0.75},
    "unmarked tumors": {"unmarked_tumors": "if_sure"},
}


def enlarged(labels: np.ndarray) -> np.ndarray:
    """Stretch a label map to the shape by nearest neighbor."""
    index = [np.arange(new) * old // new for new, old in zip(SHAPE, labels.shape, strict=True)]
    return labels[np.ix_(*index)]


def main() -> None:
    """Time each rule three times and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    phantom = draw_phantom(np.random.default_rng(0), tumors=True)
    predicted = enlarged(phantom.labels)
    original = np.roll(predicted, (1, 4, 4), axis=(0, 1, 2))
    original[original > 4] = 0
    original[enlarged(phantom.tumors)] = 0
    border = predicted != np.roll(predicted, 3, axis=2)
    votes = Votes(np.where(border, np.uint8(4), np.uint8(8)), 8)
    annotated = [1, 2, 3, 4, TUMOR]
    seconds = {}
    for name, options in RULES.items():
        rules = MergeRules(tumors=[TUMOR], **options)
        seconds[name] = best(lambda rules=rules: merge(original, predicted, annotated, rules, predicted, votes))
    seconds["specks dropped"] = best(
        lambda: remove_small_components(predicted, dict.fromkeys(range(1, 15), 0.5), SPACING)
    )
    for name, value in seconds.items():
        print(f"{name:<16} {value:.2f} s")
    if args.output:
        write_json(args.output, {**provenance(), "shape": SHAPE, "seconds": seconds})


def best(work) -> float:
    """Return the least time of three runs in seconds of the processor."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return round(min(times), 3)


if __name__ == "__main__":
    main()
