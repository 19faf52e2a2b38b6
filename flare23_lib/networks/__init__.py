"""The networks that a configuration can name, and what each is made of.

This module imports no torch, so that a configuration can be checked in a moment; `flare23_lib.networks.stunet`
builds the networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from flare23_lib.axes import Triple, as_triple
from flare23_lib.errors import ConfigError

NetworkName = Literal["stunet_tiny", "stunet_small", "stunet_base", "stunet_large", "stunet_huge"]

NETWORKS: dict[NetworkName, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "stunet_tiny": ((1,) * 4, (8, 16, 32, 64)),
    "stunet_small": ((1,) * 6, (16, 32, 64, 128, 256, 256)),
    "stunet_base": ((1,) * 6, (32, 64, 128, 256, 512, 512)),
    "stunet_large": ((2,) * 6, (64, 128, 256, 512, 1024, 1024)),
    "stunet_huge": ((3,) * 6, (96, 192, 384, 768, 1536, 1536)),
}
"""Name -> (blocks per stage, channels per stage), highest resolution first.

S, B, L and H are those of Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models
Empowered by Large-Scale Supervised Pre-training" (2023); `stunet_tiny` is ours, for demos and tests.
"""


@dataclass(frozen=True)
class Architecture:
    """What a STU-Net is made of, checked; plain values, as nnU-Net's plans hold them.

    Attributes:
        depth: residual blocks per stage, highest resolution first.
        widths: channels per stage.
        strides: (z, y, x) stride into each stage from the one before, as in nnU-Net's plans; the first stage's is
            1 everywhere.
        kernel_sizes: (z, y, x) kernel of each stage's convolutions, odd.

    Raises:
        ConfigError: the values do not make a network.
    """

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
        depth: Sequence[int] | int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
    ) -> Architecture:
        """Make an architecture from plain values: strides of [2, 2, 2] and 3x3x3 kernels where none are given.

        Raises:
            ConfigError: the values do not make a network.
        """
        widths = _counts("widths", widths)
        depth = _counts("depth", [depth] * len(widths) if isinstance(depth, int) else depth)
        if strides is None:
            strides = [(1, 1, 1)] + [(2, 2, 2)] * (len(widths) - 1)
        if kernel_sizes is None:
            kernel_sizes = [(3, 3, 3)] * len(widths)
        return cls(depth, widths, _triples("strides", strides), _triples("kernel_sizes", kernel_sizes))

    @classmethod
    def named(cls, name: NetworkName, strides: Sequence[Sequence[int]] | None = None) -> Architecture:
        """Make an architecture of `NETWORKS`; ConfigError if the strides do not fit it."""
        return cls.of(*NETWORKS[name], strides)

    @property
    def downsampling(self) -> Triple:
        """By how much the lowest stage is coarser than the input (z, y, x); a patch is a multiple of it."""
        return as_triple(prod(sizes) for sizes in zip(*self.strides, strict=True))

    def to_json(self) -> dict[str, list]:
        """Return the constructor's arguments as lists, for plans (`arch_kwargs`) and model.json."""
        triples = {"strides": self.strides, "kernel_sizes": self.kernel_sizes}
        plain = {name: [list(triple) for triple in rows] for name, rows in triples.items()}
        return {"depth": list(self.depth), "widths": list(self.widths), **plain}


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
