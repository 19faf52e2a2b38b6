"""How well the mirrored passes of test-time augmentation agree: a measure of a pseudo-label's reliability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from flare23_lib.axes import Slices
from flare23_lib.preprocessing.resampling import Axis


class TTAAgreement:
    """Counts, block by block, the labels of each pass and of the mean of the passes.

    Args:
        classes: of the model.
        passes: how many.
        shape: (z, y, x) of the resampled image, to count the votes at every voxel; None to keep none.

    Attributes:
        vote_count: uint8 of the shape, how many passes give the label of the mean; all of them where nothing was
            added, which is background by decision. None if they are not counted.
    """

    def __init__(self, classes: int, passes: int, shape: Sequence[int] | None = None) -> None:
        self._classes = classes
        self._tables = torch.zeros((passes, classes, classes), dtype=torch.long)
        self.vote_count = None if shape is None else np.full(shape, passes, dtype=np.uint8)

    def add(self, passes: Sequence[torch.Tensor], mean: torch.Tensor, place: Slices | None = None) -> None:
        """Count a block.

        Args:
            passes: label indices of each pass.
            mean: those of the mean of the passes, of the same shape.
            place: where the block lies in the resampled image; needed if votes are counted.
        """
        if self.vote_count is not None:
            self.vote_count[place] = (
                torch.stack([labels == mean for labels in passes]).sum(0, dtype=torch.uint8).cpu().numpy()
            )
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

    def write_vote_count(self, seen: np.ndarray) -> None:
        """Write the vote counts at full resolution, each voxel's those of the nearest one.

        Args:
            seen: uint8 (z, y, x) array to fill, axes as the network sees them.
        """
        counts = self.vote_count
        if counts is None:
            raise ValueError("votes were not counted")
        nearest = []
        for source, target in zip(counts.shape, seen.shape, strict=True):
            axis = Axis.between(source, target)
            nearest.append(torch.where(axis.weight < 0.5, axis.lower, axis.upper).numpy())
        columns = np.ix_(*nearest[1:])
        for z, place in enumerate(nearest[0]):
            seen[z] = counts[place][columns]
