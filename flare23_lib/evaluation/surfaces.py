"""Surfaces of labeled structures: their surfels, the areas of these, and the share near another surface.

Arrays are (z, y, x) volumes of file values, spacings (z, y, x) in mm. The measure is the surface Dice at a tolerance
of Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy" (arXiv:1809.04430): the share of both surfaces' area that lies within the tolerance of the other.

A surface is made of *surfels*. Every block of 2x2x2 voxels that a structure fills in part is one surfel: it lies
at the block's center, and its area is that of the marching-cubes surface inside the block. Which of the block's
eight voxels belong to the structure is the surfel's *code*: bit 4*dz + 2*dy + dx stands for the voxel at
(dz, dy, dx). Beyond the volume's border there is background.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from flare23_lib.labels import Label

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
"""Offset (dz, dy, dx) of the voxel behind each bit of a code."""

Region = tuple[int, int]
"""Slices [start, stop) in which a structure is looked at."""


@cache
def _surfel_normals() -> np.ndarray:
    """Return, per code, the flat pieces of the surface in a block of unit voxels: (256, 4, 3), zeros as filling.

    A piece is given by the absolute values of its normal along (z, y, x), whose length is the piece's area.

    The surface runs through the middles of the block's edges that join an inner to an outer corner, and parts
    the rarer kind of corners (the inner ones if there are four of each) from the others. Corners that no edge
    joins are parted from each other, so each group of corners that hang together has a surface of its own, and
    there are only six kinds of groups. Four have a flat surface: a lone corner (triangle), two corners
    (rectangle), a full face (square), a corner with its three neighbors (regular hexagon). Three corners in an L
    have five edge middles: a triangle of those of the edges that leave the L's plane, and a trapezoid. Four
    corners in a winding chain have six edge middles that lie in no plane. Other triangles over the same six
    points have other areas; these are the ones the published measure takes: two that face halfway between the
    axis of the chain's middle edge and that of either end, and two, of 1/8 and 3/8, that face along a diagonal.
    """
    normals = np.zeros((256, 4, 3))
    for code in range(256):
        inner = [corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1]
        outer = [corner for corner in _CORNERS if corner not in inner]
        pieces = [piece for group in _groups(min(inner, outer, key=len)) for piece in _pieces(group)]
        if pieces:
            normals[code, : len(pieces)] = pieces
    return normals


def _axis_between(a: tuple[int, ...], b: tuple[int, ...]) -> int | None:
    """Return the axis of the edge between two corners, None if no edge joins them."""
    axes = [axis for axis in range(3) if a[axis] != b[axis]]
    return axes[0] if len(axes) == 1 else None


def _groups(corners: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split corners into groups that hang together by edges."""
    groups: list[list[tuple[int, ...]]] = []
    for corner in corners:
        touched = [group for group in groups if any(_axis_between(corner, other) is not None for other in group)]
        groups = [group for group in groups if group not in touched] + [sum(touched, [corner])]
    return groups


