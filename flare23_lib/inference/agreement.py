"""How well the mirrored passes of test-time augmentation agree: a measure of a pseudo-label's reliability."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Agreement:
    """Counts, slice by slice, what each pass and the mean of the passes say.

    Args:
        classes: of the model.
        passes: how many.
    """

    def __init__(self, classes: int, passes: int) -> None:
        self._classes = classes
        self._tables = torch.zeros((passes, classes, classes), dtype=torch.long)

    def add(self, passes: Sequence[torch.Tensor], mean: torch.Tensor) -> None:
        """Count a block: label indices of each pass, and of the mean, all of one shape."""
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
