"""How long one case takes, and in how much memory: nnU-Net's own predictor and ours, whole processes, in one run.

    python benchmarks/inference.py --folder FOLDER

FOLDER is for what the benchmark runs on; `inference_case.py` describes it, and what is not there yet is made first.
The case has 448x512x512 voxels at 1.5x0.875x0.875 mm. nnU-Net's side runs at its defaults: step 0.5, its resampling,
no mirroring. Ours runs as it is deployed (step 0.8, windows over the body, the fastest precision) and, to be fair, at
nnU-Net's own step with all windows of the image, in the fastest precision and in float32. On a GPU:

    python benchmarks/inference.py --folder FOLDER --network stunet_base --device cuda --output FILE
    python benchmarks/inference.py --folder FOLDER --network stunet_large --device cuda --tta --output FILE

`--small` takes the quarter of the slices in the middle, for a first look; its figures are not kept.

Beside the seconds stands the processors' time (user and system): on a machine that does other work too, the seconds
say little and their ratio less.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from inference_case import case_path, make
from provenance import provenance

from flare23_lib.images import read_volume, write_volume
from flare23_lib.store import read_csv, write_json

log = logging.getLogger(__name__)

DEPLOYED = ("--step", "0.8", "--windows", "body")
EQUAL = ("--step", "0.5", "--windows", "all")


def process(command: list[str], work: Path) -> dict[str, float]:
    """Run a process; returns its seconds, its processors' seconds and its peak resident memory in MB, by wait4."""
    with (work / "log.txt").open("w") as handle:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        raise RuntimeError((work / "log.txt").read_text()[-2000:])
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_MB": round(usage.ru_maxrss * 1024 / 1e6),
    }


