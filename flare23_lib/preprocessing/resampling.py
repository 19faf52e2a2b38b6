"""Normalization and resampling: the same operations when a model is trained and when it is used.

Resampling is trilinear with half-pixel centers (`align_corners=False`), all three axes alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from flare23_lib.axes import Triple, as_triple
from flare23_lib.preprocessing.intensity import Intensity

SLAB_BYTES = 64 * 2**20
"""How much memory the slices that are resampled at a time may take."""


def normalized(image: torch.Tensor, intensity: Intensity) -> torch.Tensor:
    """Return an image in HU normalized, as float32 of the same shape."""
    return image.float().clamp(intensity.low, intensity.high).sub_(intensity.mean).div_(max(intensity.std, 1e-8))


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Triple:
    """Shape (z, y, x) after resampling from one spacing to another, rounded as nnU-Net rounds."""
    return as_triple(
        max(1, int(np.round(size * old / new))) for size, old, new in zip(shape, spacing, target, strict=True)
    )


@dataclass(frozen=True)
class Axis:
    """Where the voxels of a resampled axis lie between those of the source axis.

    Attributes:
        lower: index of the source voxel below each target voxel.
        upper: index of the source voxel above it; the same at the ends.
        weight: how far it is from the lower to the upper one, float32.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def between(cls, source: int, target: int) -> Axis:
        """Lay `target` voxels over the extent of `source` voxels, with half-pixel centers.

        In float32 and in the order of torch's own interpolation, so that rounding falls the same way.
        """
        scale = torch.tensor(source, dtype=torch.float32) / target
        position = (scale * (torch.arange(target) + 0.5) - 0.5).clamp(min=0)
        lower = position.long().clamp(max=source - 1)
        return cls(lower, (lower + 1).clamp(max=source - 1), (position - lower).clamp(0, 1))

    def to(self, device: torch.device | str) -> Axis:
        """Return the axis on a device."""
        return Axis(self.lower.to(device), self.upper.to(device), self.weight.to(device))

    def part(self, start: int, stop: int, origin: int = 0) -> Axis:
        """Return the target voxels from `start` to `stop`, source indices counted from `origin`."""
        part = slice(start, stop)
        return Axis(self.lower[part] - origin, self.upper[part] - origin, self.weight[part])


