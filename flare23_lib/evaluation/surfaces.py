"""Surfaces of labels: their surfels, the areas of these, and the share near another surface.

Arrays are (z, y, x) volumes of file values, spacings are (z, y, x) in mm. The metric is the surface
Dice at a tolerance of Nikolov et al., "Deep learning to achieve clinically applicable segmentation
of head and neck anatomy for radiotherapy" (arXiv:1809.04430): the share of both surfaces' area that
is within the tolerance of the other surface.

A surface consists of *surfels*. Every block of 2x2x2 voxels that a structure fills in part is one
surfel. It is at the block's center, and its area is that of the marching-cubes surface inside the
block. The surfel's *code* states which of the block's eight voxels belong to the structure:
bit 4*dz + 2*dy + dx stands for the voxel at (dz, dy, dx). Beyond the volume's border there is
background.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from flare23_lib.labels import Label

Region = tuple[int, int]
"""Slices [start, stop) in which a structure is scored."""

Surfels = tuple[np.ndarray, np.ndarray]
"""Block centers (n, 3) along (z, y, x) in voxels, int64, and codes (n,), uint8."""

_PIECES = {
    (0,): [(1 / 8, 1 / 8, 1 / 8)],
    (0, 1): [(1 / 2, 1 / 2, 0)],
    (0, 1, 2): [(1 / 2, 0, 0), (3 / 8, 3 / 8, 3 / 8)],
    (0, 1, 2, 3): [(1, 0, 0)],
    (0, 1, 2, 4): [(3 / 4, 3 / 4, 3 / 4)],
    (0, 1, 3, 7): [(1 / 4, 1 / 4, 0), (0, 1 / 4, 1 / 4), (1 / 8,) * 3, (3 / 8,) * 3],
}
"""The flat pieces of the surface around a group of corners, which are given as bits of the code.

A piece is given by the absolute values of its normal along (z, y, x), whose length is its area in a
block of unit voxels. The surface runs through the middles of the block's edges that join an inner
and an outer corner. A lone corner has a triangle, two corners have a rectangle, an L has a triangle
and a trapezoid, a face has a square, and a corner with its three neighbors has a regular hexagon.
A winding chain has six edge middles that are in no common plane. Other triangles over these points have
other areas; these are the ones of the published metric.
"""


@cache
def _surfel_normals() -> np.ndarray:
    """Return the flat pieces of the surface for each code: (256, 4, 3), zeros as padding.

    The surface separates the rarer kind of corners (the inner ones if there are four of each) from
    the others. Each group of corners that edges connect has a surface of its own, and up to
    rotations and reflections there are only the groups of `_PIECES`.
    """
    from scipy import ndimage

    pieces = {}
    for corners, normals in _PIECES.items():
        group = np.isin(np.arange(8), corners).reshape(2, 2, 2)
        for axes in itertools.permutations(range(3)):
            for flips in itertools.product((1, -1), repeat=3):
                turned = group.transpose(axes)[tuple(slice(None, None, step) for step in flips)]
                pieces[turned.tobytes()] = np.array(normals)[:, axes]
    table = np.zeros((256, 4, 3))
    for code in range(1, 255):
        inner = (code >> np.arange(8) & 1).reshape(2, 2, 2)
        groups, number = ndimage.label(inner if inner.sum() <= 4 else 1 - inner)
        normals = np.concatenate([pieces[(groups == group).tobytes()] for group in range(1, number + 1)])
        table[code, : len(normals)] = normals
    return table


def surfel_areas(spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the surface area in mm² of a block of 2x2x2 voxels for each of the 256 codes."""
    z, y, x = spacing
    faces = np.array([y * x, z * x, z * y], dtype=np.float64)
    areas: np.ndarray = np.linalg.norm(_surfel_normals() * faces, axis=2).sum(axis=1)
    return areas


def surface_dice(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, float, float],
    labels: Sequence[Label],
    regions: Mapping[str, Region],
) -> dict[str, float]:
    """Return the surface Dice of each label at its tolerance.

    The volumes are uint8, of the same shape, and both hold each label inside the slices of its
    region, whose ends count as surface.
    """
    if not labels:
        return {}
    tolerance = max(label.tolerance_mm for label in labels)
    # no step of a search leaves an array with this margin
    margin = [min(int(tolerance / step) + 1, size) for step, size in zip(spacing, reference.shape, strict=True)]
    extent = tuple(size + 1 + 2 * more for size, more in zip(reference.shape, margin, strict=True))
    steps = {value: _steps(spacing, value, margin, extent) for value in {label.tolerance_mm for label in labels}}
    areas = surfel_areas(spacing)
    surfaces = [find_surfels(volume, labels, regions) for volume in (reference, prediction)]
    occupied = np.zeros(np.prod(extent), dtype=bool)
    scores = {}
    for label in labels:
        sides = [
            (np.ravel_multi_index(tuple((points + margin).T), extent), codes)
            for points, codes in (surface[label.name] for surface in surfaces)
        ]
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


