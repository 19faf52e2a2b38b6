"""Cases for the page's viewer: small scripts beside the page, since one opened from disk may not fetch other files.

Each script hands one case to the page: the CT in the abdominal window as bytes at about half resolution, reference
and prediction as indices of the label map, all as NIfTI in base64. Each keeps its own affine, so it stays in place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from scipy import ndimage

from flare23_lib.colors import label_colors
from flare23_lib.io import atomic
from flare23_lib.io.nifti import Geometry, header_for
from flare23_lib.labels import LabelMap
from flare23_lib.report.slices import windowed
from flare23_lib.report.style import words

GRAYS = 64
"""Gray values of a shown CT; fewer make smaller files, and 6 HU a step are not seen in this window."""

COARSE_MM = 2.0
"""Axes with a finer spacing are halved."""

MOST_VOXELS = 6_000_000
"""Of a shown CT; beyond it the finest axis is thinned further."""


@dataclass(frozen=True)
class ViewerCase:
    """A case as it is stored: image in HU, reference and prediction as indices, all (z, y, x) of one geometry."""

    name: str
    score: float
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    geometry: Geometry


def thinning(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int, int]:
    """Return how many voxels along (z, y, x) become one."""
    steps = [
        2 if millimeters < COARSE_MM and size > 1 else 1 for size, millimeters in zip(shape, spacing, strict=True)
    ]
    while np.prod([-(-size // step) for size, step in zip(shape, steps, strict=True)]) > MOST_VOXELS:
        finest = min(range(3), key=lambda axis: spacing[axis] * steps[axis])
        steps[finest] += 1
    return tuple(steps)


def averaged(image: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Return the means of blocks of steps (z, y, x) voxels as float32; what fills no block is left out."""
    sizes = [size // step for size, step in zip(image.shape, steps, strict=True)]
    cut = image[tuple(slice(size * step) for size, step in zip(sizes, steps, strict=True))]
    means = np.empty(sizes, dtype=np.float32)
    for index in range(sizes[0]):
        slab = cut[index * steps[0] : (index + 1) * steps[0]]
        blocks = slab.reshape(steps[0], sizes[1], steps[1], sizes[2], steps[2])
        means[index] = blocks.mean(axis=(0, 2, 4), dtype=np.float32)
    return means


def thinned_affine(affine: np.ndarray, steps: Sequence[int], offset: Sequence[float]) -> np.ndarray:
    """Return the affine (x, y, z) of every step-th (z, y, x) voxel from an offset in voxels (z, y, x) on."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(steps[::-1])
    matrix[:3, 3] = offset[::-1]
    return affine @ matrix


def largest_error(reference: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int] | None:
    """Return a voxel (z, y, x) deep inside the largest connected error; None if there is none."""
    wrong = reference != prediction
    components, number = ndimage.label(wrong)
    if not number:
        return None
    largest = int(np.argmax(np.bincount(components.ravel())[1:])) + 1
    box = ndimage.find_objects(components, max_label=largest)[-1]
    depth = ndimage.distance_transform_edt(np.pad(components[box] == largest, 1))[1:-1, 1:-1, 1:-1]
    place = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return tuple(int(index) + part.start for index, part in zip(place, box, strict=True))


def case_content(case: ViewerCase) -> dict[str, Any]:
    """Return what a case's script holds: its name, three volumes, and where the largest error is (x, y, z in mm)."""
    steps = thinning(case.geometry.shape, case.geometry.spacing)
    gray = np.rint(windowed(averaged(case.image, steps)) * (GRAYS - 1)).astype(np.uint8)
    middle = [(step - 1) / 2 for step in steps]
    affine = thinned_affine(case.geometry.affine, steps, (0, 0, 0))
    thin = tuple(slice(None, None, step) for step in steps)
    reference, prediction = case.reference[thin], case.prediction[thin]
    place = largest_error(reference, prediction)
    return {
        "name": case.name,
        "image": _nifti(gray, thinned_affine(case.geometry.affine, steps, middle)),
        "reference": _nifti(reference, affine),
        "prediction": _nifti(prediction, affine),
        "error": None if place is None else (affine @ [*place[::-1], 1])[:3].round(2).tolist(),
    }


def _nifti(array: np.ndarray, affine: np.ndarray) -> str:
    """Return a NIfTI file of bytes, compressed, in base64."""
    array = np.ascontiguousarray(array, dtype=np.uint8)
    header = header_for(array.shape, affine, array.dtype)
    header["vox_offset"] = 352
    raw = header.binaryblock + bytes(4) + array.tobytes()
    return base64.b64encode(igzip.compress(raw, compresslevel=3, mtime=0)).decode("ascii")


def write_case(path: Path, case: ViewerCase) -> None:
    """Write a case's script."""
    atomic.write_text(path, f"showCase({json.dumps(case_content(case), separators=(',', ':'))});\n")


def index(labels: LabelMap, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the page tells the viewer: labels with their colors in order, and cases (name, score, file)."""
    colors = label_colors(labels.names)
    return {
        "labels": [{"name": words(name), "color": colors[name]} for name in labels.names],
        "grays": GRAYS - 1,
        "cases": list(cases),
    }
