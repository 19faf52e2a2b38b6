"""The best scores that a perfect network could reach: what a grid, and the form of the targets on it, cost.

    nice python benchmarks/ceilings.py --labels FOLDER [--cases 40] [--threads 1] [--output FILE]

FOLDER holds label maps of FLARE22 (13 organs, full resolution). Each is brought onto the grid of the student
(2.5x1.5x1.5 mm) and that of the teachers (2.5x0.82x0.82 mm) as targets of a form, predicted perfectly, and brought
back to full resolution; then the Dice of each organ with what it was made from:

- `nearest`: the nearest label in, the nearest label out, as the paper's code has it.
- `hard`: the strongest label in (`resample_labels`), its 0 or 1 interpolated trilinearly out, as here.
- `area`: the share of each class in the voxel in, its logarithm (the logit that soft cross-entropy asks for)
  interpolated out; `area_shares` interpolates the shares themselves.
- `native`: logits on the grid that are fitted to the label at full resolution through the interpolation, each organ
  against all others: what a loss at full resolution could reach. Found by gradient descent, so a lower bound.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance

from flare23_lib.axes import as_triple
from flare23_lib.config import Config
from flare23_lib.inference.upsampling import argmax_classes, interpolated_labels
from flare23_lib.io.atomic import write_json
from flare23_lib.io.nifti import read_labels
from flare23_lib.preprocessing.resampling import Axis, resample_labels, resampled_shape

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parent.parent
GRIDS = {"student": "student", "teacher": "organ_teacher"}
"""Grid -> the model of the recipe that has it."""

FORMS = ("nearest", "hard", "area_shares", "area", "native")
ORGANS = 13
LEAST_SHARE = 1e-3
"""Of a class in a voxel, below which a perfect logit is not lower."""

STEPS, RATE = 40, 0.3
AROUND = 8
"""Voxels of the label map that are kept around its organs."""

MARGIN = 4
"""Voxels of the grid around an organ that are fitted, too."""


def area_matrix(source: int, target: int) -> torch.Tensor:
    """Return the averaging along an axis as a matrix: how much of each target voxel each source voxel covers.

    Args:
        source: number of source voxels.
        target: number of target voxels, which have the same extent in all.

    Returns:
        float32 (target, source); rows sum to 1.
    """
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    lower, upper = edges[:-1, None], edges[1:, None]
    place = torch.arange(source, dtype=torch.float64)
    covered = (torch.minimum(upper, place + 1) - torch.maximum(lower, place)).clamp(min=0)
    return (covered * target / source).float()


def area_shares(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return which share of each voxel of another grid is marked.

    Where the grid is finer than the mask's, a share is that of the source voxels that the voxel lies in.

    Args:
        mask: (z, y, x) bool.
        shape: (z, y, x) of the grid, which has the same extent.

    Returns:
        float32 of the shape, from 0 to 1.
    """
    result = torch.zeros(tuple(shape))
    box, parts = [], []
    for axis, (source, target) in enumerate(zip(mask.shape, shape, strict=True)):
        marked = mask.any(dim=tuple(other for other in range(3) if other != axis)).nonzero()
        if not len(marked):
            return result
        matrix = area_matrix(source, target)
        inside = slice(int(marked[0]), int(marked[-1]) + 1)
        reached = matrix[:, inside].any(1).nonzero()
        box.append(slice(int(reached[0]), int(reached[-1]) + 1))
        parts.append(matrix[box[-1], inside])
        mask = mask.narrow(axis, inside.start, inside.stop - inside.start)
    shares = parts[1] @ (mask.float() @ parts[2].T)
    result[tuple(box)] = (parts[0] @ shares.flatten(1)).view(-1, *shares.shape[1:])
    return result


