"""How far fixed positions and HU thresholds get on a phantom cohort: what a network must beat.

From the training cases with all organs the baseline takes, for every organ, its mean position and extent relative to
the center of the image (in world mm) and its HU window; in a validation case a voxel is the organ whose fixed
ellipsoid and window hold it, the nearest by normalized distance if there are several.

    python benchmarks/atlas_baseline.py --cohort DIR [--output FILE.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from provenance import provenance

from flare23_lib.io.atomic import write_json
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import read_labels, read_volume
from flare23_lib.phantom import FLARE23_VALUES, ORGANS, PhantomLayout


@dataclass(frozen=True)
class AtlasEntry:
    """Where an organ lies and how bright it is.

    Attributes:
        center: (z, y, x) in mm from the center of the image, in world directions.
        radii: half extents (z, y, x) of the ellipsoid in mm.
        window: lowest and highest HU.
    """

    center: np.ndarray
    radii: np.ndarray
    window: tuple[float, float]


def centered_axes(geometry: Geometry) -> list[np.ndarray]:
    """World coordinates along the stored z, y and x axes, in mm from the center of the image."""
    steps = np.diag(geometry.affine)[:3][::-1]
    return [step * (np.arange(size) - (size - 1) / 2) for step, size in zip(steps, geometry.shape, strict=True)]


def pairs(folder: Path, images: str, labels: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Give image, labels and centered axes of every case that has both files."""
    for path in sorted(folder.glob(labels.replace("{number:04d}", "*"))):
        number = int(path.name.removesuffix(".nii.gz").rpartition("_")[2])
        image = read_volume(folder / images.format(number=number))
        yield image.array, read_labels(path).array, centered_axes(image.geometry)


def build_atlas(folder: Path, layout: PhantomLayout) -> dict[str, AtlasEntry]:
    """Average the organs of the training cases that hold organs beyond the five and no tumor."""
    beyond = [FLARE23_VALUES[name] for name in ("aorta", "inferior_vena_cava", "esophagus", "stomach")]
    centers: dict[str, list[list[float]]] = {name: [] for name in ORGANS}
    spreads: dict[str, list[list[float]]] = {name: [] for name in ORGANS}
    brightness: dict[str, list[np.ndarray]] = {name: [] for name in ORGANS}
    for image, labels, axes in pairs(folder, layout.images, layout.labels):
        if not np.isin(beyond, labels).all() or (labels == FLARE23_VALUES["tumor"]).any():
            continue
        for name in ORGANS:
            mask = labels == FLARE23_VALUES[name]
            if mask.any():
                places = [axis[index] for axis, index in zip(axes, np.nonzero(mask), strict=True)]
                centers[name].append([place.mean() for place in places])
                spreads[name].append([place.std() for place in places])
                brightness[name].append(image[mask])
    # a full ellipsoid's standard deviation along an axis is its radius over the square root of 5
    return {
        name: AtlasEntry(
            np.mean(centers[name], axis=0),
            np.mean(spreads[name], axis=0) * np.sqrt(5),
            tuple(np.percentile(np.concatenate(brightness[name]), (5, 95))),
        )
        for name in ORGANS
    }


def segment(image: np.ndarray, axes: list[np.ndarray], atlas: dict[str, AtlasEntry]) -> np.ndarray:
    """Label an image (z, y, x) by the atlas; uint8, FLARE23's values."""
    labels = np.zeros(image.shape, dtype=np.uint8)
    nearest = np.full(image.shape, np.inf)
    for name, entry in atlas.items():
        z, y, x = (((axis - entry.center[i]) / entry.radii[i]) ** 2 for i, axis in enumerate(axes))
        distance = z[:, None, None] + y[:, None] + x
        low, high = entry.window
        better = (distance <= 1) & (distance < nearest) & (image >= low) & (image <= high)
        labels[better] = FLARE23_VALUES[name]
        nearest[better] = distance[better]
    return labels


def score(folder: Path) -> dict[str, float]:
    """Mean DSC of every organ over the validation cases that have it, and the mean of these."""
    layout = PhantomLayout()
    atlas = build_atlas(folder, layout)
    scores: dict[str, list[float]] = {name: [] for name in ORGANS}
    for image, truth, axes in pairs(folder, layout.validation_images, layout.validation_labels):
        labels = segment(image, axes, atlas)
        for name in ORGANS:
            reference, found = truth == FLARE23_VALUES[name], labels == FLARE23_VALUES[name]
            if reference.any():
                overlap = 2 * np.count_nonzero(reference & found)
                scores[name].append(overlap / (np.count_nonzero(reference) + np.count_nonzero(found)))
    means = {name: float(np.mean(values)) for name, values in scores.items() if values}
    return {**means, "mean": float(np.mean(list(means.values())))}


def main() -> None:
    """Run the baseline on a cohort and print its DSC."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True, help="folder that `flare23 phantoms` wrote")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    result = score(arguments.cohort)
    for name, value in result.items():
        print(f"{name:24} {value:.3f}")
    if arguments.output:
        write_json(arguments.output, {**provenance(), "cohort": str(arguments.cohort), "DSC": result})


if __name__ == "__main__":
    main()