def _steps(
    spacing: tuple[float, float, float], tolerance: float, margin: Sequence[int], extent: Sequence[int]
) -> np.ndarray:
    """Return the address differences to all blocks within a tolerance in mm, the nearest first.

    Distances are summed in float64 in the order x, y, z, as in the official script: ties with the
    tolerance count as within it.
    """
    offsets = np.meshgrid(*(range(-size, size + 1) for size in margin), indexing="ij")
    dz, dy, dx = (axis.ravel() for axis in offsets)
    z, y, x = spacing
    distance = np.sqrt((dx * x) ** 2 + (dy * y) ** 2 + (dz * z) ** 2)
    order = np.argsort(distance, kind="stable")
    near = order[: np.searchsorted(distance[order], tolerance, side="right")]
    differences: np.ndarray = ((dz * extent[1] + dy) * extent[2] + dx)[near]
    return differences


def _far(addresses: np.ndarray, occupied: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the indices of the addresses that have no occupied one among the steps."""
    left = np.arange(len(addresses))
    for step in steps:
        miss = ~occupied[addresses + step]
        if not miss.all():
            left, addresses = left[miss], addresses[miss]
            if not len(left):
                break
    return left


def find_surfels(volume: np.ndarray, labels: Sequence[Label], regions: Mapping[str, Region]) -> dict[str, Surfels]:
    """Return the surfels of each label inside its region, with background beyond it, from a uint8 volume."""
    row = volume.shape[2] + 2
    planes, blocks, columns, codes = _blocks_between_slices(volume, labels)
    surfels = {}
    for column, label in enumerate(labels):
        start, stop = regions[label.name]
        own = np.flatnonzero((columns == column) & (planes > start) & (planes < stop))
        parts = [(planes[own], blocks[own], codes[own])]
        # at a region's ends half of each block is outside and counts as background
        for plane, inside, shift in ((start, start, 4), (stop, stop - 1, 0)):
            page = np.pad(volume[inside] == label.value, 1).ravel().view(np.uint8)
            end = page[: -row - 1] | page[1:-row] << 1 | page[row:-1] << 2 | page[row + 1 :] << 3
            where = np.flatnonzero(end)
            parts.append((np.full(len(where), plane), where, end[where] << shift))
        z, block, code = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        surfels[label.name] = (np.stack([z, block // row, block % row], axis=1), code)
    return surfels


def _blocks_between_slices(
    volume: np.ndarray, labels: Sequence[Label]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the blocks between neighboring slices that labels fill in part, all labels in one pass.

    Returns:
        Per surfel the upper slice, the block's place in its page, the label's place in `labels`, and
        the code.
    """
    row = volume.shape[2] + 2
    corner_steps = (0, 1, row, row + 1)
    bits = np.zeros((8, 256, len(labels)), dtype=np.uint8)  # what a value at a corner adds to each code
    for column, label in enumerate(labels):
        bits[:, label.value, column] = 1 << np.arange(8)
    empty = np.zeros(0, dtype=np.int64)
    found = [(empty, empty, empty.astype(np.uint8), empty.astype(np.uint8))]
    below = None
    for z, values in enumerate(volume):
        # a border of zeros, flat: a block's voxels are at 0, 1, row and row + 1 from it
        page = np.pad(values, 1).ravel()
        low, high = (
            extreme(extreme(page[: -row - 1], page[1:-row]), extreme(page[row:-1], page[row + 1 :]))
            for extreme in (np.minimum, np.maximum)
        )
        if below is not None:
            # only a block of unequal voxels holds a surface
            mixed = np.flatnonzero(np.minimum(low, below[1]) != np.maximum(high, below[2]))
            code = np.zeros((len(mixed), len(labels)), dtype=np.uint8)
            corners = [side[mixed + step] for side in (below[0], page) for step in corner_steps]
            for corner, value in enumerate(corners):
                code |= bits[corner].take(value, axis=0)
            block, place = np.nonzero(code)
            found.append((np.full(len(block), z), mixed[block], place.astype(np.uint8), code[block, place]))
        below = page, low, high
    planes, blocks, columns, codes = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return planes, blocks, columns, codes
