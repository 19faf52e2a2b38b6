"""The STU-Net family by name: blocks and channels of each stage. Free of torch, so that a check of names is quick."""

from __future__ import annotations

from collections.abc import Mapping

LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "stunet_tiny": ((1, 1, 1, 1), (8, 16, 32, 64)),  # for demonstrations
    "stunet_small": ((1,) * 6, (16, 32, 64, 128, 256, 256)),
    "stunet_base": ((1,) * 6, (32, 64, 128, 256, 512, 512)),
    "stunet_large": ((2,) * 6, (64, 128, 256, 512, 1024, 1024)),
    "stunet_huge": ((3,) * 6, (96, 192, 384, 768, 1536, 1536)),
}
"""Name -> (blocks per stage, channels per stage); S to H from Huang et al., STU-Net (2023)."""


def layout_of(network: str | Mapping) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (depth, widths) of a configured network: a name of the family or {depth, widths}."""
    if isinstance(network, str):
        return LAYOUTS[network]
    return tuple(network["depth"]), tuple(network["widths"])
