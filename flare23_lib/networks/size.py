"""How much work a network of one channel is and how large it is, from one without memory for its weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet

_empty = cache(Architecture.empty)


def forward_macs(network: Architecture, patch_size: Sequence[int], classes: int) -> int:
    """Return the multiply-accumulates of the convolutions in one forward pass over one patch.

    Convolution by convolution: output voxels x kernel voxels x input channels x output channels. Padding counts as
    voxels, norms and activations do not count: the convention of PyTorch's FlopCounterMode, whose figure is twice
    this one. The patch is (z, y, x) in voxels, background is one of the classes.
    """
    empty = _empty(network, classes)
    if not isinstance(empty, STUNet):
        return _counted_macs(empty, patch_size)
    sizes, voxels = list(patch_size), []
    for stride in network.strides:
        sizes = [-(-size // step) for size, step in zip(sizes, stride, strict=True)]
        voxels.append(prod(sizes))

    def macs(module: nn.Module, stage: int) -> int:
        weights = (conv.weight.numel() for conv in module.modules() if isinstance(conv, nn.Conv3d))
        return voxels[stage] * sum(weights)

    total = sum(macs(blocks, stage) for stage, blocks in enumerate(empty.conv_blocks_context))
    upwards = range(len(voxels) - 2, -1, -1)
    for stage, upsample, blocks in zip(upwards, empty.upsample_layers, empty.conv_blocks_localization, strict=True):
        total += macs(upsample, stage + 1) + macs(blocks, stage)  # convolved before it is upsampled
    return total + macs(empty.seg_outputs[-1], 0)


def _counted_macs(empty: nn.Module, patch_size: Sequence[int]) -> int:
    """Return the same of any network: a pass over no data, which takes seconds where it is the process's first."""
    found = []

    def count(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        side = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        found.append(prod(side.shape[2:]) * module.weight.numel())

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
