"""Does the engine give nnU-Net's labels, and do windows over the body give those of all windows?

    python benchmarks/inference_case.py --folder FOLDER --network stunet_tiny --minutes 75
    python benchmarks/parity.py --bundle FOLDER/stunet_tiny --output FILE [--real FOLDER]

For each image: nnU-Net's own predictor (step 0.5, plans that name its torch resampling, trilinear along all axes)
against ours with all windows in float32; and ours with windows over the body against all of them, at step 0.8. The
images are phantoms, drawn finer than the demo's so that small organs have voxels, and the CTs (*_0000.nii.gz) below
FOLDER. Both sides see the axes turned as the bundle wants them. nnU-Net adds its logits up in float16, so the two are
not equal to the voxel; a second comparison lets it add in float32. How much nnU-Net's labels change with its default
resampling (cubic for images, nearest along z where voxels are strongly anisotropic) is listed too. So is how much
the labels change when the image loses four rows and all windows move: a model that was trained too briefly depends on
where its windows lie, and windows over the body then tell more about the model than about the engine.

    python benchmarks/parity.py --bundle FOLDER --device cuda --output FILE

compares the engine on a GPU with itself on the CPU instead, in each precision, with all windows at step 0.8: voxels
whose label differs from the CPU's in float32, and those that differ when the GPU computes them a second time. nnU-Net
on that GPU stands beside it, at step 0.5 and in the precision that it takes there.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from inference_case import NNUNET_PRECISION
from nnunet_side import NNUNet
from nnunetv2.inference import predict_from_raw_data
from provenance import provenance
from scipy import ndimage

from flare23_lib.inference.bundle import Bundle, load_bundle
from flare23_lib.inference.engine import Engine, Segmentation
from flare23_lib.io.atomic import write_json
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import Volume, header_for, read_volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.phantom import FLARE23_VALUES, draw_phantom
from flare23_lib.runtime.precision import inference_precision

log = logging.getLogger(__name__)

LARGE = 5000
"""Voxels from which on a class must reach a Dice of 0.999 with nnU-Net's."""

ROWS = 4
"""Rows left out to see how much a model's labels depend on where its windows lie."""

MEDIUM = 1000
"""Voxels from which on a class must reach 0.995 between windows over the body and all windows."""


def phantoms(count: int, coarseness: float) -> Iterator[tuple[str, Volume]]:
    """Draw phantoms."""
    for index in range(count):
        rng = np.random.default_rng([99, index])
        phantom = draw_phantom(rng, tumors=True, flipped=index % 2 == 1, coarseness=coarseness)
        array, affine = phantom.image, phantom.affine
        header = header_for(array.shape, affine, array.dtype)
        yield f"phantom {index}", Volume(array, Geometry(array.shape, affine, header.get_zooms()[::-1]), header)


def real(folder: Path | None) -> Iterator[tuple[str, Volume]]:
    """Read the CTs below a folder."""
    for path in sorted(folder.rglob("*_0000.nii.gz")) if folder else ():
        yield path.name.removesuffix("_0000.nii.gz"), read_volume(path)


def dice(first: np.ndarray, second: np.ndarray, least: int) -> dict[str, float]:
    """Dice of every class with at least so many voxels in the second map."""
    scores = {}
    for value in np.unique(second):
        a, b = first == value, second == value
        if value and b.sum() >= least:
            scores[str(value)] = round(2 * int((a & b).sum()) / int(a.sum() + b.sum()), 6)
    return scores


def difference(first: np.ndarray, second: np.ndarray, least: int) -> dict:
    """Compare two label maps."""
    foreground = int((second > 0).sum())
    scores = dice(first, second, least)
    return {
        "classes": len(np.unique(second)) - 1,
        "foreground": foreground,
        "different": int((first != second).sum()),
        "different_share": round(int((first != second).sum()) / max(1, foreground), 8),
        "least_dice": min(scores.values()) if scores else None,
        "dice": scores,
    }


def lost_tumors(first: np.ndarray, second: np.ndarray) -> int:
    """Count connected tumors of the second map that the first does not touch."""
    components, count = ndimage.label(second == FLARE23_VALUES["tumor"], np.ones((3, 3, 3)))
    return count - len(set(np.unique(components[first == FLARE23_VALUES["tumor"]])) - {0})


def nnunets_labels(
    bundle: Bundle, volume: Volume, float32_sums: bool = False, device: str = "cpu", **options: bool
) -> np.ndarray:
    """Return file values of nnU-Net's predictor, in the stored geometry."""
    turn = Orientation.of(volume.geometry.affine, bundle.model.orientation)
    array, spacing = np.ascontiguousarray(turn.forward(volume.array)), turn.spacing(volume.geometry.spacing)
    gaussian = functools.partial(predict_from_raw_data.compute_gaussian, dtype=torch.float32)
    with contextlib.ExitStack() as patches:
        if float32_sums:
            patches.enter_context(mock.patch.object(predict_from_raw_data, "compute_gaussian", gaussian))
            patches.enter_context(mock.patch.object(torch, "half", torch.float32))
        labels, _ = NNUNet(bundle, device, 0.5, **options).segment(array, spacing)
    stored = np.empty(volume.array.shape, np.uint8)
    turn.forward(stored)[...] = np.array(bundle.model.values, np.uint8)[labels]
    return stored