def prepare_image(
    array: np.ndarray,
    intensity: Intensity,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    store: torch.device | str | None = None,
    slab_bytes: int = SLAB_BYTES,
) -> torch.Tensor:
    """Normalize an image in HU and resample it to a shape, both (z, y, x), a few slices at a time; return float32.

    Equals `F.interpolate(normalized(image, intensity), shape, mode="trilinear")` up to float rounding, without a
    float copy of the whole image.

    The array is of any type of number, contiguous or not. The result is computed on `device` and kept on `store`,
    None for the same. `slab_bytes` is the memory for one slab; at least one slice is made at a time.
    """
    depth, height, width = shape
    axis = Axis.between(array.shape[0], depth)
    result = torch.empty((depth, height, width), device=store or device)
    for start, stop in _slabs(array.shape, shape, slab_bytes):
        first, last = int(axis.lower[start]), int(axis.upper[stop - 1])
        slab = normalized(_tensor(array[first : last + 1]).to(device), intensity)
        part = axis.part(start, stop, first).to(device)
        slab = torch.lerp(slab[part.lower], slab[part.upper], part.weight[:, None, None])
        if slab.shape[1:] != (height, width):
            slab = F.interpolate(slab[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        result[start:stop] = slab
    return result


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor of a stored type that torch knows, otherwise of float32."""
    known = array.dtype.isnative and array.dtype.name in ("uint8", "int16", "int32", "float32")
    array = np.ascontiguousarray(array, dtype=array.dtype if known else np.float32)
    # An axis of length 1 counts as contiguous with a negative stride too, which torch refuses.
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def _slabs(source: Sequence[int], shape: Sequence[int], slab_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last but one slice of each slab of a resampled volume.

    Three float32 copies of a slab are alive at a time; downsampling takes more source slices than it makes.
    """
    slice_bytes = 12 * max(source[1] * source[2], shape[1] * shape[2]) * max(1, math.ceil(source[0] / shape[0]))
    thickness = max(1, slab_bytes // slice_bytes)
    for start in range(0, shape[0], thickness):
        yield start, min(start + thickness, shape[0])


def resample_labels(labels: torch.Tensor, shape: Sequence[int], slab_bytes: int = SLAB_BYTES) -> torch.Tensor:
    """Resample a (z, y, x) uint8 label map: each label's mask trilinearly, then the strongest label.

    The lowest label wins a tie. A label is only computed where it is, and a few slices at a time, so that it takes
    little memory in addition to the two label maps, for any number of labels.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    axes = [Axis.between(*sizes) for sizes in zip(labels.shape, shape, strict=True)]
    result = torch.zeros(tuple(shape), dtype=labels.dtype)
    for start, stop in _slabs(labels.shape, shape, slab_bytes):
        first, last = int(axes[0].lower[start]), int(axes[0].upper[stop - 1])
        _vote(labels[first : last + 1], [axes[0].part(start, stop, first), *axes[1:]], result[start:stop])
    return result


def write_nearest(source: np.ndarray, target: np.ndarray) -> None:
    """Fill an array (z, y, x) with the values that another one, of any shape, has at the nearest voxels."""
    nearest = []
    for size, wanted in zip(source.shape, target.shape, strict=True):
        axis = Axis.between(size, wanted)
        nearest.append(torch.where(axis.weight < 0.5, axis.lower, axis.upper).numpy())
    columns = np.ix_(*nearest[1:])
    for z, place in enumerate(nearest[0]):
        target[z] = source[place][columns]


def _vote(source: torch.Tensor, axes: Sequence[Axis], result: torch.Tensor) -> None:
    """Write the strongest label of each voxel into a result that is zero."""
    labeled = _reach(source != 0, axes)
    if labeled is None:
        return
    best = torch.zeros(result.shape)
    for value in torch.bincount(source.flatten()).nonzero().flatten().tolist():
        mask = source == value
        # Background outside of what any label reaches is settled already.
        box = labeled if value == 0 else _reach(mask, axes)
        if box is None:  # so small that no target voxel samples it
            continue
        share = _share(mask, axes, box)
        stronger = share > best[box]
        result[box][stronger] = value
        torch.maximum(best[box], share, out=best[box])


def _reach(mask: torch.Tensor, axes: Sequence[Axis]) -> tuple[slice, ...] | None:
    """Return the box of the target voxels that the marked source voxels have a share in; None if there are none."""
    box = []
    rows = mask.any(0)
    for marked, axis in zip((mask.flatten(1).any(1), rows.any(1), rows.any(0)), axes, strict=True):
        reached = (marked[axis.lower] | marked[axis.upper]).nonzero()
        if not len(reached):
            return None
        box.append(slice(int(reached[0]), int(reached[-1]) + 1))
    return tuple(box)


def _share(mask: torch.Tensor, axes: Sequence[Axis], box: Sequence[slice]) -> torch.Tensor:
    """Return the trilinear share of the marked voxels in the target voxels of a box, float32."""
    parts = []
    for dimension, (axis, part) in enumerate(zip(axes, box, strict=True)):
        first, last = int(axis.lower[part.start]), int(axis.upper[part.stop - 1])
        mask = mask.narrow(dimension, first, last - first + 1)
        parts.append(axis.part(part.start, part.stop, first))
    share = mask.float()
    for dimension, axis in enumerate(parts):
        lower, upper = (share.index_select(dimension, index) for index in (axis.lower, axis.upper))
        share = torch.lerp(lower, upper, axis.weight.view([-1 if d == dimension else 1 for d in range(3)]))
    return share
