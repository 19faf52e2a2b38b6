"""How long one case takes, and in how much memory: nnU-Net's own predictor and ours, whole processes, in one run.

    python benchmarks/inference.py --folder FOLDER

FOLDER is for what the benchmark runs on; `inference_case.py` describes it, and what is not there yet is made first.
The case has 448x512x512 voxels at 1.5x0.875x0.875 mm. nnU-Net's side runs at its defaults: step 0.5, its resampling,
no mirroring, float16 on a GPU and float32 elsewhere. Ours runs with equal settings first (step, precision, all
windows), then in the fastest precision, then as it is deployed (step 0.8 and windows over the body). On a GPU:

    python benchmarks/inference.py --folder FOLDER --network stunet_base --device cuda --output FILE
    python benchmarks/inference.py --folder FOLDER --network stunet_large --device cuda --tta --small \
        --sides ours_all_windows_float16 nnunet --gpu-memory 40000 --output FILE

`--small` takes the quarter of the slices in the middle. Such figures, and those of some sides only, are kept where
`--output` says so, and nowhere else. The file is written after each side.

Beside the seconds stands the processors' time (user and system): on a machine that does other work too, the seconds
say little and their ratio less. Memory of a GPU is that of the whole device, through NVML, as in the challenge: MB of
2**20 bytes, the area under the curve by the trapezoid rule and by the challenge's sum of polls; what the device held
before the process began is in it and stands beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from inference_case import NNUNET_PRECISION, RECIPES, case_path
from provenance import provenance

from flare23_lib.evaluation.profiling import MB, find_gpu, profile_command
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.nifti import read_volume, write_volume

log = logging.getLogger(__name__)

DEPLOYED = ("--step", "0.8", "--windows", "body", "--memory", "3000")
EQUAL = ("--step", "0.5", "--windows", "all")
NNUNET = "nnunet"

NO_GPU = "NVML finds no GPU here: its memory was not measured"


def sides_of(device: str, precision: str) -> dict[str, tuple[str, ...]]:
    """Return what is run: the options of `flare23 predict` by name; nnU-Net's side has none of ours."""
    equal = NNUNET_PRECISION[device]
    sides = {
        f"ours_all_windows_{equal}": (*EQUAL, "--precision", equal),
        NNUNET: (),
        "ours_all_windows": (*EQUAL, "--precision", precision),
        "ours_deployed": (*DEPLOYED, "--precision", precision),
    }
    if device != "cpu":
        sides["ours_all_windows_float32"] = (*EQUAL, "--precision", "float32")
    return sides


def process(command: list[str], work: Path) -> dict[str, Any]:
    """Run a process; returns its seconds, its processors' seconds, its peak resident memory in MB, and a GPU's."""
    gpu = find_gpu()
    with (work / "log.txt").open("wb") as handle:
        profile, code = profile_command(command, gpu, handle)
    if code:
        raise RuntimeError((work / "log.txt").read_text()[-2000:])
    measured: dict[str, Any] = {
        "seconds": round(float(profile.seconds[-1]), 2),
        "processor_seconds": round(float(profile.cpu_seconds[-1]), 1),
        "peak_MB": round(profile.ram_mb.max() * MB / 1e6),
    }
    if gpu is None:
        return measured | {"gpu_memory": NO_GPU}
    figures = {
        "before_MB": profile.gpu_mb[0],
        "peak_MB": profile.gpu_mb.max(),
        "area_MB_s": profile.area(profile.gpu_mb),
        "official_area_MB_s": profile.official_area(profile.gpu_mb),
    }
    return measured | {"gpu_memory": {name: round(value) for name, value in figures.items()}}


