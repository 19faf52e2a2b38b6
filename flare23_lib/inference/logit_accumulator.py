"""Sums of windows' logits, held for a few slices at a time, and how the mirrored passes among them agree.

Windows come slab by slab, from the first slice to the last. A slice before the next slab's first is final: its
labels can be made and its memory used again. So the memory depends on the patch and on the image's plane, never on
the number of slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flare23_lib.axes import Slices, as_triple

UNCOVERED = -1e4
"""Logit of every class but the background where no window was computed: background by decision, also when it is
interpolated with its neighbors."""

PASS_TYPE = torch.bfloat16
"""Sums of single mirrored passes, which serve only for their agreement, are kept in half the memory. In float16 the
Gaussian weights of windows' corners, all there is at an image's corners, would underflow."""


@dataclass(frozen=True)
class FinalSlices:
    """Final slices.

    Attributes:
        start: index of the first one in the padded image.
        seen: how many slices at the beginning were returned before.
        sums: (z, y, x, classes), the windows' logits times their Gaussian weights, or `UNCOVERED`.
        weights: (z, y, x), what the sums are to be divided by, positive.
        passes: the same sums for each mirrored pass; not to be divided for their strongest class.
    """

    start: int
    seen: int
    sums: torch.Tensor
    weights: torch.Tensor
    passes: list[torch.Tensor]


class LogitAccumulator:
    """Weighted sums over a part of the plane and as many slices as a window has, and one more on either side.

    Args:
        importance: weight of each voxel of a window (z, y, x), on the device where the sums are kept.
        region: of the padded image: all of its slices, and the rows and columns that are kept.
        passes: mirrored passes to keep apart; 0 or 1 for none.
    """

    def __init__(self, importance: torch.Tensor, region: Slices, classes: int, passes: int) -> None:
        self._importance = importance[..., None]
        self._region, device = region, importance.device
        shape = (len(importance) + 2, *(part.stop - part.start for part in region[1:]))
        self._weights = torch.zeros(shape, device=device)
        self._sums = torch.zeros((*shape, classes), device=device)
        self._passes = [
            torch.zeros((*shape, classes), dtype=PASS_TYPE, device=device) for _ in range(passes if passes > 1 else 0)
        ]
        # In slices of the padded image: where the buffer begins, and the first one that was not returned yet.
        self._first, self._fresh = 0, 0

    def open(self, start: int) -> None:
        """Make room for a slab that begins at a slice, after `close` returned those before it."""
        first = max(0, start - 1)
        shift = first - self._first
        for buffer in self._buffers:
            kept = max(0, len(buffer) - shift)
            if kept and shift:
                buffer[:kept] = buffer[shift:].clone()
            buffer[kept:] = 0
        self._first, self._fresh = first, max(self._fresh, first)

    def add(self, window: Slices, outputs: Sequence[torch.Tensor]) -> None:
        """Add the logits (z, y, x, classes) of each mirrored pass, mirrored back, of a window of the open slab."""
        place, part = self._clip(window)
        weight = self._importance[part]
        self._weights[place] += weight[..., 0]
        for index, output in enumerate(outputs):
            weighted = output[part].to(self._sums.device, torch.float32) * weight
            self._sums[place] += weighted
            if self._passes:
                self._passes[index][place] += weighted

    def close(self, end: int | None) -> FinalSlices | None:
        """Return the slices before the next slab's first, `end`, or the rest (None); None if there is nothing new.

        They begin with the last one returned before, the lower neighbor of the first new one, and are valid until
        `open`.
        """
        last = min(self._region[0].stop, self._first + len(self._weights))
        stop = last if end is None else min(end, last)
        if stop <= self._fresh:
            return None
        start = max(self._first, self._fresh - 1)
        seen = self._fresh - start
        part = slice(start - self._first, stop - self._first)
        self._fresh = stop
        weights = self._weights[part]
        empty = weights == 0
        if bool(empty.any()):
            weights.masked_fill_(empty, 1)
            for sums in (self._sums[part], *(each[part] for each in self._passes)):
                sums[..., 1:].masked_fill_(empty[..., None], UNCOVERED)
        return FinalSlices(start, seen, self._sums[part], weights, [each[part] for each in self._passes])

    @property
    def _buffers(self) -> list[torch.Tensor]:
        return [self._weights, self._sums, *self._passes]

    def _clip(self, window: Slices) -> tuple[Slices, Slices]:
        """Return where a window lies in the buffer, and which part of the window that is."""
        place, part = [slice(window[0].start - self._first, window[0].stop - self._first)], [slice(None)]
        for extent, kept in zip(window[1:], self._region[1:], strict=True):
            start, stop = max(extent.start, kept.start), min(extent.stop, kept.stop)
            place.append(slice(start - kept.start, stop - kept.start))
            part.append(slice(start - extent.start, stop - extent.start))
        return as_triple(place), as_triple(part)


class TTAAgreement:
    """Counts, block by block, the labels of each mirrored pass and of the mean of the passes.

    How well they agree is a measure of a pseudo-label's reliability. With a shape, (z, y, x) of the resampled image,
    votes are counted at every voxel.

    Attributes:
        vote_count: uint8 of the shape, how many passes give the label of the mean; all of them where nothing was
            added, which is background by decision. None if they are not counted.
    """

    def __init__(self, classes: int, passes: int, shape: Sequence[int] | None = None) -> None:
        self._classes = classes
        self._tables = torch.zeros((passes, classes, classes), dtype=torch.long)
        self.vote_count = None if shape is None else np.full(shape, passes, dtype=np.uint8)

    def add(self, passes: Sequence[torch.Tensor], mean: torch.Tensor, place: Slices | None = None) -> None:
        """Count a block: the label indices of each pass and of their mean, and its place in the resampled image."""
        if self.vote_count is not None:
            votes = torch.stack([labels == mean for labels in passes]).sum(0, dtype=torch.uint8)
            self.vote_count[place] = votes.cpu().numpy()
        mean = mean.flatten().long()
        for table, labels in zip(self._tables, passes, strict=True):
            pairs = torch.bincount(labels.flatten().long() * self._classes + mean, minlength=self._classes**2)
            table += pairs.reshape(self._classes, self._classes).cpu()

    def scores(self) -> list[float | None]:
        """Return, per class, the Dice between each pass's labels and the mean's, averaged over the passes.

        A pass counts for a class if it or the mean holds the class; None if no pass counts.
        """
        scores: list[list[float]] = [[] for _ in range(self._classes)]
        for table in self._tables:
            both, sizes = table.diagonal().tolist(), (table.sum(0) + table.sum(1)).tolist()
            for score, shared, size in zip(scores, both, sizes, strict=True):
                if size:
                    score.append(2 * shared / size)
        return [sum(score) / len(score) if score else None for score in scores]