def _pieces(group: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return the normals of the flat pieces that part one group of at most four corners from the rest."""
    unit, diagonal = np.eye(3), np.ones(3)
    edges = [(a, b, axis) for a, b in itertools.combinations(group, 2) if (axis := _axis_between(a, b)) is not None]
    degree = {corner: sum(corner in edge[:2] for edge in edges) for corner in group}
    along = sorted({axis for *_, axis in edges})
    across = diagonal - unit[along].sum(axis=0)
    if len(group) == 1:
        return [diagonal / 8]
    if len(group) == 2:
        return [across / 2]
    if len(group) == 3:
        return [across / 2, 3 / 8 * diagonal]
    if len(edges) == 4:
        return [across]
    if max(degree.values()) == 3:
        return [3 / 4 * diagonal]
    middle = next(axis for a, b, axis in edges if degree[a] == degree[b] == 2)
    ends = [axis for axis in range(3) if axis != middle]
    return [(unit[middle] + unit[end]) / 4 for end in ends] + [diagonal / 8, 3 / 8 * diagonal]


def surfel_areas(spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the surface area in mm² of a block of 2x2x2 voxels for each of the 256 codes.

    Args:
        spacing: (z, y, x) in mm.
    """
    z, y, x = spacing
    faces = np.array([y * x, z * x, z * y], dtype=np.float64)
    return np.linalg.norm(_surfel_normals() * faces, axis=2).sum(axis=1)


@dataclass(frozen=True)
class Grid:
    """Flat addresses of block centers, with a margin so that no step of a search leaves the array.

    Attributes:
        shape: of the volume, (z, y, x); block centers are one more along each axis.
        margin: blocks on either side, (z, y, x).
    """

    shape: tuple[int, int, int]
    margin: tuple[int, int, int]

    @property
    def extent(self) -> tuple[int, ...]:
        """Number of addresses along (z, y, x)."""
        return tuple(size + 1 + 2 * margin for size, margin in zip(self.shape, self.margin, strict=True))

    def steps(self, spacing: tuple[float, float, float], tolerance: float) -> np.ndarray:
        """Return the address differences to all blocks within a tolerance, the nearest first.

        Distances are summed in float64 in the order x, y, z, as the official script does: ties with the
        tolerance count as within it, and there they fall alike.
        """
        reach = [range(-margin, margin + 1) for margin in self.margin]
        dz, dy, dx = (axis.ravel() for axis in np.meshgrid(*reach, indexing="ij"))
        z, y, x = spacing
        distance = np.sqrt((dx * x) ** 2 + (dy * y) ** 2 + (dz * z) ** 2)
        near = np.flatnonzero(distance <= tolerance)
        near = near[np.argsort(distance[near], kind="stable")]
        _, height, width = self.extent
        return ((dz * height + dy) * width + dx)[near]

    def address(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the addresses of block centers (int64)."""
        _, height, width = self.extent
        return ((z + self.margin[0]) * height + y + self.margin[1]) * width + x + self.margin[2]

    def place(self, addresses: np.ndarray) -> np.ndarray:
        """Return the block centers (n, 3) along (z, y, x), in voxels; the inverse of `address`."""
        return np.stack(np.unravel_index(addresses, self.extent), axis=1) - self.margin


def surface_dice(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, float, float],
    wanted: Sequence[Label],
    regions: Mapping[str, Region],
) -> dict[str, float]:
    """Return the surface Dice of each wanted label at its tolerance.

    Args:
        reference: uint8 file values, (z, y, x).
        prediction: uint8 file values, same shape.
        spacing: (z, y, x) in mm.
        wanted: the structures; both volumes hold them inside their regions.
        regions: per label name the slices that are looked at; their ends count as surface.
    """
    if not wanted:
        return {}
    tolerance = max(label.tolerance_mm for label in wanted)
    margin = [min(int(tolerance / step) + 1, size) for step, size in zip(spacing, reference.shape, strict=True)]
    grid = Grid(reference.shape, tuple(margin))
    steps = {value: grid.steps(spacing, value) for value in {label.tolerance_mm for label in wanted}}
    areas = surfel_areas(spacing)
    surfaces = [find_surfels(volume, wanted, regions, grid) for volume in (reference, prediction)]
    occupied = np.zeros(np.prod(grid.extent), dtype=bool)
    scores = {}
    for label in wanted:
        sides = [surface[label.name] for surface in surfaces]
        near = total = 0.0
        for (addresses, codes), (others, _) in (sides, sides[::-1]):
            occupied[others] = True
            far = codes[_far(addresses, occupied, steps[label.tolerance_mm])]
            occupied[others] = False
            all_counts, far_counts = (np.bincount(part, minlength=256) for part in (codes, far))
            total += all_counts @ areas
            near += (all_counts - far_counts) @ areas
        scores[label.name] = float(near / total)
    return scores


def _far(addresses: np.ndarray, occupied: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return which addresses have no occupied one among the steps, as indices."""
    left = np.arange(len(addresses))
    for step in steps:
        hit = occupied[addresses + step]
        if hit.any():
            miss = ~hit
            left, addresses = left[miss], addresses[miss]
            if not len(left):
                break
    return left


def find_surfels(
    volume: np.ndarray, wanted: Sequence[Label], regions: Mapping[str, Region], grid: Grid
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Find the surfels of all wanted labels in one pass.

    Returns:
        Per label name the addresses (int64) and codes (uint8) of its surfels inside its region, as if there was
        background beyond the region.
    """
    row = volume.shape[2] + 2  # pages have a border of background, on which blocks of two rows' ends fall
    planes, blocks, columns, codes = _blocks_between_slices(volume, wanted)
    order = np.argsort(columns, kind="stable")
    bounds = np.searchsorted(columns[order], np.arange(len(wanted) + 1))
    surfels = {}
    for column, label in enumerate(wanted):
        start, stop = regions[label.name]
        own = order[bounds[column] : bounds[column + 1]]
        own = own[(planes[own] > start) & (planes[own] < stop)]
        parts = [(planes[own], blocks[own], codes[own])]
        # at a region's ends half of each block lies outside and counts as background
        for plane, inside, shift in ((start, start, 4), (stop, stop - 1, 0)):
            page = _page(volume[inside] == label.value).view(np.uint8)
            end = page[: -row - 1] | page[1:-row] << 1 | page[row:-1] << 2 | page[row + 1 :] << 3
            where = np.flatnonzero(end)
            parts.append((np.full(len(where), plane), where, end[where] << shift))
        z, block, code = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        surfels[label.name] = (grid.address(z, block // row, block % row), code)
    return surfels


def _page(values: np.ndarray) -> np.ndarray:
    """Return a slice (y, x) with a border of zeros, flat: a block's voxels are at 0, 1, row and row + 1 from it."""
    page = np.zeros((values.shape[0] + 2, values.shape[1] + 2), dtype=values.dtype)
    page[1:-1, 1:-1] = values
    return page.ravel()


def _blocks_between_slices(
    volume: np.ndarray, wanted: Sequence[Label]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the blocks between neighboring slices that wanted labels fill in part.

    Returns:
        Per surfel the upper slice (int64), the block's place in its page (int64), the label's place in `wanted`
        and the code (uint8).
    """
    row = volume.shape[2] + 2
    corner_steps = (0, 1, row, row + 1)
    bits = np.zeros((8, 256, len(wanted)), dtype=np.uint8)  # what a value at a corner adds to each label's code
    for column, label in enumerate(wanted):
        bits[:, label.value, column] = 1 << np.arange(8)
    empty = np.zeros(0, dtype=np.int64)
    found = [(empty, empty, empty.astype(np.uint8), empty.astype(np.uint8))]
    below = None
    for z in range(len(volume)):
        page = _page(volume[z])
        low = np.minimum(page[:-row], page[row:])
        low = np.minimum(low[:-1], low[1:])
        high = np.maximum(page[:-row], page[row:])
        high = np.maximum(high[:-1], high[1:])
        if below is not None:
            # only a block of unequal voxels holds a surface
            mixed = np.flatnonzero(np.minimum(low, below[1]) != np.maximum(high, below[2]))
            code = np.zeros((len(mixed), len(wanted)), dtype=np.uint8)
            for half, values in enumerate((below[0], page)):
                for corner, step in enumerate(corner_steps):
                    code |= bits[4 * half + corner].take(values[mixed + step], axis=0)
            block, column = np.nonzero(code)
            found.append((np.full(len(block), z), mixed[block], column.astype(np.uint8), code[block, column]))
        below = page, low, high
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))
