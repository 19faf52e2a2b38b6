"""STU-Net, a residual U-Net that scales in depth and width.

Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale
Supervised Pre-training", 2023 (arXiv:2304.06716). Parameters carry the official names, so that published weights
load; constructors take plain values, so that nnU-Net's plans can describe the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from flare23_lib.axes import Triple, as_triple
from flare23_lib.networks import STUNetArchitecture

NEGATIVE_SLOPE = 0.01
"""Slope of LeakyReLU below zero."""


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm, and a shortcut around them.

    conv1 (strided), norm1, LeakyReLU, conv2, norm2, plus the input, LeakyReLU. Where the stride or the number of
    channels may change (`shortcut`), the input passes through `conv3`, 1x1x1 with the same stride.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        padding = as_triple(size // 2 for size in kernel)
        self.conv1 = nn.Conv3d(input_channels, output_channels, kernel, stride, padding)
        self.norm1 = nn.InstanceNorm3d(output_channels, affine=True)
        self.conv2 = nn.Conv3d(output_channels, output_channels, kernel, padding=padding)
        self.norm2 = nn.InstanceNorm3d(output_channels, affine=True)
        self.conv3 = nn.Conv3d(input_channels, output_channels, 1, stride) if shortcut else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (b, input_channels, z, y, x) to (b, output_channels, z, y, x), divided by the stride."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), NEGATIVE_SLOPE, inplace=True)
        y = self.norm2(self.conv2(y))
        y = y + (x if self.conv3 is None else self.conv3(x))
        return F.leaky_relu(y, NEGATIVE_SLOPE, inplace=True)


class Upsample(nn.Module):
    """Nearest upsampling by the encoder's stride and a 1x1x1 convolution.

    The convolution runs first: it works voxel by voxel, so the result is the same, at an eighth of the price.
    """

    def __init__(self, input_channels: int, output_channels: int, scale: Triple) -> None:
        super().__init__()
        self.conv = nn.Conv3d(input_channels, output_channels, 1)
        self.scale = tuple(float(factor) for factor in scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (b, input_channels, z, y, x) to (b, output_channels, z, y, x), times the scale."""
        return F.interpolate(self.conv(x), scale_factor=self.scale, mode="nearest")


class DecoderSwitch(nn.Module):
    """Where nnU-Net's trainer looks for `deep_supervision` and sets it; holds no parameters."""

    def __init__(self, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision


def _stage(
    input_channels: int, output_channels: int, blocks: int, kernel: Triple, stride: Triple = (1, 1, 1)
) -> nn.Sequential:
    first = ResidualBlock(input_channels, output_channels, kernel, stride, shortcut=True)
    others = [ResidualBlock(output_channels, output_channels, kernel) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


class STUNet(nn.Module):
    """A U-Net of residual blocks.

    Each encoder stage from the second on halves the resolution (by its stride) in its first block. Each
    decoder stage upsamples, joins the encoder's output of the same resolution and has as many blocks as that
    encoder stage. A 1x1x1 convolution gives logits at every decoder stage.

    Args:
        input_channels: channels of the input.
        num_classes: channels of the output, background included.
        depth: blocks per stage, highest resolution first.
        widths: channels per stage.
        strides: (z, y, x) stride into each stage, the first stage's 1 everywhere (as in nnU-Net's plans, where its
            trainer reads them); None for 2x2x2 from the second stage on.
        kernel_sizes: (z, y, x) kernel per stage; None for 3x3x3 throughout.
        deep_supervision: return the outputs of all decoder stages; may be switched later at
            `network.decoder.deep_supervision`.

    Raises:
        ConfigError: the values make no network.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        depth: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        parts = STUNetArchitecture.of(depth, widths, strides, kernel_sizes)
        blocks, channels = parts.depth, parts.widths
        strides, kernels = parts.strides, parts.kernel_sizes
        stages = range(len(channels))
        upwards = stages[-2::-1]

        self.decoder = DecoderSwitch(deep_supervision)
        self.conv_blocks_context = nn.ModuleList(
            _stage(
                channels[stage - 1] if stage else input_channels,
                channels[stage],
                blocks[stage],
                kernels[stage],
                strides[stage],
            )
            for stage in stages
        )
        self.upsample_layers = nn.ModuleList(
            Upsample(channels[stage + 1], channels[stage], strides[stage + 1]) for stage in upwards
        )
        self.conv_blocks_localization = nn.ModuleList(
            _stage(2 * channels[stage], channels[stage], blocks[stage], kernels[stage]) for stage in upwards
        )
        self.seg_outputs = nn.ModuleList(nn.Conv3d(channels[stage], num_classes, 1) for stage in upwards)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialize a module's own weights (He, for LeakyReLU); nnU-Net applies it to a new network."""
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Map an image to logits.

        Args:
            x: (b, input_channels, z, y, x); each size a multiple of the product of that axis's strides.

        Returns:
            Logits (b, num_classes, z, y, x). With deep supervision a list, one per decoder stage, highest
            resolution first, as nnU-Net's loss expects.
        """
        skips = []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        outputs = []
        last = len(self.seg_outputs) - 1
        decoder = zip(self.upsample_layers, self.conv_blocks_localization, self.seg_outputs, strict=True)
        for level, (upsample, blocks, head) in enumerate(decoder):
            x = blocks(torch.cat((upsample(x), skips.pop()), dim=1))
            if self.decoder.deep_supervision or level == last:
                outputs.append(head(x))
        return outputs[::-1] if self.decoder.deep_supervision else outputs[0]
