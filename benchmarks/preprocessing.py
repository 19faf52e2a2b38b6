"""Preprocessing of one case: time, memory and bytes, against nnU-Net's own preprocessor on the same files.

Both sides read the same two files and write what nnU-Net's data loader reads, each in a process of its own, so that
the peak of its memory is its own. nnU-Net runs twice: with our plans (the same trilinear resampling) and with its
default resampling. `--largest` gives our side alone the cases of FLARE23 that take most: 2,651 slices, and the
geometry with the most voxels after resampling.

    python benchmarks/preprocessing.py
    python benchmarks/preprocessing.py --largest
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from provenance import provenance

from flare23_lib.config import Config
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.preprocessing.resampling import Intensity, resampled_shape

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "preprocessing.json"

USUAL = {"shape": (150, 512, 512), "spacing": (2.5, 0.8, 0.8)}
"""About FLARE23's median case (39.6 Mvoxel)."""

LARGEST = {"shape": (2651, 512, 512), "spacing": (0.7, 0.869141, 0.869141)}
"""FLARE23's largest case."""

FAR = {"shape": (791, 512, 512), "spacing": (2.5, 0.976562, 0.976562)}
"""A geometry that gives as many resampled voxels as any of FLARE23's cases: 88 and 294 million."""

TARGETS = {"student": (2.5, 1.5, 1.5), "teacher": (2.5, 0.82, 0.82)}
PATCHES = {"student": (48, 128, 160), "teacher": (48, 192, 192)}


def write_case(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...], classes: int) -> None:
    """Write an image of noisy ellipsoids in air and their labels, slice by slice made."""
    rng = np.random.default_rng(0)
    image = np.full(shape, -1000, np.int16)
    labels = np.zeros(shape, np.uint8)
    noise = rng.integers(-30, 30, (8, *shape[1:]), dtype=np.int16)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[1:]), indexing="ij")
    centers = rng.uniform(-0.5, 0.5, (classes, 3))
    radii = rng.uniform(0.08, 0.25, (classes, 3))
    for index, z in enumerate(np.linspace(-1, 1, shape[0])):
        image[index][(y / 0.7) ** 2 + (x / 0.9) ** 2 < 1] = 40
        for value, (center, radius) in enumerate(zip(centers, radii, strict=True), start=1):
            distance = ((z - center[0]) / radius[0]) ** 2
            if distance < 1:
                inside = distance + ((y - center[1]) / radius[1]) ** 2 + ((x - center[2]) / radius[2]) ** 2 < 1
                image[index][inside] = 60 + 10 * value
                labels[index][inside] = value
        image[index] += noise[index % len(noise)]
    affine = np.diag([*spacing[::-1], 1.0])
    for name, array in (("ct_0000.nii.gz", image), ("ct.nii.gz", labels)):
        write_volume(folder / name, array, header_for(array.shape, affine, array.dtype))


def ours(folder: Path, target: str, part: str) -> None:
    """Preprocess with our functions."""
    from flare23_lib.preprocessing.preprocess import TrainingGrid, preprocess_image, preprocess_labels

    config = Config.load([ROOT / "config.yaml"])
    intensity = Intensity.of(config.model("student").intensity)
    grid = TrainingGrid(TARGETS[target], "stored", PATCHES[target])
    if part != "labels":
        preprocess_image(folder / "ct_0000.nii.gz", folder / "out.b2nd", grid, intensity)
    if part != "image":
        preprocess_labels(folder / "ct.nii.gz", folder / "out_seg.b2nd", grid, config.label_map.values)