def ours(image: Path, bundle: Path, device: str, options: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Run `flare23 predict` on the case."""
    report, labels = work / "run.json", work / "labels.nii.gz"
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", str(bundle), "--input", str(image)]
    command += ["--output", str(labels), "--run-report", str(report), "--device", device, "--overwrite", *options]
    result = process(command, work)
    (case,) = read_json(report)["cases"]
    said = [line.split(" ", 2)[2] for line in (work / "log.txt").read_text().splitlines() if line.count(" ") > 2]
    result["phases"] = case["seconds"]
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
    return result | json.loads((work / "nnunet.json").read_text())


def nnunet_process(image: Path, bundle: Path, device: str, tta: bool, work: Path) -> None:
    """Be nnU-Net's side."""
    began = time.perf_counter()
    from nnunet_side import NNUNet, reader_writer

    from flare23_lib.inference.bundle import load_bundle

    phases = {"start_up": time.perf_counter() - began}
    began = time.perf_counter()
    predictor = NNUNet(load_bundle(bundle), device, 0.5, mirroring=tta, default_resampling=True)
    phases["weights"] = time.perf_counter() - began
    files = reader_writer()
    began = time.perf_counter()
    array, properties = files.read_images([str(image)])
    phases["read"] = time.perf_counter() - began
    labels, seconds = predictor.segment(array[0], properties["spacing"])
    phases |= seconds
    began = time.perf_counter()
    files.write_seg(labels, str(work / "labels.nii.gz"), properties)
    phases["write"] = time.perf_counter() - began
    rounded = {name: round(value, 3) for name, value in phases.items()}
    (work / "nnunet.json").write_text(json.dumps({"files": type(files).__name__, "phases": rounded}))


def overlaps(first: Path, second: Path) -> dict[str, float | None]:
    """Dice of every class that one of two label files holds, and the share of foreground."""
    a, b = (read_volume(path).array for path in (first, second))
    table = np.bincount(a.ravel().astype(np.int64) * 256 + b.ravel(), minlength=256**2).reshape(256, 256)
    sizes = table.sum(0) + table.sum(1)
    scores = {str(v): round(2 * int(table[v, v]) / int(sizes[v]), 4) for v in range(1, 256) if sizes[v]}
    return {"foreground": round(float((a > 0).mean()), 4), "least": min(scores.values(), default=None), **scores}


def small_case(image: Path, work: Path) -> Path:
    """Write the quarter of the case's slices that lies in the middle."""
    volume = read_volume(image)
    header = volume.header.copy()
    quarter = len(volume.array) // 4
    array = np.ascontiguousarray(volume.array[len(volume.array) // 2 - quarter // 2 :][:quarter])
    header.set_data_shape(array.shape[::-1])
    write_volume(work / "small_0000.nii.gz", array, header)
    return work / "small_0000.nii.gz"


def make(args: argparse.Namespace) -> None:
    """Make case and model in a process of its own, so that this one holds nothing on a GPU."""
    script = Path(__file__).with_name("inference_case.py")
    command = [sys.executable, str(script), "--folder", str(args.folder), "--network", args.network]
    subprocess.run([*command, "--minutes", str(args.minutes), "--device", args.device], check=True)


def compare(args: argparse.Namespace, work: Path, results: dict[str, Any]) -> None:
    """Run the sides, and write the results after each."""
    make(args)
    image = small_case(case_path(args.folder), work) if args.small else case_path(args.folder)
    bundle = args.folder / args.network
    more = [*(["--tta"] if args.tta else []), *(["--gpu-memory", str(args.gpu_memory)] if args.gpu_memory else [])]
    for name, options in sides_of(args.device, args.precision).items():
        if args.sides and name not in args.sides:
            continue
        (work / name).mkdir()
        try:
            if name == NNUNET:
                results[name] = nnunets(image, bundle, args.device, args.tta, work / name)
            else:
                results[name] = ours(image, bundle, args.device, (*options, *more), work / name)
        except RuntimeError as error:  # the other sides have their figures nevertheless
            results[name] = {"failed": str(error)}
        log.info("%s: %s", name, results[name])
        against_nnunet(results, work)
        if args.output:
            write_json(args.output, results)


def against_nnunet(results: dict[str, Any], work: Path) -> None:
    """Set our sides that are done beside nnU-Net's: the ratios of times, and how far the labels agree."""
    theirs = results.get(NNUNET, {})
    if "seconds" not in theirs:
        return
    for name, ours in results.items():
        if name.startswith("ours") and "seconds" in ours and "ratio" not in ours:
            ours["ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
            ours["processor_ratio"] = round(theirs["processor_seconds"] / ours["processor_seconds"], 2)
            ours["dice_with_nnunet"] = overlaps(work / name / "labels.nii.gz", work / NNUNET / "labels.nii.gz")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where case and model are kept")
    parser.add_argument("--network", default="stunet_small", choices=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=10, help="of training, if there is no model yet")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16", "float16"],
                        help="the fastest one (default: what `flare23 predict` takes for it)")  # fmt: skip
    parser.add_argument("--gpu-memory", type=int, help="limit of ours in MB (default: that of `flare23 predict`)")
    parser.add_argument("--tta", action="store_true", help="mirrored passes on both sides")
    parser.add_argument("--small", action="store_true", help="a quarter of the slices")
    parser.add_argument("--sides", nargs="+", help="only these of the result's names (default: all)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/inference.json for the whole")
    parser.add_argument("--nnunet", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.nnunet:
        nnunet_process(args.nnunet, args.folder, args.device, args.tta, args.output)
        return
    known = list(sides_of(args.device, args.precision))
    if unknown := set(args.sides or ()) - set(known):
        parser.error(f"--sides: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if not args.output and not args.small and not args.sides:
        args.output = Path(__file__).parent / "results" / "inference.json"
    results: dict[str, Any] = {
        **provenance(), "network": args.network, "device": args.device, "tta": args.tta, "small": args.small,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        compare(args, Path(work), results)
    done = {name: results[name] for name in known if name in results}
    for name, found in done.items():
        if "failed" in found:
            print(f"{name:26} failed: {found['failed'].splitlines()[-1]}")
            continue
        ratio = f", {found['ratio']} times nnU-Net's speed" if "ratio" in found else ""
        spent = found["processor_seconds"]
        print(f"{name:26} {found['seconds']:7.1f} s ({spent} s of processors) {found['peak_MB']:6} MB{ratio}")
    sys.exit(any("failed" in found for found in done.values()))


if __name__ == "__main__":
    main()