def labels_from_logits(logits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Interpolate logits (z, y, x, classes) to a shape and take the strongest class of each voxel."""
    axes = as_triple(Axis.between(*sizes) for sizes in zip(logits.shape[:3], shape, strict=True))
    return interpolated_labels(logits, argmax_classes(logits), axes, torch.ones(logits.shape[:3]))


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Dice of two masks of which one is not empty."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def organ_dice(truth: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """Return the Dice of each organ of a label map (z, y, x) with another one."""
    pairs = truth.flatten().int() * (ORGANS + 1) + labels.flatten()
    counts = torch.bincount(pairs, minlength=(ORGANS + 1) ** 2).view(ORGANS + 1, ORGANS + 1)
    sizes = counts.sum(0) + counts.sum(1)
    return {
        index: float(2 * counts[index, index] / sizes[index]) for index in range(1, ORGANS + 1) if counts[index].any()
    }


def nearest(labels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return a label map (z, y, x) on another grid, by the label at the nearest voxel's center."""
    return F.interpolate(labels[None, None].float(), size=tuple(shape), mode="nearest-exact")[0, 0].to(labels.dtype)


def hard(labels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return what hard labels on a grid (z, y, x) become at full resolution."""
    targets = F.one_hot(resample_labels(labels, shape).long(), ORGANS + 1).float()
    return labels_from_logits(targets, labels.shape)


def area(labels: torch.Tensor, shape: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return what the shares of the classes in the voxels of a grid (z, y, x) become at full resolution."""
    shares = torch.empty((*shape, ORGANS + 1))
    for index in range(ORGANS + 1):
        shares[..., index] = area_shares(labels == index, shape)
    found = {"area_shares": labels_from_logits(shares, labels.shape)}
    return found | {"area": labels_from_logits(shares.clamp_(min=LEAST_SHARE).log_(), labels.shape)}


def interpolation(source: int, target: int) -> torch.Tensor:
    """Return the engine's linear interpolation along an axis as a matrix (target, source)."""
    axis = Axis.between(source, target)
    matrix = torch.zeros(target, source)
    matrix.scatter_add_(1, axis.lower[:, None], (1 - axis.weight)[:, None])
    return matrix.scatter_add_(1, axis.upper[:, None], axis.weight[:, None])


def along(volume: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply a matrix along each axis of (z, y, x)."""
    volume = volume @ matrices[2].T
    volume = matrices[1] @ volume
    return torch.einsum("ab,byx->ayx", matrices[0], volume)


def native(mask: torch.Tensor, shape: Sequence[int]) -> float:
    """Return the Dice of a mask (z, y, x) with logits on a grid of a shape that are fitted to it."""
    ups, downs = [], []
    for axis, (full, size) in enumerate(zip(mask.shape, shape, strict=True)):
        marked = mask.any(dim=tuple(other for other in range(3) if other != axis)).nonzero()[:, 0]
        up, down = interpolation(size, full), area_matrix(full, size)
        touched = down[:, int(marked[0]) : int(marked[-1]) + 1].any(1).nonzero()[:, 0]
        grid = slice(max(0, int(touched[0]) - MARGIN), int(touched[-1]) + 1 + MARGIN)
        inside = up[:, grid].sum(1) > 0.999
        places = inside.nonzero()[:, 0]
        part = slice(int(places[0]), int(places[-1]) + 1)
        mask = mask.narrow(axis, part.start, part.stop - part.start)
        ups.append(up[part, grid])
        downs.append(down[grid, part])
    truth = mask.float()
    sign = 2 * truth - 1
    logits = (8 * (along(truth, downs) - 0.5)).requires_grad_()
    optimizer = torch.optim.Adam([logits], RATE)
    best = 0.0
    for _ in range(STEPS + 1):
        raised = along(logits, ups)
        best = max(best, dice(raised.detach() > 0, mask))
        optimizer.zero_grad()
        (1 - sign * raised).clamp(min=0).sum().backward()
        optimizer.step()
    return best


def ceilings(path: Path, spacing: Sequence[float]) -> dict[str, dict[int, float]]:
    """Return by form the Dice of each organ of a label map on a grid."""
    volume = read_labels(path)
    box = tuple(
        slice(max(0, int(places.min()) - AROUND), int(places.max()) + 1 + AROUND)
        for places in np.nonzero(volume.array)
    )
    labels = torch.from_numpy(np.ascontiguousarray(volume.array[box])).to(torch.uint8)
    shape = resampled_shape(labels.shape, volume.geometry.spacing, spacing)
    raised = {
        "nearest": nearest(nearest(labels, shape), labels.shape),
        "hard": hard(labels, shape),
        **area(labels, shape),
    }
    found = {form: organ_dice(labels, result) for form, result in raised.items()}
    return found | {"native": {index: native(labels == index, shape) for index in found["nearest"]}}


def main() -> None:
    """Measure the ceilings of all forms on both grids."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="folder of label maps")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    config = Config.load([REPOSITORY / "config.yaml"])
    names = {label.value: label.name for label in config.labels[:ORGANS]}
    files = sorted(args.labels.glob("*.nii.gz"))[: args.cases]
    if not files:
        parser.error(f"{args.labels} has no label maps")
    started = time.monotonic()
    found: dict[str, list[dict[str, dict[int, float]]]] = {grid: [] for grid in GRIDS}
    for number, path in enumerate(files):
        for grid, model in GRIDS.items():
            found[grid].append(ceilings(path, config.models[model].spacing))
        log.info("%s", path.name)
        content = {
            "cases": number + 1,
            "seconds": round(time.monotonic() - started),
            "threads": args.threads,
            "grids": {
                grid: {"spacing": config.models[model].spacing, **summarize(found[grid], names)}
                for grid, model in GRIDS.items()
            },
        }
        if args.output:
            write_json(args.output, {**provenance(), **content})
    print(format_table(content["grids"]))


def summarize(cases: Sequence[dict[str, dict[int, float]]], names: dict[int, str]) -> dict[str, Any]:
    """Return by form the mean Dice of each organ over the cases that have it, and the mean over organs."""
    summary: dict[str, Any] = {}
    for form in FORMS:
        values = {name: [case[form][value] for case in cases if value in case[form]] for value, name in names.items()}
        organs = {name: round(float(np.mean(found)), 4) for name, found in values.items() if found}
        summary[form] = {"mean": round(float(np.mean(list(organs.values()))), 4), "organs": organs}
    return summary


def format_table(grids: dict[str, Any]) -> str:
    """Return the figures as a table of Markdown."""
    columns = [(grid, form) for grid in grids for form in FORMS]
    lines = [f"| | {' | '.join(f'{grid} {form}' for grid, form in columns)} |", "|---" * (len(columns) + 1) + "|"]
    organs = grids[columns[0][0]][columns[0][1]]["organs"]
    for name in [*organs, "mean"]:
        rows = [grids[grid][form] for grid, form in columns]
        values = [row["mean"] if name == "mean" else row["organs"][name] for row in rows]
        lines.append(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
