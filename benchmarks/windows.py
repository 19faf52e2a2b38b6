"""Windows over the body against all windows of the image: do they agree, and which is nearer to the truth?

    python benchmarks/windows.py --bundle FOLDER [--bundle FOLDER ...] --output FILE

The images are phantoms with a wide margin of air, as in a scan with a large field of view, so that a grid over the
image and one over the body differ in number and place. Both label maps are compared with each other and with the
truth. Moving the windows changes a model's labels, whoever moves them; the closer they lie, the less it matters where
they begin. So both are compared at several steps, and all windows at each step with all windows at the one before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from parity import MEDIUM, dice, lost_tumors
from provenance import provenance
from scipy import ndimage

from flare23_lib.inference.bundle import load_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.io.atomic import write_json
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import Volume, header_for
from flare23_lib.phantom import FLARE23_VALUES, draw_phantom

TUMOR = FLARE23_VALUES["tumor"]

MARGIN_MM = 70
"""Air added on each side in the plane."""

STEPS = (0.8, 0.5, 0.25)
"""Distances of windows in patches; the first is the student's."""


def wide_phantom(index: int) -> tuple[Volume, np.ndarray]:
    """Draw a phantom in a wide field of view; returns it and its truth."""
    phantom = draw_phantom(np.random.default_rng([77, index]), tumors=True, coarseness=0.5)
    array, truth, affine = phantom.image, phantom.labels, phantom.affine
    spacing = np.abs(np.diag(affine)[:3])[::-1]
    pad = [(0, 0), *((round(MARGIN_MM / side),) * 2 for side in spacing[1:])]
    array = np.pad(array, pad, constant_values=-1000)
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array([pad[2][0], pad[1][0], 0])
    header = header_for(array.shape, affine, array.dtype)
    return Volume(array, Geometry(array.shape, affine, tuple(spacing)), header), np.pad(truth, pad)


def compare(folder: Path, phantoms: int) -> dict:
    """Compare the sides for one model."""
    bundle = load_bundle(folder)
    images: dict = {}
    for index in range(phantoms):
        volume, truth = wide_phantom(index)
        before = None
        for step in STEPS:
            body, everything = (
                Engine(bundle.with_inference(precision="bfloat16", tta=False, windows=windows, step=step)).segment(
                    volume
                )
                for windows in ("body", "all")
            )
            figures = {
                "windows": {"body": body.windows, "all": everything.windows},
                "dsc": {"body": mean_dice(body.labels, truth), "all": mean_dice(everything.labels, truth)},
                "body_against_all": agreement(body.labels, everything.labels, truth),
            }
            if before is not None:
                figures["all_against_all_at_the_step_before"] = agreement(everything.labels, before, truth)
            before = everything.labels
            images.setdefault(f"phantom {index}", {})[str(step)] = figures
            print(f"{folder.name}, phantom {index}, step {step}: {figures}", flush=True)
    return images


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean Dice of the classes that the truth holds."""
    return round(float(np.mean(list(dice(labels, truth, 1).values()))), 4)


def agreement(labels: np.ndarray, others: np.ndarray, truth: np.ndarray) -> dict[str, float | int]:
    """Return how far label maps agree in classes of 1,000 voxels or more, and the second's tumors that are lost.

    True tumors are tumors of the truth that the second map touches; they are lost if the first does not.
    """
    true, count = ndimage.label(truth == TUMOR, np.ones((3, 3, 3)))
    first, second = (set(np.unique(true[made == TUMOR])) - {0} for made in (labels, others))
    scores = dice(labels, others, MEDIUM)
    return {
        "least_dice": round(min(scores.values()), 4),
        "least_dice_of_organs": round(min(score for name, score in scores.items() if int(name) != TUMOR), 4),
        "mean_dice": round(float(np.mean(list(scores.values()))), 4),
        "lost_components": lost_tumors(labels, others),
        "true_tumors": count,
        "found_true_tumors": len(second),
        "lost_true_tumors": len(second - first),
        "gained_true_tumors": len(first - second),
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="a trained model")
    parser.add_argument("--phantoms", type=int, default=3, help="how many to draw (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    models = {folder.name: compare(folder, args.phantoms) for folder in args.bundle}
    write_json(args.output, {**provenance(), "margin_mm": MARGIN_MM, "models": models})


if __name__ == "__main__":
    main()
