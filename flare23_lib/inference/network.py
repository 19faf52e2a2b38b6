"""A network as inference runs it. A STU-Net has one memory layout throughout and no copies between layers.

Another network is called as it is. The arithmetic of a STU-Net is that of `STUNet.forward`. Channels lie last in
memory, where convolutions are fastest in every precision; instance norm is computed as a batch norm of one sample,
which keeps that layout (`F.instance_norm` copies its input to another one and back); what follows a layer works in
place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from flare23_lib.networks.stunet import NEGATIVE_SLOPE, ResidualBlock, STUNet
from flare23_lib.runtime.devices import memory_format

SUPPRESSED_LOGIT = -1000.0
"""Logit of a class that may not be the answer; sums of many passes stay within float16's range."""


class WindowNetwork:
    """Logits of windows.

    Args:
        network: its weights are converted and laid out in place.
        precision: "float32", "bfloat16" or "float16": convolutions and what is kept between layers. Statistics of
            the norms, and sums inside a convolution, are float32 in each.
        compiled: let torch.compile make one program of it, at the first call, for patches of that call's shape.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str, compiled: bool = False) -> None:
        self.dtype = getattr(torch, precision)
        self.device = device
        of_stunet = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
        for module in of_stunet if isinstance(network, STUNet) else [network]:
            module.to(self.dtype)  # before they move: a GPU never holds them as float32
        self._layout = memory_format(device)
        # PyTorch's annotations leave out this signature of `to`.
        self._network: nn.Module = network.to(device=device, memory_format=self._layout)  # type: ignore[call-overload]
        self._suppressed: list[int] = []
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._forward
        if compiled:
            self._run = torch.compile(self._forward, dynamic=False)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Map normalized patches (b, z, y, x) to logits (b, z, y, x, classes), contiguous, in the network's type."""
        logits = self._run(patches)
        if self._suppressed:
            logits[..., self._suppressed] = SUPPRESSED_LOGIT
        return logits

    def suppress_classes(self, classes: Collection[int]) -> None:
        """Let classes, by index, never be the answer: their logit is far below all others, everywhere."""
        self._suppressed = list(classes)

    def _forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = patches[:, None].to(self.device, self.dtype, memory_format=self._layout)
        logits = _stunet(self._network, x) if isinstance(self._network, STUNet) else self._network(x)
        return logits.permute(0, 2, 3, 4, 1).contiguous()


def _stunet(network: Any, x: torch.Tensor) -> torch.Tensor:  # a ModuleList's annotations lose its members' types
    skips = []
    for blocks in network.conv_blocks_context:
        x = _stage(blocks, x)
        skips.append(x)
    skips.pop()
    for upsample, blocks in zip(network.upsample_layers, network.conv_blocks_localization, strict=True):
        skip = skips.pop()
        x = F.interpolate(_conv(upsample.conv, x), size=skip.shape[2:], mode="nearest")
        x = _stage(blocks, torch.cat((x, skip), dim=1))
    return _conv(network.seg_outputs[-1], x)


def _stage(blocks: Iterable[ResidualBlock], x: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        x = _block(block, x)
    return x


def _block(block: ResidualBlock, x: torch.Tensor) -> torch.Tensor:
    # A norm removes whatever constant comes before it: the biases of conv1 and conv2 have no effect.
    y = _norm(block.norm1, _conv(block.conv1, x, bias=False))
    y = _norm(block.norm2, _conv(block.conv2, F.leaky_relu_(y, NEGATIVE_SLOPE), bias=False))
    y.add_(x if block.conv3 is None else _conv(block.conv3, x))
    return F.leaky_relu_(y, NEGATIVE_SLOPE)


def _conv(conv: nn.Conv3d, x: torch.Tensor, bias: bool = True) -> torch.Tensor:
    offset = conv.bias if bias else None
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if on_cpu and not torch.compiler.is_compiling():
        # conv3d itself passes over oneDNN for a batch of one with few channels or slices, and takes 5 to 20 times as
        # long there (`use_mkldnn` in PyTorch's Convolution.cpp).
        padding = [size // 2 for size in conv.kernel_size]
        return torch.mkldnn_convolution(x, conv.weight, offset, padding, conv.stride, conv.dilation, conv.groups)
    return F.conv3d(x, conv.weight, offset, conv.stride, conv.padding)


def _norm(norm: nn.InstanceNorm3d, x: torch.Tensor) -> torch.Tensor:
    if len(x) == 1:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, momentum=0.0, eps=norm.eps)
    return torch.cat([_norm(norm, sample[None]) for sample in x])
