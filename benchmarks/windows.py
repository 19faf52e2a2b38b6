"""Windows over the body against all windows of the image: do they agree, and which is nearer to the truth?

    python benchmarks/windows.py --bundle FOLDER [--bundle FOLDER ...] [--output FILE]

The images are phantoms with a wide margin of air, as in a scan with a large field of view, so that a grid over the
image and one over the body differ in number and place. Both label maps are compared with each other and with the
truth. Moving the windows changes a model's labels, whoever moves them: how much they change when all windows of the
image lie closer (step 0.5 instead of 0.8) stands beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from parity import MEDIUM, dice, lost_tumors
from provenance import provenance

from flare23_lib.images import Geometry, Volume, header_for
from flare23_lib.inference.bundle import load_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.phantom import draw
from flare23_lib.store import write_json

MARGIN_MM = 70
"""Air added on each side in the plane."""

SIDES = {
    "body": {"windows": "body", "step": 0.8},
    "all": {"windows": "all", "step": 0.8},
    "all, closer": {"windows": "all", "step": 0.5},
}


def wide_phantom(index: int) -> tuple[Volume, np.ndarray]:
    """Draw a phantom in a wide field of view; returns it and its truth."""
    array, truth, affine = draw(np.random.default_rng([77, index]), tumors=True, coarseness=0.5)
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
    images = {}
    for index in range(phantoms):
        volume, truth = wide_phantom(index)
        made = {
            side: Engine(bundle, precision="bfloat16", tta=False, **options).segment(volume)
            for side, options in SIDES.items()
        }
        reference = made["all"].labels
        images[f"phantom {index}"] = {
            side: {
                "windows": result.windows,
                "dsc": round(float(np.mean(list(dice(result.labels, truth, 1).values()))), 4),
                "least_dice_with_all": min(dice(result.labels, reference, MEDIUM).values()),
                "lost_tumors": lost_tumors(result.labels, reference),
            }
            for side, result in made.items()
        }
    return images


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="a trained model")
    parser.add_argument("--phantoms", type=int, default=3, help="how many to draw (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "windows.json")
    args = parser.parse_args()
    models = {}
    for folder in args.bundle:
        models[folder.name] = images = compare(folder, args.phantoms)
        for image, sides in images.items():
            for side, figures in sides.items():
                print(f"{folder.name:14}{image:11}{side:13}{figures}", flush=True)
    write_json(args.output, {**provenance(), "margin_mm": MARGIN_MM, "models": models})


if __name__ == "__main__":
    main()