def ours(image: Path, bundle: Path, device: str, options: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Run `flare23 predict` on the case."""
    timings, labels = work / "timings.csv", work / "labels.nii.gz"
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", str(bundle), "--input", str(image)]
    command += ["--output", str(labels), "--timings", str(timings), "--device", device, "--overwrite", *options]
    result = process(command, work)
    (row,) = read_csv(timings)
    said = [line.split(" ", 2)[2] for line in (work / "log.txt").read_text().splitlines() if line.count(" ") > 2]
    result["phases"] = {name: float(value) for name, value in row.items() if name != "case"}
    # Whatever is not windows, labels, writing, so that the end of the process is in it too.
    after = sum(result["phases"][name] for name in ("windows", "labels", "write"))
    result["first_window_within_s"] = round(result["seconds"] - after, 2)
    result["log"] = [line for line in said if line.startswith(("precision", "memory", "windows", "runs"))]
    result["options"] = " ".join(options)
    return result


def nnunets(image: Path, bundle: Path, device: str, tta: bool, work: Path) -> dict[str, Any]:
    """Run nnU-Net's predictor on the case, in a process of its own."""
    command = [sys.executable, __file__, "--nnunet", str(image), "--folder", str(bundle), "--output", str(work)]
    command += ["--device", device, *(["--tta"] if tta else [])]
    result = process(command, work)
    return result | {"phases": json.loads((work / "phases.json").read_text())}


def nnunet_process(image: Path, bundle: Path, device: str, tta: bool, work: Path) -> None:
    """Be nnU-Net's side."""
    began = time.perf_counter()
    from nnunet_side import NNUNet
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    from flare23_lib.inference.bundle import load_bundle

    phases = {"start_up": time.perf_counter() - began}
    began = time.perf_counter()
    predictor = NNUNet(load_bundle(bundle), device, 0.5, mirroring=tta, default_resampling=True)
    phases["weights"] = time.perf_counter() - began
    began = time.perf_counter()
    array, properties = SimpleITKIO().read_images([str(image)])
    phases["read"] = time.perf_counter() - began
    labels, seconds = predictor.segment(array[0], properties["spacing"])
    phases |= seconds
    began = time.perf_counter()
    SimpleITKIO().write_seg(labels, str(work / "labels.nii.gz"), properties)
    phases["write"] = time.perf_counter() - began
    (work / "phases.json").write_text(json.dumps({name: round(value, 3) for name, value in phases.items()}))


def overlaps(first: Path, second: Path) -> dict[str, float]:
    """Dice of every class that one of two label files holds, and the share of foreground."""
    a, b = (read_volume(path).array for path in (first, second))
    table = np.bincount(a.ravel().astype(np.int64) * 256 + b.ravel(), minlength=256**2).reshape(256, 256)
    sizes = table.sum(0) + table.sum(1)
    scores = {str(v): round(2 * int(table[v, v]) / int(sizes[v]), 4) for v in range(1, 256) if sizes[v]}
    return {"foreground": round(float((a > 0).mean()), 4), "least": min(scores.values()), **scores}


def small_case(image: Path, work: Path) -> Path:
    """Write the quarter of the case's slices that lies in the middle."""
    volume = read_volume(image)
    header = volume.header.copy()
    quarter = len(volume.array) // 4
    array = np.ascontiguousarray(volume.array[len(volume.array) // 2 - quarter // 2 :][:quarter])
    header.set_data_shape(array.shape[::-1])
    write_volume(work / "small_0000.nii.gz", array, header)
    return work / "small_0000.nii.gz"


def compare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all sides."""
    make(args.folder, args.network, args.minutes)
    image = small_case(case_path(args.folder), work) if args.small else case_path(args.folder)
    bundle = args.folder / args.network
    mirrored = ("--tta",) if args.tta else ()
    sides = {
        "ours_deployed": (*DEPLOYED, *mirrored, "--memory", "3000"),
        "ours_all_windows": (*EQUAL, *mirrored),
        "ours_all_windows_float32": (*EQUAL, *mirrored, "--precision", "float32"),
    }
    results: dict[str, Any] = {}
    for name, options in sides.items():
        (work / name).mkdir()
        results[name] = ours(image, bundle, args.device, options, work / name)
        log.info("%s: %s", name, results[name])
    if not args.ours_only:
        (work / "nnunet").mkdir()
        results["nnunet"] = nnunets(image, bundle, args.device, args.tta, work / "nnunet")
        log.info("nnunet: %s", results["nnunet"])
        for name in sides:
            results[name]["ratio"] = round(results["nnunet"]["seconds"] / results[name]["seconds"], 2)
            spent = results["nnunet"]["processor_seconds"] / results[name]["processor_seconds"]
            results[name]["processor_ratio"] = round(spent, 2)
            results[name]["dice_with_nnunet"] = overlaps(work / name / "labels.nii.gz", work / "nnunet/labels.nii.gz")
    return results


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where case and model are kept")
    parser.add_argument("--network", default="stunet_small")
    parser.add_argument("--minutes", type=float, default=10, help="of training, if there is no model yet")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tta", action="store_true", help="mirrored passes on both sides")
    parser.add_argument("--small", action="store_true", help="a quarter of the slices; nothing is kept")
    parser.add_argument("--ours-only", action="store_true", help="leave nnU-Net out; nothing is kept")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference.json")
    parser.add_argument("--nnunet", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.nnunet:
        nnunet_process(args.nnunet, args.folder, args.device, args.tta, args.output)
        return
    with tempfile.TemporaryDirectory() as work:
        results = compare(args, Path(work))
    for name, result in results.items():
        ratio = f", {result['ratio']} times nnU-Net's speed" if "ratio" in result else ""
        spent = result["processor_seconds"]
        print(f"{name:26} {result['seconds']:7.1f} s ({spent} s of processors) {result['peak_MB']:6} MB{ratio}")
    if not args.small and not args.ours_only:
        write_json(args.output, {**provenance(), "network": args.network, "device": args.device, **results})


if __name__ == "__main__":
    main()
