"""How nnU-Net fills a batch."""

from __future__ import annotations


def forced_patches(batch_size: int, share: float) -> int:
    """Return how many patches of a batch are forced onto foreground: nnU-Net rounds the others to whole patches.

    Args:
        batch_size: patches in a batch.
        share: of them that should be forced, 0 to 1 (`oversample_foreground`).
    """
    return batch_size - round(batch_size * (1 - share))
