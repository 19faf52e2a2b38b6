"""How much work a network of one channel is and how large it is, from one without memory for its weights."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

from flare23_lib.axes import Triple
from flare23_lib.networks import Architecture

_empty = cache(Architecture.empty)


@cache
def forward_macs(network: Architecture, patch_size: Triple, classes: int) -> int:
    """Return the multiply-accumulates of the convolutions in one forward pass over one patch.

    Convolution by convolution: voxels x kernel voxels x input channels x output channels, with the output's voxels,
    or the input's of a transposed one. Padding counts as voxels, norms and activations do not count: the convention
    of PyTorch's FlopCounterMode, whose figure is twice this one. The patch is (z, y, x) in voxels, background is one
    of the classes.
    """
    found: list[int] = []

    def count(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        side = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        found.append(prod(side.shape[2:]) * module.weight.numel())

    empty = _empty(network, classes)
    convolutions = [module for module in empty.modules() if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with torch.no_grad():
        empty(torch.empty(1, 1, *patch_size, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(found)


def parameters(network: Architecture, classes: int) -> int:
    """Return how many numbers the network learns: kernels, biases, and the norms' scales and shifts."""
    return sum(parameter.numel() for parameter in _empty(network, classes).parameters())
