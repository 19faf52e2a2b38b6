"""The networks that a configuration can name, and what each is made of.

This module imports no torch, so that a configuration can be checked in a moment. An `Architecture` is all that the
library knows of a network; that of the STU-Net family is `STUNetArchitecture`.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from flare23_lib.axes import Triple, as_triple
from flare23_lib.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


class Architecture(ABC):
    """What a network is made of, checked; plain values, as nnU-Net's plans hold them.

    Each architecture is a frozen dataclass. Its fields are the arguments of the network's constructor, beside
    `input_channels`, `num_classes` and `deep_supervision`. The network is a PyTorch module of the class
    `network_class`. It maps (b, input_channels, z, y, x) to logits (b, num_classes, z, y, x); while its
    `decoder.deep_supervision` is set, which nnU-Net does, to a list of them, the highest resolution first, one
    per stage but the lowest.

    Attributes:
        strides: (z, y, x) stride into each stage from the one before, as in nnU-Net's plans; the first stage's is
            1 everywhere.
    """

    network_class: ClassVar[str]
    strides: tuple[Triple, ...]

    @classmethod
    def of(cls, *values: Any, **named: Any) -> Self:
        """Make an architecture from plain values; ConfigError if they do not make a network."""
        return cls(*map(_frozen, values), **{name: _frozen(value) for name, value in named.items()})

    @property
    @abstractmethod
    def activations(self) -> float:
        """Numbers alive at a time in a forward pass, per voxel of the patch."""

    @property
    def downsampling(self) -> Triple:
        """By how much the lowest stage is coarser than the input (z, y, x); a patch is a multiple of it."""
        return as_triple(prod(sizes) for sizes in zip(*self.strides, strict=True))

    @property
    def arch_kwargs(self) -> dict[str, Any]:
        """The constructor's arguments as lists, for plans."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads: in model.json, and in the settings of a training."""
        named = isinstance(self, STUNetArchitecture)  # as files of version 0.1 have it
        return self.arch_kwargs if named else {"network_class": self.network_class, **self.arch_kwargs}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Architecture:
        """Read an architecture of a class in `NETWORKS`; ConfigError for another class or wrong values."""
        if not isinstance(content, Mapping):
            raise ConfigError(f"network: {content!r} must be a table")
        classes = {kind.network_class: kind for kind, _ in NETWORKS.values()}
        name = content.get("network_class", STUNetArchitecture.network_class)
        if name not in classes:
            raise ConfigError(f"network: this version has no {name}")
        return classes[name].of(**{key: value for key, value in content.items() if key != "network_class"})

    @staticmethod
    def named(name: str, strides: Sequence[Sequence[int]] | None = None) -> Architecture:
        """Make an architecture of `NETWORKS`; ConfigError if the strides do not fit it."""
        kind, values = NETWORKS[name]
        return kind.of(**values, **({} if strides is None else {"strides": strides}))

    def empty(self, classes: int, input_channels: int = 1) -> nn.Module:
        """Build the network without memory for its weights (on PyTorch's device `meta`)."""
        import torch

        module, _, name = self.network_class.rpartition(".")
        with torch.device("meta"):
            return getattr(importlib.import_module(module), name)(input_channels, classes, **self.arch_kwargs)


@dataclass(frozen=True)
class STUNetArchitecture(Architecture):
    """What a STU-Net is made of.

    Attributes:
        depth: residual blocks per stage, highest resolution first.
        widths: channels per stage.
        kernel_sizes: (z, y, x) kernel of each stage's convolutions, odd.

    Raises:
        ConfigError: the values do not make a network.
    """

    network_class = "flare23_lib.networks.stunet.STUNet"

    depth: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[Triple, ...]
    kernel_sizes: tuple[Triple, ...]

    def __post_init__(self) -> None:
        stages = len(self.widths)
        if stages < 2:
            raise ConfigError(f"network: widths {list(self.widths)} name fewer than two stages")
        for name in ("depth", "strides", "kernel_sizes"):
            if (count := len(getattr(self, name))) != stages:
                raise ConfigError(f"network: {name} has {count} entries; {stages} stages need as many")
        if self.strides[0] != (1, 1, 1):
            raise ConfigError(f"network: strides begin with {list(self.strides[0])}; the first stage's is [1, 1, 1]")
        if any(size % 2 == 0 for kernel in self.kernel_sizes for size in kernel):
            raise ConfigError(f"network: kernel_sizes {self.kernel_sizes} must be odd")

    @classmethod
    def of(
        cls,
        depth: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
    ) -> Self:
        """Make an architecture from plain values: strides of [2, 2, 2] and 3x3x3 kernels where none are given.

        Raises:
            ConfigError: the values do not make a network.
        """
        depth, widths = _counts("depth", depth), _counts("widths", widths)
        if strides is None:
            strides = [(1, 1, 1)] + [(2, 2, 2)] * (len(widths) - 1)
        if kernel_sizes is None:
            kernel_sizes = [(3, 3, 3)] * len(widths)
        return cls(depth, widths, _triples("strides", strides), _triples("kernel_sizes", kernel_sizes))

    @property
    def activations(self) -> float:
        """Seven times the first stage's channels: the last decoder stage's joined input (2), its two outputs and its
        shortcut (3), and what convolutions set aside (2)."""
        return 7.0 * self.widths[0]


NETWORKS: dict[str, tuple[type[Architecture], dict[str, Any]]] = {
    "stunet_tiny": (STUNetArchitecture, {"depth": (1,) * 4, "widths": (8, 16, 32, 64)}),
    "stunet_small": (STUNetArchitecture, {"depth": (1,) * 6, "widths": (16, 32, 64, 128, 256, 256)}),
    "stunet_base": (STUNetArchitecture, {"depth": (1,) * 6, "widths": (32, 64, 128, 256, 512, 512)}),
    "stunet_large": (STUNetArchitecture, {"depth": (2,) * 6, "widths": (64, 128, 256, 512, 1024, 1024)}),
    "stunet_huge": (STUNetArchitecture, {"depth": (3,) * 6, "widths": (96, 192, 384, 768, 1536, 1536)}),
}
"""Name -> architecture and the values of its fields beside the strides, which a model has of its own.

S, B, L and H are those of Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models
Empowered by Large-Scale Supervised Pre-training" (2023); `stunet_tiny` is ours, for demos and tests.
"""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _counts(key: str, values: Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, Iterable) else ()
    if not numbers or not all(
        isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers
    ):
        raise ConfigError(f"network: {key} {values!r} must be whole numbers from 1")
    return numbers


def _triples(key: str, rows: Sequence[Sequence[int]]) -> tuple[Triple, ...]:
    try:
        return tuple(as_triple(_counts(key, row)) for row in rows)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network: {key} {rows!r} must be a list of [z, y, x]") from error
