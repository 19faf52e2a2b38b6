"""Cases for the page's viewer: small scripts beside the page, since one opened from disk may not fetch other files.

Each script hands one case to the page: the CT in the abdominal window as bytes at about half resolution, reference
and prediction as indices of the label map, all as NIfTI in base64. Each keeps its own affine, so it stays in place.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from scipy import ndimage

from flare23_lib.io import atomic
from flare23_lib.report.cases import CaseVolumes, windowed

GRAYS = 64
"""Gray values of a shown CT; fewer make smaller files, and 6 HU a step are not seen in this window."""

COARSE_MM = 2.0
"""Axes with a finer spacing are halved."""

MAX_VOXELS = 6_000_000
"""Of a shown CT; beyond it the finest axis is thinned further."""


def write_case(path: Path, name: str, volumes: CaseVolumes) -> None:
    """Write a case's script: its name, three volumes, and where the largest error is (x, y, z in mm)."""
    steps = thinning(volumes.geometry.shape, volumes.geometry.spacing)
    gray = np.rint(windowed(averaged(volumes.image, steps)) * (GRAYS - 1))
    thin = tuple(slice(None, None, step) for step in steps)
    reference, prediction = volumes.reference[thin], volumes.prediction[thin]
    affine = thinned_affine(volumes.geometry.affine, steps, (0, 0, 0))
    middle = thinned_affine(volumes.geometry.affine, steps, [(step - 1) / 2 for step in steps])
    place = largest_error(reference, prediction)
    content = {
        "name": name,
        "grays": GRAYS - 1,
        "image": _nifti(gray, middle),
        "reference": _nifti(reference, affine),
        "prediction": _nifti(prediction, affine),
        "error": None if place is None else (affine @ [*place[::-1], 1])[:3].round(2).tolist(),
    }
    atomic.write_text(path, f"showCase({json.dumps(content, separators=(',', ':'))});\n")


def thinning(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return how many voxels along (z, y, x) become one."""
    steps = [2 if mm < COARSE_MM and size > 1 else 1 for size, mm in zip(shape, spacing, strict=True)]
    while np.prod(np.ceil(np.divide(shape, steps))) > MAX_VOXELS:
        steps[int(np.argmin(np.multiply(spacing, steps)))] += 1
    return steps


def averaged(image: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Return the means of blocks of steps (z, y, x) voxels as float32; what fills no block is left out."""
    sizes = [size // step for size, step in zip(image.shape, steps, strict=True)]
    z, y, x = (slice(size * step) for size, step in zip(sizes, steps, strict=True))
    blocks = image[z, y, x].reshape(sizes[0], steps[0], sizes[1], steps[1], sizes[2], steps[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def thinned_affine(affine: np.ndarray, steps: Sequence[int], offset: Sequence[float]) -> np.ndarray:
    """Return the affine (x, y, z) of every step-th (z, y, x) voxel, the first at an offset in voxels (z, y, x)."""
    matrix = np.diag([*steps[::-1], 1.0])
    matrix[:3, 3] = offset[::-1]
    return affine @ matrix


def largest_error(reference: np.ndarray, prediction: np.ndarray) -> tuple[int, ...] | None:
    """Return a voxel (z, y, x) deep inside the largest connected error; None without an error."""
    components, number = ndimage.label(reference != prediction)
    if not number:
        return None
    largest = int(np.argmax(np.bincount(components.ravel())[1:])) + 1
    box = ndimage.find_objects(components, max_label=largest)[-1]
    depth = ndimage.distance_transform_edt(np.pad(components[box] == largest, 1))[1:-1, 1:-1, 1:-1]
    place = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return tuple(int(index) + part.start for index, part in zip(place, box, strict=True))


def _nifti(array: np.ndarray, affine: np.ndarray) -> str:
    """Return a NIfTI file of bytes, compressed, in base64."""
    content = nib.Nifti1Image(array.astype(np.uint8).T, affine).to_bytes()
    return base64.b64encode(igzip.compress(content, compresslevel=3, mtime=0)).decode("ascii")
