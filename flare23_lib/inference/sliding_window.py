"""The sliding window: from the image that the network sees to labels at full resolution, slab by slab."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flare23_lib.axes import Slices, as_triple
from flare23_lib.errors import ImageError
from flare23_lib.inference.logit_accumulator import FinalSlices, LogitAccumulator, TTAAgreement
from flare23_lib.inference.memory import MemoryPlan
from flare23_lib.inference.upsampling import Axes, argmax_classes, interpolated_labels, soft_labels
from flare23_lib.inference.windows import WindowSlab, importance_map
from flare23_lib.preprocessing.resampling import Axis

Network = Callable[[torch.Tensor], torch.Tensor]
"""Maps patches (b, z, y, x) to logits (b, z, y, x, classes)."""


class PhaseTimer:
    """Seconds per phase; waits for the device at the end of each, as its work is asynchronous."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def start(self) -> None:
        """Leave out what happened since the last phase."""
        self._last = time.perf_counter()

    def phase(self, name: str) -> None:
        """End a phase; a phase may come several times."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True)
class Output:
    """A label map that is being made: uint8 file values, axes as the network sees them, background at first.

    `values` has the file value of each class. `soft` is int32, soft labels at the resolution of the network's image,
    0 at first; None if they are not wanted.
    """

    labels: np.ndarray
    values: np.ndarray
    soft: np.ndarray | None = None


@dataclass
class Tile:
    """A part of the plane, and the place of its labels at full resolution.

    Attributes:
        rows: y in the padded image whose sums are kept.
        own: the rows that no other tile counts.
        columns: x.
        axes: (z, y, x), the output's voxels between those of the padded image.
        place: y and x of the output.
        done: slices of the output that are made.
    """

    rows: slice
    own: slice
    columns: slice
    axes: Axes
    place: tuple[slice, slice]
    done: int = 0


@dataclass(frozen=True)
class WindowedImage:
    """An image as the network sees it, (z, y, x), normalized and at least as large as the patch, and its windows.

    `box` is the part that is not padding. `flips` has for each pass the axes of (z, y, x) to mirror along. The sums
    are kept on `device`.
    """

    image: torch.Tensor
    box: Slices
    slabs: Sequence[WindowSlab]
    flips: Sequence[tuple[int, ...]]
    device: torch.device


def run_slabs(
    network: Network,
    windowed: WindowedImage,
    output: Output,
    agreement: TTAAgreement | None,
    plan: MemoryPlan,
    timer: PhaseTimer,
) -> int:
    """Run a network over an image, write the labels of its logits, and return how many windows were computed.

    Every window is mirrored, run, and mirrored back (as nnU-Net does it; the windows stay where they are), so that
    the mean of several flips' results is nnU-Net's result. Where no window is computed the labels stay background.

    `agreement` counts how the passes agree; None for a single pass. The timer gets the phases
    `windows` and `labels`. ImageError if the logits are not finite.
    """
    computed = 0
    image, slabs, flips = windowed.image, windowed.slabs, windowed.flips
    importance = importance_map([part.stop - part.start for part in slabs[0].windows[0]]).to(windowed.device)
    for tile in _tiles(windowed, output.labels.shape, plan.tiles):
        region = (slice(0, image.shape[0]), tile.rows, tile.columns)
        sums = LogitAccumulator(importance, region, len(output.values), len(flips))
        for slab, following in zip(slabs, [*slabs[1:], None], strict=True):
            sums.open(slab.start)
            for window, logits in _logits(network, image, slab, tile.rows, flips, plan.batch):
                sums.add(window, logits)
                computed += 1
            timer.phase("windows")
            part = sums.close(following.start if following else None)
            if part is not None:
                _finish(part, tile, windowed.box, output, agreement)
            timer.phase("labels")
    return computed


def _logits(
    network: Network,
    image: torch.Tensor,
    slab: WindowSlab,
    rows: slice,
    flips: Sequence[tuple[int, ...]],
    batch: int,
) -> Iterator[tuple[Slices, list[torch.Tensor]]]:
    """Give each window of a slab that reaches into some rows, with the logits of every pass."""

    def run(windows: Sequence[Slices]) -> list[torch.Tensor]:
        patches = torch.stack([image[window] for window in windows])
        passes = []
        for flip in flips:
            dims = [axis + 1 for axis in flip]
            passes.append(network(patches.flip(dims)).flip(dims))
        return passes

    windows = list(slab.windows)
    if slab.probe:
        first = windows.pop(0)
        passes = run([first])
        if _reaches(first, rows):
            yield first, [logits[0] for logits in passes]
        if not argmax_classes(functools.reduce(torch.add, (logits.float() for logits in passes))).any():
            return
    windows = [window for window in windows if _reaches(window, rows)]
    for start in range(0, len(windows), batch):
        together = windows[start : start + batch]
        passes = run(together)
        for index, window in enumerate(together):
            yield window, [logits[index] for logits in passes]


def _reaches(window: Slices, rows: slice) -> bool:
    return window[1].start < rows.stop and window[1].stop > rows.start


def _tiles(windowed: WindowedImage, shape: Sequence[int], count: int) -> list[Tile]:
    """Cut the part of the plane that windows cover into tiles along y.

    One row or column without windows is kept around it where there is one, so that the border to what no window
    covers is interpolated like any other place.
    """
    windows = [window for slab in windowed.slabs for window in slab.windows]
    padded = windowed.image.shape

    def reach(axis: int) -> slice:
        first, last = min(window[axis].start for window in windows), max(window[axis].stop for window in windows)
        return slice(max(0, first - 1), min(padded[axis], last + 1))

    extent, columns = reach(1), reach(2)
    axes = [
        Axis.between(part.stop - part.start, size).part(0, size, -part.start)
        for part, size in zip(windowed.box, shape, strict=True)
    ]
    bounds = [extent.start + (extent.stop - extent.start) * index // count for index in range(count + 1)]
    tiles = []
    for start, stop in itertools.pairwise(bounds):
        # One row more: the upper neighbor of voxels between two tiles.
        rows = slice(start, min(stop + 1, extent.stop))
        y, x = _between(axes[1], rows, stop), _between(axes[2], columns, columns.stop)
        across = axes[1].part(y.start, y.stop, start), axes[2].part(x.start, x.stop, columns.start)
        tiles.append(Tile(rows, slice(start, stop), columns, (axes[0], *across), (y, x)))
    return tiles


def _between(axis: Axis, extent: slice, stop: int) -> slice:
    """Return the target voxels with both neighbors within an extent and the lower one below `stop`."""
    first = int((axis.lower < extent.start).sum())
    last = int(((axis.upper < extent.stop) & (axis.lower < stop)).sum())
    return slice(first, max(first, last))


def _finish(part: FinalSlices, tile: Tile, box: Slices, output: Output, agreement: TTAAgreement | None) -> None:
    """Write the labels of final slices; ImageError if their sums are not finite, whose labels would be background."""
    if not torch.stack(part.sums.aminmax()).isfinite().all():
        raise ImageError(
            "the network's logits are not finite (NaN or infinite); float16 can overflow where float32 does not"
        )
    start, stop = part.start, part.start + len(part.sums)
    ready = _between(tile.axes[0], slice(start, stop), stop)
    first, last = max(ready.start, tile.done), ready.stop
    labels = argmax_classes(part.sums)
    fresh, place = _inside(part, tile, box)
    if output.soft is not None:
        divisor = part.weights[fresh] * max(1, len(part.passes))
        output.soft[place] = soft_labels(part.sums[fresh], divisor, output.values)
    if agreement is not None:
        agreement.add([argmax_classes(sums[fresh]) for sums in part.passes], labels[fresh], place)
    if last > first:
        axes = (tile.axes[0].part(first, last, start), *tile.axes[1:])
        made = interpolated_labels(part.sums, labels, axes, part.weights)
        output.labels[(slice(first, last), *tile.place)] = output.values[made.cpu().numpy()]
    tile.done = max(tile.done, last)


def _inside(part: FinalSlices, tile: Tile, box: Slices) -> tuple[Slices, Slices]:
    """Return what is new in a part, belongs to its tile and is not padding: its place there and in the image."""
    origins = (part.start, tile.rows.start, tile.columns.start)
    extents = (slice(part.start + part.seen, part.start + len(part.sums)), tile.own, tile.columns)
    inside, place = [], []
    for extent, image, origin in zip(extents, box, origins, strict=True):
        start = max(extent.start, image.start)
        stop = max(start, min(extent.stop, image.stop))
        inside.append(slice(start - origin, stop - origin))
        place.append(slice(start - image.start, stop - image.start))
    return as_triple(inside), as_triple(place)
