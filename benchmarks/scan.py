"""How fast is the scan of label files, and in how much memory?

Writes label maps of real size and content (512 x 512 x 100 to 200 voxels, organs as blobs), reads them with nibabel
(`get_fdata` and `np.unique`) and with the scan, one process each, and prints the ratio; then scans a third and all of
them with all cores, to see that memory does not grow, and images whole and by their headers.

    python benchmarks/scan.py --output benchmarks/results/scan.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from provenance import provenance

from flare23_lib.dataset.image_info import read_info
from flare23_lib.io import nifti
from flare23_lib.io.atomic import write_json

FLARE23_LABELS = 2200
FLARE23_GVOXEL = 303
SPACING = (2.5, 0.8, 0.8)


def header(array: np.ndarray):
    """Return a plain header for an array (z, y, x)."""
    return nifti.header_for(array.shape, np.diag([-0.8, -0.8, 2.5, 1.0]), array.dtype)


def label_map(seed: int) -> np.ndarray:
    """Return 14 ellipsoids with rough surfaces, some with holes, in 512 x 512 x 100 to 200 voxels."""
    random = np.random.default_rng(seed)
    array = np.zeros((int(random.integers(100, 201)), 512, 512), np.uint8)
    for value in range(1, 15):
        radius = random.uniform([0.05, 0.03, 0.03], [0.25, 0.15, 0.15]) * array.shape
        center = random.uniform(0.3, 0.7, 3) * array.shape
        low = np.maximum(0, np.floor(center - radius)).astype(int)
        high = np.minimum(array.shape, np.ceil(center + radius)).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radius, strict=True))
        rough = distance + random.normal(0, 0.03, distance.shape) < 1
        array[box][rough] = value
    return array


def ct(seed: int) -> np.ndarray:
    """Return air, tissue and noise in 512 x 512 x 100 voxels: it compresses about as a CT does."""
    random = np.random.default_rng(seed)
    array = np.full((100, 512, 512), -1000, np.int16)
    body = array[:, 100:420, 60:450]
    body[:] = random.normal(40, 20, body.shape).astype(np.int16)
    return array


def read_with_nibabel(path: Path) -> dict[int, int]:
    """Return voxels per value, as scripts often count them."""
    values, counts = np.unique(nib.Nifti1Image.from_filename(path).get_fdata(), return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}


def timed(function, *arguments):
    """Return seconds and the result."""
    begun = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begun, result


SCAN = """
import json, resource, sys, tempfile, time
from pathlib import Path
from flare23_lib.dataset.read_files import Task, read_files
with tempfile.TemporaryDirectory() as folder:
    begun = time.perf_counter()
    read_files([Task(Path(path), True) for path in sys.argv[2:]], Path(folder) / "memory.jsonl", int(sys.argv[1]))
    seconds = time.perf_counter() - begun
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": seconds, "parent_mb": own / 1024, "child_mb": children / 1024}))
"""


def scan_in_process(paths: list[Path], processes: int) -> dict:
    """Scan labels in a process of its own, and return seconds and the peak memory of it and of its children."""
    code = [sys.executable, "-c", SCAN, str(processes), *map(str, paths)]
    return json.loads(subprocess.run(code, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path, number: int) -> dict:
    """Return all figures."""
    processes = len(os.sched_getaffinity(0))
    labels = [folder / f"label{index}.nii.gz" for index in range(number)]
    for index, path in enumerate(labels):
        array = label_map(index)
        nifti.write_volume(path, array, header(array))
    theirs, counts = timed(lambda: [read_with_nibabel(path) for path in labels])
    ours, facts = timed(lambda: [read_info(path, True) for path in labels])
    if counts != [fact.voxels for fact in facts]:
        raise SystemExit("the two count differently")
    third = scan_in_process(labels[: number // 3], processes)
    whole = scan_in_process(labels, processes)
    voxels = sum(int(np.prod(fact.shape)) for fact in facts)

    volumes = [folder / f"image{index}.nii.gz" for index in range(4)]
    for index, path in enumerate(volumes):
        array = ct(index)
        nifti.write_volume(path, array, header(array))
    gvoxel = len(volumes) * 100 * 512 * 512 / 1e9
    full, _ = timed(lambda: [read_info(path, False) for path in volumes])
    headers, _ = timed(lambda: [read_info(path, False, header_only=True) for path in volumes])
    return {
        "labels": {
            "files": number,
            "mean_mvoxel": round(voxels / number / 1e6, 1),
            "nibabel_s_per_file": round(theirs / number, 3),
            "scan_s_per_file": round(ours / number, 4),
            "ratio": round(theirs / ours, 1),
            "processes": processes,
            "all_cores_s": round(whole["seconds"], 2),
            "extrapolated_to_2200_files_min": round(whole["seconds"] / number * FLARE23_LABELS / 60, 2),
            "peak_mb": {
                f"{number // 3} files": {"parent": round(third["parent_mb"]), "process": round(third["child_mb"])},
                f"{number} files": {"parent": round(whole["parent_mb"]), "process": round(whole["child_mb"])},
            },
        },
        "images": {
            "full_core_s_per_gvoxel": round(full / gvoxel, 2),
            "full_extrapolated_to_303_gvoxel_core_min": round(full / gvoxel * FLARE23_GVOXEL / 60, 1),
            "header_ms_per_file": round(headers / len(volumes) * 1000, 2),
            "compressed_bytes_per_voxel": round(sum(p.stat().st_size for p in volumes) / gvoxel / 1e9, 2),
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {**provenance(), **measure(Path(folder), args.files)}
    print(json.dumps(found, indent=2))
    print(f"labels: nibabel / scan = {found['labels']['ratio']}")
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
