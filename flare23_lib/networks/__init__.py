"""The networks that a configuration can name, and what each is made of.

This module imports no torch, so that a configuration can be checked in a moment; `flare23_lib.networks.stunet`
builds the networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flare23_lib.errors import ConfigError
from flare23_lib.networks.layouts import LAYOUTS

Triple = tuple[int, int, int]
"""One whole number per axis (z, y, x)."""

NETWORKS = LAYOUTS
"""Name -> (blocks per stage, channels per stage), highest resolution first.

S, B, L and H are those of Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models
Empowered by Large-Scale Supervised Pre-training" (2023); `stunet_tiny` is ours, for demos and tests.
"""

_SPEC_KEYS = {"name", "depth", "widths", "pool_op_kernel_sizes", "conv_kernel_sizes"}


@dataclass(frozen=True)
class Architecture:
    """What a STU-Net is made of, checked; plain values, as nnU-Net's plans hold them.

    Attributes:
        depth: residual blocks per stage, highest resolution first.
        widths: channels per stage.
        pool_op_kernel_sizes: (z, y, x) stride from each stage to the next; one entry fewer than stages.
        conv_kernel_sizes: (z, y, x) kernel of each stage's convolutions, odd.

    Raises:
        ConfigError: the values do not make a network.
    """

    depth: tuple[int, ...]
    widths: tuple[int, ...]
    pool_op_kernel_sizes: tuple[Triple, ...]
    conv_kernel_sizes: tuple[Triple, ...]

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise ConfigError(f"network: widths {list(self.widths)} name fewer than two stages")
        if len(self.depth) != len(self.widths):
            raise ConfigError(f"network: depth names {len(self.depth)} stages, widths {len(self.widths)}")
        if len(self.pool_op_kernel_sizes) != len(self.widths) - 1:
            raise ConfigError(
                f"network: pool_op_kernel_sizes has {len(self.pool_op_kernel_sizes)} entries; "
                f"{len(self.widths)} stages need {len(self.widths) - 1}"
            )
        if len(self.conv_kernel_sizes) != len(self.widths):
            raise ConfigError(
                f"network: conv_kernel_sizes has {len(self.conv_kernel_sizes)} entries; "
                f"{len(self.widths)} stages need as many"
            )
        if any(size % 2 == 0 for kernel in self.conv_kernel_sizes for size in kernel):
            raise ConfigError(f"network: conv_kernel_sizes {self.conv_kernel_sizes} must be odd")

    @classmethod
    def of(
        cls,
        depth: Sequence[int] | int,
        widths: Sequence[int],
        pool_op_kernel_sizes: Sequence[Sequence[int]] | None = None,
        conv_kernel_sizes: Sequence[Sequence[int]] | None = None,
    ) -> Architecture:
        """Make an architecture from plain values: [2, 2, 2] pooling and 3x3x3 kernels where none are given.

        Raises:
            ConfigError: the values do not make a network.
        """
        widths = _counts("widths", widths)
        depth = _counts("depth", [depth] * len(widths) if isinstance(depth, int) else depth)
        if pool_op_kernel_sizes is None:
            pool_op_kernel_sizes = [(2, 2, 2)] * (len(widths) - 1)
        if conv_kernel_sizes is None:
            conv_kernel_sizes = [(3, 3, 3)] * len(widths)
        return cls(
            depth=depth,
            widths=widths,
            pool_op_kernel_sizes=_triples("pool_op_kernel_sizes", pool_op_kernel_sizes),
            conv_kernel_sizes=_triples("conv_kernel_sizes", conv_kernel_sizes),
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Architecture:
        """Make an architecture from a name of `NETWORKS`, or from depth and widths.

        Args:
            spec: `name`, or `depth` and `widths`; and, if wanted, `pool_op_kernel_sizes`, `conv_kernel_sizes`.

        Raises:
            ConfigError: an unknown name or key, both ways at once, neither, or values that make no network.
        """
        unknown = sorted(set(spec) - _SPEC_KEYS)
        if unknown:
            raise ConfigError(f"network: {unknown[0]!r} is none of {', '.join(sorted(_SPEC_KEYS))}")
        explicit = {"depth", "widths"} & set(spec)
        if "name" in spec:
            if explicit:
                raise ConfigError(f"network: give name or {' and '.join(sorted(explicit))}, not both")
            name = spec["name"]
            if name not in NETWORKS:
                raise ConfigError(f"network: there is no {name!r}; there are {', '.join(NETWORKS)}")
            depth, widths = NETWORKS[name]
        elif len(explicit) == 2:
            depth, widths = spec["depth"], spec["widths"]
        else:
            raise ConfigError("network: give a name, or depth and widths")
        return cls.of(depth, widths, spec.get("pool_op_kernel_sizes"), spec.get("conv_kernel_sizes"))

    @property
    def downsampling(self) -> Triple:
        """By how much the lowest stage is coarser than the input (z, y, x); a patch is a multiple of it."""
        factors = [1, 1, 1]
        for pool in self.pool_op_kernel_sizes:
            factors = [factor * size for factor, size in zip(factors, pool, strict=True)]
        return tuple(factors)

    def to_json(self) -> dict[str, list]:
        """Return the constructor's arguments as lists, for plans (`arch_kwargs`) and model.json."""
        return {
            "depth": list(self.depth),
            "widths": list(self.widths),
            "pool_op_kernel_sizes": [list(pool) for pool in self.pool_op_kernel_sizes],
            "conv_kernel_sizes": [list(kernel) for kernel in self.conv_kernel_sizes],
        }


def _counts(key: str, values: Sequence[int]) -> tuple[int, ...]:
    try:
        numbers = tuple(values)
    except TypeError:
        numbers = (None,)
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ConfigError(f"network: {key} {values!r} must be whole numbers from 1")
    return numbers


def _triples(key: str, rows: Sequence[Sequence[int]]) -> tuple[Triple, ...]:
    try:
        triples = tuple(_counts(key, row) for row in rows)
    except TypeError:
        triples = ((),)
    if not all(len(triple) == 3 for triple in triples):
        raise ConfigError(f"network: {key} {rows!r} must be a list of [z, y, x]")
    return triples
