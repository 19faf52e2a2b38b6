"""What one core and one byte do: the CPU and disk figures that `flare23 estimate` assumes.

One synthetic CT of 512x512x100 with all labels goes through the real functions, on one thread, in CPU seconds. What a
voxel costs in preprocessing is taken from two target spacings and checked against a third (`foretold_to_measured`).
Bytes are measured on the CTs of a cohort in FLARE23's layout, since noise decides how small an image gets.

    python benchmarks/throughput.py --cohort DIR
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from provenance import provenance

from flare23_lib.config import Config
from flare23_lib.dataset.image_info import read_info
from flare23_lib.estimate import FIGURES
from flare23_lib.evaluation.metrics import score_case
from flare23_lib.io.atomic import write_json
from flare23_lib.io.images import read_header
from flare23_lib.io.nifti import header_for, read_labels, read_volume, write_volume
from flare23_lib.networks import Architecture
from flare23_lib.networks.size import forward_macs
from flare23_lib.networks.stunet import STUNet
from flare23_lib.phantom import Variation, draw_phantom
from flare23_lib.preprocessing.preprocess import TrainingGrid, preprocess_image, preprocess_labels
from flare23_lib.preprocessing.resampling import Intensity, resampled_shape
from flare23_lib.pseudo_labels.merge import MergeRules, merge

ROOT = Path(__file__).resolve().parent.parent
SPACING, SHAPE = (2.5, 0.8, 0.8), (100, 512, 512)
FINE, COARSE, BETWEEN = (2.5, 0.8, 0.7), (10, 3.2, 3.2), (2.5, 1.5, 1.5)
"""Target spacings (z, y, x) in mm: two far apart to solve for, the student's to check."""

PATCH = (48, 128, 160)
NETWORK, NETWORK_PATCH, CLASSES = "stunet_small", (48, 96, 96), 15
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
REPEATS = 3


def cpu_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the CPU seconds of a call, the least of some."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def write_case(folder: Path) -> tuple[Path, Path]:
    """Draw a CT of `SHAPE` and its labels, and return the two files."""
    (plane, slices), (step, *_) = (SPACING[2], SHAPE[0]), SPACING
    variation = Variation(
        plane_spacings=(plane,), z_spacings=(step,), plane_view=(SHAPE[2] * plane,) * 2, z_view=(slices * step,) * 2
    )
    phantom = draw_phantom(np.random.default_rng(0), tumors=True, variation=variation)
    image, labels, affine = phantom.image, phantom.labels, phantom.affine
    assert image.shape == SHAPE, image.shape
    paths = folder / "ct_0000.nii.gz", folder / "ct.nii.gz"
    for path, array in zip(paths, (image, labels), strict=True):
        write_volume(path, array, header_for(array.shape, affine, array.dtype))
    return paths


def preprocessing(make: Callable[[tuple[float, ...]], object]) -> dict[str, float]:
    """Return what a stored and a resampled voxel cost, as Mvoxel/s, and how well that foretells a third spacing."""
    stored = prod(SHAPE) / 1e6
    made = {target: prod(resampled_shape(SHAPE, SPACING, target)) / 1e6 for target in (FINE, COARSE, BETWEEN)}
    spent = {target: cpu_seconds(partial(make, target)) for target in made}
    resampled = (spent[FINE] - spent[COARSE]) / (made[FINE] - made[COARSE])
    read = (spent[COARSE] - resampled * made[COARSE]) / stored
    foretold = read * stored + resampled * made[BETWEEN]
    return {"stored": 1 / read, "resampled": 1 / resampled, "foretold_to_measured": foretold / spent[BETWEEN]}


def stages(folder: Path, config: Config) -> dict[str, float]:
    """Return Mvoxel/s (stored voxels, unless named otherwise) of the stages on one core."""
    image, labels = write_case(folder)
    model = config.preprocessing_settings("student")
    intensity = Intensity.of(model.intensity)
    volume = read_labels(labels)
    shifted = np.roll(volume.array, 2, axis=2)
    prediction = folder / "prediction.nii.gz"
    write_volume(prediction, shifted, volume.header)
    tumors = tuple(label.value for label in config.label_map.tumors)
    annotated = [label.value for label in config.labels if label.value % 2]

    def segment() -> None:
        read_volume(image)
        write_volume(folder / "written.nii.gz", shifted, volume.header)

    def complete() -> None:
        original, predicted = read_labels(labels), read_labels(prediction)
        merged = merge(original.array, predicted.array, annotated, MergeRules(tumors=tumors))
        write_volume(folder / "written.nii.gz", merged.labels, predicted.header)

    def evaluate() -> None:
        reference, predicted = read_labels(labels), read_labels(prediction)
        score_case(reference.array, predicted.array, reference.geometry.spacing, config.label_map)

    images = preprocessing(
        lambda target: preprocess_image(image, folder / "i.b2nd", TrainingGrid(target, "stored", PATCH), intensity)
    )
    maps = preprocessing(
        lambda target: preprocess_labels(
            labels, folder / "l.b2nd", TrainingGrid(target, "stored", PATCH), config.label_map.values
        )
    )
    work = {
        "scan_images": lambda: read_info(image, False),
        "scan_labels": lambda: read_info(labels, True),
        "segment_files": segment,
        "complete": complete,
        "evaluate": evaluate,
    }
    rates = {name: prod(SHAPE) / 1e6 / cpu_seconds(run) for name, run in work.items()}
    for name, figures in (("images", images), ("labels", maps)):
        rates |= {f"preprocess_{name}_{key}": value for key, value in figures.items()}
    return rates


