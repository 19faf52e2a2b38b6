"""How long it takes to score a case of 14 classes and 512x512x200 voxels: the official procedure and ours.

Both sides read the same two files and score them by the challenge's rules, each in a fresh process without threads,
so that peak memory is theirs alone. The official side is PyPI's surface-distance, driven class by class as the
challenge's script drives it. The case is a phantom; its prediction is the reference warped by a smooth random field,
once as it is, once with stray specks of every class around the structure, and, for ours alone, with as many specks
all over the image (there the official side computes 28 distance maps of the whole volume, which takes minutes).

    python benchmarks/evaluation.py [--output benchmarks/results/evaluation.json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from provenance import provenance

from flare23_lib.config import Config
from flare23_lib.io.atomic import write_json
from flare23_lib.io.nifti import header_for, read_labels, write_volume
from flare23_lib.labels import LabelMap

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPE = (200, 512, 512)
COARSENESS = 0.2
SPECKS = 300
MARGIN = 30
RUNS = 5
Timing = dict[str, float]
Scores = dict[str, tuple[float, float]]
Side = Callable[[Path, Path, LabelMap], tuple[Scores, Timing]]


def draw_case(folder: Path) -> None:
    """Write the reference and three predictions: warped, with specks nearby, with specks all over the image."""
    from flare23_lib.phantom import draw_phantom

    rng = np.random.default_rng(0)
    phantom = draw_phantom(rng, tumors=True, coarseness=COARSENESS)
    labels = np.where(phantom.tumors, 14, phantom.organs).astype(np.uint8)
    reference = np.zeros(SHAPE, np.uint8)
    slices, rows, columns = (min(a, b) for a, b in zip(SHAPE, labels.shape, strict=True))
    top, left = (SHAPE[1] - rows) // 2, (SHAPE[2] - columns) // 2
    reference[:slices, top : top + rows, left : left + columns] = labels[:slices, :rows, :columns]
    prediction = warped(reference, rng)
    volumes = {"reference": reference, "prediction": prediction, "specks": prediction.copy()}
    volumes["scattered"] = prediction.copy()
    for value in range(1, 15):
        around = [(index.min() - MARGIN, index.max() + MARGIN) for index in np.nonzero(reference == value)]
        box = [(max(0, low), min(size, high)) for (low, high), size in zip(around, SHAPE, strict=True)]
        volumes["specks"][tuple(rng.integers(low, high, SPECKS) for low, high in box)] = value
        volumes["scattered"][tuple(rng.integers(0, size, SPECKS) for size in SHAPE)] = value
    header = header_for(SHAPE, phantom.affine, np.dtype(np.uint8))
    for name, volume in volumes.items():
        write_volume(folder / f"{name}.nii.gz", volume, header)


def warped(volume: np.ndarray, rng: np.random.Generator, voxels: float = 1.5) -> np.ndarray:
    """Move every voxel by a smooth random shift of about so many voxels along each axis."""
    from scipy import ndimage

    places = []
    for axis, size in enumerate(volume.shape):
        field = ndimage.zoom(rng.standard_normal((6, 8, 8)), np.divide(volume.shape, (6, 8, 8)), order=1)
        own = np.arange(size).reshape([-1 if other == axis else 1 for other in range(3)])
        places.append(np.clip(np.rint(own + voxels * field), 0, size - 1).astype(np.int32))
    return volume[tuple(places)]


def ours(reference: Path, prediction: Path, labels: LabelMap) -> tuple[Scores, Timing]:
    """Read and score with the library."""
    from flare23_lib.evaluation.metrics import score_case

    begun = time.perf_counter()
    first, second = read_labels(reference), read_labels(prediction)
    read = time.perf_counter()
    scores = score_case(first.array, second.array, first.geometry.spacing, labels, "flare23")
    done = time.perf_counter()
    timing = {"read": read - begun, "score": done - read, "total": done - begun}
    return {name: (score["DSC"], score["NSD"]) for name, score in scores.items()}, timing


def official(reference: Path, prediction: Path, labels: LabelMap) -> tuple[Scores, Timing]:
    """Read and score as the challenge's script does: each class by itself, on masks of the whole volume."""
    import nibabel as nib
    import surface_distance

    from flare23_lib.evaluation.metrics import MIN_DSC_FOR_NSD

    begun = time.perf_counter()
    image = nib.Nifti1Image.from_filename(reference)
    spacing = image.header.get_zooms()[:3]
    first = image.get_fdata().astype(np.int8)
    second = nib.Nifti1Image.from_filename(prediction).get_fdata().astype(np.int8)
    read = time.perf_counter()
    scores = {}
    for label in labels.labels:
        masks = [first == label.value, second == label.value]
        if not masks[0].any() or not masks[1].any():
            scores[label.name] = (float(masks[0].any() == masks[1].any()),) * 2
            continue
        if label.scored == "reference_slices":
            slices = np.flatnonzero(masks[0].any(axis=(0, 1)))
            masks = [mask[:, :, slices[0] : slices[-1]] for mask in masks]
        dsc = surface_distance.compute_dice_coefficient(*masks)
        nsd = 0.0
        if dsc >= MIN_DSC_FOR_NSD:
            distances = surface_distance.compute_surface_distances(*masks, spacing)
            nsd = surface_distance.compute_surface_dice_at_tolerance(distances, label.tolerance_mm)
        scores[label.name] = (float(dsc), float(nsd))
    done = time.perf_counter()
    return scores, {"read": read - begun, "score": done - read, "total": done - begun}