def nnunet(folder: Path, target: str, default_resampling: bool) -> None:
    """Preprocess with nnU-Net's class, by plans of ours, with its default resampling if that is wanted."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from flare23_lib.nnunet.plans import CONFIGURATION, dataset_json, plans

    config = Config.load([ROOT / "config.yaml"])
    content = plans(config.training_settings("organ_teacher" if target == "teacher" else "student"))
    if default_resampling:
        default = {"force_separate_z": None, "order_z": 0}
        content["configurations"][CONFIGURATION] |= {
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {**default, "is_seg": False, "order": 3},
            "resampling_fn_seg_kwargs": {**default, "is_seg": True, "order": 1},
        }
    manager = PlansManager(content)
    DefaultPreprocessor(verbose=False).run_case_save(
        str(folder / "out"), [str(folder / "ct_0000.nii.gz")], str(folder / "ct.nii.gz"), manager,
        manager.get_configuration(CONFIGURATION), dataset_json(config.label_map.names, True, []),
    )  # fmt: skip


def peak_mb() -> int:
    """Return the most memory that this process has had, in MB (getrusage would count that of its parent)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def run_side(side: str, folder: Path, target: str) -> None:
    """Preprocess on one side in this process and print what it took."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    if side.startswith("ours"):
        import flare23_lib.preprocessing.preprocess  # noqa: F401 (imports are not what is measured)
    else:
        import nnunetv2.preprocessing.preprocessors.default_preprocessor  # noqa: F401
    wall, cpu = time.perf_counter(), time.process_time()
    if side.startswith("ours"):
        ours(folder, target, side.removeprefix("ours-"))
    else:
        nnunet(folder, target, side == "nnunet-default")
    result = {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "core_seconds": round(time.process_time() - cpu, 2),
        "peak_mb": peak_mb(),
    }
    print(json.dumps(result))


def measure(side: str, folder: Path, target: str) -> dict[str, Any]:
    """Run a side in a process of its own and return what it took and the bytes that it wrote."""
    for path in folder.glob("out*"):
        path.unlink()
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    result["bytes"] = {path.name: path.stat().st_size for path in sorted(folder.glob("out*"))}
    return result


def compare(folder: Path, classes: int) -> dict[str, Any]:
    """Measure both sides on a case of the usual size."""
    write_case(folder, *USUAL.values(), classes)
    found: dict[str, Any] = {"case": USUAL}
    for target, spacing in TARGETS.items():
        sides = {side: measure(side, folder, target) for side in ("ours", "nnunet", "nnunet-default")}
        voxels = prod(resampled_shape(*USUAL.values(), spacing))
        for side, result in sides.items():
            result["cases_per_core_hour"] = round(3600 / result["core_seconds"], 1)
            result["bytes_per_voxel"] = round(sum(result["bytes"].values()) / voxels, 3)
            print(f"{target:8} {side:15} {result}")
        ratios = {
            f"{name}_{key}": round(sides[name][key] / sides["ours"][key], 2)
            for name in ("nnunet", "nnunet-default")
            for key in ("wall_seconds", "core_seconds", "peak_mb")
        }
        print(f"{target:8} nnU-Net to ours: {ratios}")
        found[target] = {"resampled_voxels": voxels, **sides, "ratios": ratios}
    return found


def largest(folder: Path, classes: int, share: float) -> dict[str, Any]:
    """Measure our side on the largest cases, or on a share of their slices."""
    found = {}
    for name, case in (("most_slices", LARGEST), ("most_resampled", FAR)):
        shape = (round(case["shape"][0] * share), *case["shape"][1:])
        write_case(folder, shape, case["spacing"], classes)
        found[name] = {"shape": shape, "spacing": case["spacing"]}
        for target in TARGETS:
            for side in ("ours-image", "ours-labels"):
                found[name][f"{target}_{side}"] = result = measure(side, folder, target)
                print(f"{name:15} {target:8} {side:12} {result}", flush=True)
    return found


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", action="store_true", help="the largest cases instead of the usual one")
    parser.add_argument("--share", type=float, default=1.0, help="share of the largest case's slices (default: 1)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder, arguments.target)
        return
    classes = len(Config.load([ROOT / "config.yaml"]).label_map.values)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.largest:
            result = {"largest": largest(Path(folder), classes, arguments.share)}
        else:
            result = {"usual": compare(Path(folder), classes)}
    kept = read_json(RESULT) if RESULT.exists() else {}
    if arguments.share == 1:
        write_json(RESULT, {**kept, **provenance(), **result})


if __name__ == "__main__":
    main()
