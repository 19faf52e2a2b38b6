"""How much work a network of one channel is and how large it is, from one without memory for its weights."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from flare23_lib.axes import Triple
from flare23_lib.networks import Architecture

_empty = cache(Architecture.empty)


@cache
def forward_macs(network: Architecture, patch_size: Triple, classes: int) -> int:
    """Return the multiply-accumulates of the convolutions in one forward pass over one patch.

    Counted as PyTorch's FlopCounterMode does, with padding, and without norms and activations. The patch is (z, y, x)
    in voxels, background is one of the classes.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _empty(network, classes)(torch.empty(1, 1, *patch_size, device="meta"))
    return counter.get_total_flops() // 2  # a multiplication and an addition


def parameters(network: Architecture, classes: int) -> int:
    """Return how many numbers the network learns: kernels, biases, and the norms' scales and shifts."""
    return sum(parameter.numel() for parameter in _empty(network, classes).parameters())