def run(side: Side, reference: Path, prediction: Path, labels: LabelMap, runs: int) -> tuple[Scores, Timing]:
    """Run one side so many times; the median of each time, and the peak memory of all in MB of 2**20.

    `cpu` is the processor time of reading and scoring: what other load on the machine changes least.
    """
    results = []
    for _ in range(runs):
        begun = time.process_time()
        scores, timing = side(reference, prediction, labels)
        results.append((scores, {**timing, "cpu": time.process_time() - begun}))
    timing = {name: round(statistics.median(one[name] for _, one in results), 3) for name in results[0][1]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return results[0][0], {**timing, "peak_mb": round(peak)}


def alone(side: Side, reference: Path, prediction: Path, labels: LabelMap, runs: int) -> tuple[Scores, Timing]:
    """Call `run` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, side, reference, prediction, labels, runs).result()


def main() -> None:
    """Run both sides on both predictions, print the ratios and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "evaluation.json")
    output = parser.parse_args().output
    labels = Config.load([REPOSITORY / "config.yaml"]).label_map
    load = os.getloadavg()[0]
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(draw_case, folder).result()
        for name in ("prediction", "specks"):
            results[name] = compare(folder / "reference.nii.gz", folder / f"{name}.nii.gz", labels)
        _, alone_timing = alone(ours, folder / "reference.nii.gz", folder / "scattered.nii.gz", labels, RUNS)
        results["scattered"] = {"ours": alone_timing}
        print(f"scattered    ours {alone_timing['total']:.2f} s (processor {alone_timing['cpu']:.2f})")
    case = {"shape": SHAPE, "classes": len(labels.labels), "specks": SPECKS, "runs": RUNS}
    loads = {"load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    write_json(output, {**provenance(), "case": case, **loads, **results})


def compare(reference: Path, prediction: Path, labels: LabelMap) -> dict:
    """Run both sides on one prediction and print what came of it."""
    theirs_scores, theirs = alone(official, reference, prediction, labels, 1)
    our_scores, our = alone(ours, reference, prediction, labels, RUNS)
    pairs = [(our_scores[label], theirs_scores[label]) for label in labels.names]
    difference = max(abs(a - b) for pair in pairs for a, b in zip(*pair, strict=True))
    ratio, cpu_ratio = (theirs[name] / our[name] for name in ("total", "cpu"))
    print(
        f"{prediction.name.split('.')[0]:12} official {theirs['total']:.2f} s, {theirs['peak_mb']} MB; "
        f"ours {our['total']:.2f} s (scoring {our['score']:.2f}, processor {our['cpu']:.2f}), {our['peak_mb']} MB; "
        f"{ratio:.1f} times faster ({cpu_ratio:.1f} by processor time); largest difference {difference:.1e}"
    )
    ratios = {"ratio": round(ratio, 1), "ratio_cpu": round(cpu_ratio, 1)}
    return {"official": theirs, "ours": our, **ratios, "difference": difference}


if __name__ == "__main__":
    main()