def network() -> dict[str, float]:
    """Return TMAC/s of a network on one core: forward passes, and training iterations of three times their work."""
    architecture = Architecture.named(NETWORK, STRIDES)
    model = STUNet(1, CLASSES, **architecture.to_json())
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    macs = forward_macs(architecture, NETWORK_PATCH, CLASSES) / 1e12
    patch = torch.randn(1, 1, *NETWORK_PATCH)
    rates = {}
    for precision in ("float32", "bfloat16"):

        def forward(precision: str = precision) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                return model(patch)

        def infer(forward: Callable = forward) -> None:
            with torch.inference_mode():
                forward()

        def train(forward: Callable = forward) -> None:
            forward().float().square().mean().backward()

        rates[f"cpu_inference_{precision}"] = macs / cpu_seconds(infer)
        rates[f"cpu_training_{precision}"] = 3 * macs / cpu_seconds(train)
    return rates


def bytes_per_voxel(cohort: Path, folder: Path, config: Config) -> dict[str, float]:
    """Return bytes per voxel over a cohort's CTs and labels: preprocessed to two spacings, and labels as written.

    The list of locations is also set against the bytes that an estimate foretells for it.
    """
    sizes: dict[str, list[float]] = {}

    def count(name: str, path: Path, voxels: float) -> None:
        total = sizes.setdefault(name, [0, 0])
        total[0] += path.stat().st_size
        total[1] += voxels

    settings = config.preprocessing_settings("student")
    image, labels, locations = folder / "i.b2nd", folder / "l.b2nd", folder / "l.pkl"
    for source in sorted(cohort.rglob("*_0000.nii.gz")):
        geometry = read_header(source)[0]
        for name, spacing in (("student", settings.spacing), ("teacher", (2.5, 0.82, 0.82))):
            voxels = prod(resampled_shape(geometry.shape, geometry.spacing, spacing))
            grid = TrainingGrid(spacing, "stored", PATCH)
            preprocess_image(source, image, grid, Intensity.of(settings.intensity))
            count(f"preprocessed_images_{name}", image, voxels)
    for source in sorted(cohort.glob("*abels*/*.nii.gz")) + sorted(cohort.glob("*-gt/*.nii.gz")):
        volume = read_labels(source)
        voxels = prod(resampled_shape(volume.array.shape, volume.geometry.spacing, settings.spacing))
        grid = TrainingGrid(settings.spacing, "stored", PATCH)
        preprocess_labels(source, labels, grid, config.label_map.values)
        count("preprocessed_labels", labels, voxels)
        count("preprocessed_locations", locations, voxels)
        foretold = FIGURES["locations"][1] * (len(config.label_map.values) + 1)
        count("preprocessed_locations_to_foretold", locations, foretold)
        write_volume(folder / "written.nii.gz", volume.array, volume.header)
        count("written_labels", folder / "written.nii.gz", volume.array.size)
    return {name: size / voxels for name, (size, voxels) in sizes.items()}


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True, help="CTs in FLARE23's layout, for bytes per voxel")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    config = Config.load([ROOT / "config.yaml"])
    with tempfile.TemporaryDirectory() as folder:
        rates = stages(Path(folder), config)
        disk = bytes_per_voxel(arguments.cohort, Path(folder), config)
    result: dict[str, dict[str, Any]] = {
        "case": {"shape": SHAPE, "spacing": SPACING},
        "network": {"name": NETWORK, "patch_size": NETWORK_PATCH, "classes": CLASSES},
        "Mvoxel_per_core_second": {name: round(value, 3) for name, value in rates.items()},
        "TMAC_per_core_second": {name: round(value, 4) for name, value in network().items()},
        "bytes_per_voxel": {name: round(value, 4) for name, value in disk.items()},
    }
    for name in ("Mvoxel_per_core_second", "TMAC_per_core_second", "bytes_per_voxel"):
        for key, value in result[name].items():
            print(f"{key:44} {value:10.4f}")
    write_json(arguments.output, {**provenance(), **result})


if __name__ == "__main__":
    main()