def without_rows(volume: Volume) -> Volume:
    """Leave the first rows of an image out."""
    array = np.ascontiguousarray(volume.array[:, ROWS:])
    header = header_for(array.shape, volume.geometry.affine, array.dtype)
    return Volume(array, Geometry(array.shape, volume.geometry.affine, volume.geometry.spacing), header)


def segmented(bundle: Bundle, volume: Volume, step: float, windows: str = "all", tta: bool = False) -> Segmentation:
    """Segment in float32."""
    return Engine(bundle.with_inference(step, tta, windows, "float32")).segment(volume)


def compare(bundle: Bundle, volume: Volume, tta: bool) -> dict:
    """Run all sides on one image."""
    ours = segmented(bundle, volume, 0.5).labels
    theirs = nnunets_labels(bundle, volume)
    result = {"nnunet": difference(ours, theirs, LARGE)}
    result["nnunet_float32_sums"] = difference(ours, nnunets_labels(bundle, volume, float32_sums=True), LARGE)
    default = nnunets_labels(bundle, volume, default_resampling=True)
    result["nnunet_default_resampling"] = difference(theirs, default, LARGE)
    if tta:
        mirrored = segmented(bundle, volume, 0.5, tta=True).labels
        result["nnunet_tta"] = difference(mirrored, nnunets_labels(bundle, volume, mirroring=True), LARGE)
    everything, body = (segmented(bundle, volume, 0.8, windows) for windows in ("all", "body"))
    result["body"] = {
        **difference(body.labels, everything.labels, MEDIUM),
        "windows": [body.windows, everything.windows],
        "lost_tumors": lost_tumors(body.labels, everything.labels),
    }
    shifted = segmented(bundle, without_rows(volume), 0.8)
    result["all_shifted"] = difference(shifted.labels, everything.labels[:, ROWS:], MEDIUM)
    return result


def computes_in(device: str, precision: str) -> bool:
    """Tell whether a device computes in a precision, or would refuse or emulate it."""
    return device != "cpu" or precision in ("float32", inference_precision("auto", torch.device("cpu")))


def compare_devices(bundle: Bundle, volume: Volume, device: str) -> dict:
    """Compare the engine on a device with the engine on the CPU, and with nnU-Net on that device."""

    def labels(where: str, precision: str, step: float = 0.8) -> np.ndarray:
        engine = Engine(bundle.with_inference(step=step, windows="all", precision=precision, tta=False), where)
        return engine.segment(volume).labels

    reference = labels("cpu", "float32")
    result: dict[str, dict] = {}
    for precision in ("float32", "bfloat16", "float16"):
        if not computes_in(device, precision):
            result[precision] = {"not_run": f"{device} does not compute in {precision}"}
            continue
        made = labels(device, precision)
        again = int((labels(device, precision) != made).sum())
        result[precision] = {**difference(made, reference, LARGE), "different_when_repeated": again}
    taken = NNUNET_PRECISION[device]
    theirs = nnunets_labels(bundle, volume, device=device)
    result[f"nnunet_{taken}"] = difference(labels(device, taken, step=0.5), theirs, LARGE)
    return result


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a trained model")
    parser.add_argument("--real", type=Path, help="folder of CTs")
    parser.add_argument("--phantoms", type=int, default=3, help="how many to draw (default: %(default)s)")
    parser.add_argument("--coarseness", type=float, default=0.5, help="of the phantoms (default: %(default)s)")
    parser.add_argument("--tta", action="store_true", help="compare mirrored passes too")
    parser.add_argument("--device", choices=list(NNUNET_PRECISION), help="compare the engine there with the CPU's")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    bundle = load_bundle(args.bundle)
    images = {}
    for name, volume in (*phantoms(args.phantoms, args.coarseness), *real(args.real)):
        if args.device:
            images[name] = compare_devices(bundle, volume, args.device)
        else:
            images[name] = compare(bundle, volume, args.tta)
        for side, figures in images[name].items():
            if "not_run" in figures:
                print(f"{name:14} {side:26} {figures['not_run']}", flush=True)
                continue
            print(f"{name:14} {side:26} least Dice {figures['least_dice']}, {figures['different']} of "
                  f"{figures['foreground']} voxels ({figures['different_share']:.2e}), {figures['classes']} classes",
                  figures.get("windows", ""), figures.get("lost_tumors", ""), flush=True)  # fmt: skip
        about = {"bundle": args.bundle.name, **({"device": args.device} if args.device else {})}
        write_json(args.output, {**provenance(), **about, "images": images})


if __name__ == "__main__":
    main()
