"""How much work a STU-Net is and how large it is, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from flare23_lib.networks import Architecture


@dataclass(frozen=True)
class Convolution:
    """A convolution of the network.

    Attributes:
        level: stage of its output's resolution, 0 for the highest.
        taps: voxels of its kernel.
        inputs: channels.
        outputs: channels.
        normalized: an instance norm with a scale and a shift per channel follows.
        training_only: it gives a lower resolution's logits, which only the loss looks at (deep supervision).
    """

    level: int
    taps: int
    inputs: int
    outputs: int
    normalized: bool = False
    training_only: bool = False


def convolutions(network: Architecture, classes: int) -> list[Convolution]:
    """Return all convolutions of a STU-Net that takes one channel (see `networks.stunet.STUNet`).

    Args:
        network: its stages.
        classes: channels of the output, background included.
    """
    found: list[Convolution] = []
    inputs = 1
    for level in range(len(network.widths)):
        found += _stage(network, level, inputs)
        inputs = network.widths[level]
    for level in reversed(range(len(network.widths) - 1)):
        width, below = network.widths[level], network.widths[level + 1]
        found.append(Convolution(level + 1, 1, below, width))  # at the lower resolution, before it is upsampled
        found += _stage(network, level, 2 * width)
        found.append(Convolution(level, 1, width, classes, training_only=level > 0))
    return found


def _stage(network: Architecture, level: int, inputs: int) -> list[Convolution]:
    """Return the residual blocks of a stage: two convolutions each, and 1x1x1 around the first block."""
    width, taps = network.widths[level], prod(network.kernel_sizes[level])
    found = [Convolution(level, 1, inputs, width)]
    for block in range(network.depth[level]):
        found.append(Convolution(level, taps, width if block else inputs, width, normalized=True))
        found.append(Convolution(level, taps, width, width, normalized=True))
    return found


def forward_macs(network: Architecture, patch_size: Sequence[int], classes: int) -> int:
    """Return the multiply-accumulates of the convolutions in one forward pass over one patch.

    Convolution by convolution: output voxels x kernel voxels x input channels x output channels. Padding counts as
    voxels, norms and activations do not count: the convention of PyTorch's FlopCounterMode, whose figure is twice
    this one.

    Args:
        network: its stages.
        patch_size: (z, y, x) in voxels.
        classes: channels of the output, background included.
    """
    sizes, voxels = list(patch_size), []
    for stride in network.strides:
        sizes = [-(-size // step) for size, step in zip(sizes, stride, strict=True)]
        voxels.append(prod(sizes))
    return sum(
        voxels[item.level] * item.taps * item.inputs * item.outputs
        for item in convolutions(network, classes)
        if not item.training_only
    )


def parameters(network: Architecture, classes: int) -> int:
    """Return how many numbers the network learns: kernels, biases, and the norms' scales and shifts."""
    return sum(
        item.outputs * (item.taps * item.inputs + 1 + 2 * item.normalized) for item in convolutions(network, classes)
    )
