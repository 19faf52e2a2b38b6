"""Labels from logits at full resolution: the engine's way against interpolating all logits slab by slab.

    python benchmarks/inference_labels.py --folder FOLDER

Both sides are given a trained model's logits on the benchmark's case (`inference_case.py`), at its resolution, and
their argmax; both make labels of 448x512x512. The time of resizing the argmaxed label map to the nearest voxel stands
beside them. Voxels that differ are counted, and of these the ones whose two best interpolated logits are equal to
float32 rounding. Random smooth logits, by factors up and down and odd shapes, are compared too.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from inference_case import case_path, make
from provenance import provenance

from flare23_lib.axes import as_triple
from flare23_lib.inference.bundle import load_bundle
from flare23_lib.inference.network import WindowNetwork
from flare23_lib.inference.upsampling import Axes, argmax_classes, interpolated_labels
from flare23_lib.inference.windows import all_windows, importance_map
from flare23_lib.io.atomic import write_json
from flare23_lib.io.nifti import read_volume
from flare23_lib.preprocessing.resampling import Axis, prepare_image, resampled_shape
from flare23_lib.runtime.precision import inference_precision

ROUNDING = 1e-5
"""Logits closer than this, relative to the larger one, are equal to the rounding of a trilinear sum in float32."""

SHAPES = [
    ((60, 70, 80), (101, 119, 137)),
    ((61, 97, 83), (40, 131, 50)),
    ((90, 80, 70), (45, 40, 35)),
    ((33, 120, 121), (133, 119, 122)),
    ((50, 51, 52), (50, 51, 104)),
]


def trained_logits(folder: Path) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Return the model's logits (z, y, x, classes) on the case, and the case's shape."""
    bundle, volume = load_bundle(folder / "stunet_small"), read_volume(case_path(folder))
    model, device = bundle.model, torch.device("cpu")
    network = WindowNetwork(bundle.build_network(), device, inference_precision("auto", device))
    shape = resampled_shape(volume.array.shape, volume.geometry.spacing, model.spacing)
    image = prepare_image(volume.array, model.intensity, shape)
    sums, weights = torch.zeros((*shape, len(model.labels))), torch.zeros(shape)
    importance = importance_map(model.patch_size)
    with torch.inference_mode():
        for layer in all_windows(shape, model.patch_size, 0.8):
            for window in layer.windows:
                sums[window] += network(image[window][None])[0].float() * importance[..., None]
                weights[window] += importance
        sums /= weights[..., None]
    return sums, volume.array.shape


def slab_wise(logits: torch.Tensor, shape: tuple[int, int, int], thickness: int = 16) -> torch.Tensor:
    """Interpolate all logits (classes, z, y, x), a few output slices at a time, and take the strongest class."""
    axis = Axis.between(logits.shape[1], shape[0])
    labels = torch.empty(shape, dtype=torch.uint8)
    for start in range(0, shape[0], thickness):
        part = axis.part(start, start + thickness)
        between = torch.lerp(logits[:, part.lower], logits[:, part.upper], part.weight[:, None, None])
        labels[start : start + thickness] = F.interpolate(between, size=shape[1:], mode="bilinear").argmax(dim=0)
    return labels


def timed(function: Callable[[], torch.Tensor], repeats: int) -> tuple[torch.Tensor, float]:
    """Return a function's result and the shortest of its times."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds)


def undecided_share(labels: torch.Tensor, axes: Axes) -> float:
    """Return the share of output voxels whose eight corners disagree."""
    data = labels.numpy()
    low = high = data
    for dim, axis in enumerate(axes):
        low = np.minimum(low.take(axis.lower, dim), low.take(axis.upper, dim))
        high = np.maximum(high.take(axis.lower, dim), high.take(axis.upper, dim))
    return float((low != high).mean())


def count_different(logits: torch.Tensor, made: torch.Tensor, full: torch.Tensor) -> dict[str, int]:
    """Count the voxels that differ, and those of them that are no matter of rounding.

    Args:
        logits: (z, y, x, classes).
        made: labels of the engine.
        full: labels of the full interpolation.
    """
    places = (made != full).nonzero()
    axes = [Axis.between(size, new) for size, new in zip(logits.shape[:3], made.shape, strict=True)]
    real = 0
    for place in places.tolist():
        corner = [((int(a.lower[i]), int(a.upper[i])), float(a.weight[i])) for a, i in zip(axes, place, strict=True)]
        values = torch.zeros(logits.shape[-1], dtype=torch.float64)
        for z in (0, 1):
            for y in (0, 1):
                for x in (0, 1):
                    sides = list(zip(corner, (z, y, x), strict=True))
                    share = math.prod(weight if side else 1 - weight for (_, weight), side in sides)
                    values += share * logits[tuple(ends[side] for (ends, _), side in sides)].double()
        gap = abs(float(values[int(made[*place])] - values[int(full[*place])]))
        real += gap > ROUNDING * float(values.abs().max())
    return {"different": len(places), "different_beyond_rounding": real}


def smooth_logits() -> list[dict]:
    """Compare both sides on random smooth logits."""
    rows = []
    for index, (source, target) in enumerate(SHAPES):
        torch.manual_seed(index)
        coarse = torch.randn(1, 15, *(max(2, size // 9) for size in source))
        logits = 10 * F.interpolate(coarse, size=source, mode="trilinear")[0]
        full = slab_wise(logits, target)
        last = logits.permute(1, 2, 3, 0).contiguous()
        axes = as_triple(Axis.between(size, new) for size, new in zip(source, target, strict=True))
        labels = argmax_classes(last)
        made = interpolated_labels(last, labels, axes, torch.ones(source))
        undecided = round(undecided_share(labels, axes), 4)
        rows.append({"from": source, "to": target, "undecided": undecided, **count_different(last, made, full)})
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where case and model are kept")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference_labels.json")
    args = parser.parse_args()
    make(args.folder)
    with torch.inference_mode():
        logits, shape = trained_logits(args.folder)
        labels, argmax_seconds = timed(lambda: argmax_classes(logits), args.repeats)
        axes = as_triple(Axis.between(size, new) for size, new in zip(logits.shape[:3], shape, strict=True))
        weight = torch.ones(logits.shape[:3])
        made, seconds = timed(lambda: interpolated_labels(logits, labels, axes, weight), args.repeats)
        _, nearest = timed(lambda: F.interpolate(labels[None, None], size=shape, mode="nearest"), args.repeats)
        first = logits.permute(3, 0, 1, 2).contiguous()
        full, full_seconds = timed(lambda: slab_wise(first, shape), 1 if args.repeats == 1 else 2)
        smooth = smooth_logits()
        result = {
            "logits": [*first.shape], "labels": [*shape], "seconds": round(seconds, 3),
            "full_seconds": round(full_seconds, 2), "ratio": round(full_seconds / seconds, 1),
            "argmax_seconds": round(argmax_seconds, 3), "nearest_seconds": round(nearest, 3),
            "undecided": round(undecided_share(labels, axes), 5),
            "foreground": round(float((made > 0).float().mean()), 4),
            **count_different(logits, made, full), "smooth_random_logits": smooth,
        }  # fmt: skip
    print(f"{result['ratio']} times as fast as full interpolation: {seconds:.2f} s against {full_seconds:.2f} s; "
          f"nearest {nearest:.2f} s; {result['undecided']:.2%} undecided; {result['different']} voxels different, "
          f"{result['different_beyond_rounding']} beyond rounding")  # fmt: skip
    for row in smooth:
        print(row)
    write_json(args.output, {**provenance(), **result})


if __name__ == "__main__":
    main()
