"""The memory of a prediction on the largest geometry of FLARE23, 2,651 slices of 512x512, under several limits.

    python benchmarks/inference_memory.py

Runs `flare23 predict` in a process of its own for each limit and prints its peak resident memory and that peak's
share of the limit. The image is a cylinder of tissue in air (int16, uncompressed, 1.4 GB, in a temporary folder); the
network is a small one with the deployed student's patch and spacing, so that the run is about memory and not about
arithmetic. A limit that cannot be kept must be refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.model import Model, ModelLabel
from flare23_lib.io.atomic import write_json
from flare23_lib.io.nifti import header_for
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.preprocessing.intensity import Intensity

SHAPE, SPACING = (2651, 512, 512), (0.7, 0.869141, 0.869141)
"""The first row of FLARE23's geometries sorted by slices."""


def write_image(path: Path, slices: int) -> None:
    """Write the image plane by plane."""
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    plane = np.where(((y - 256) / 150) ** 2 + ((x - 256) / 215) ** 2 <= 1, 40, -1000).astype(np.int16)
    header = header_for((1, 1, 1), np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0]), plane.dtype)
    header.set_data_shape((SHAPE[2], SHAPE[1], slices))
    header.set_zooms(SPACING[::-1])
    header["magic"], header["vox_offset"] = b"n+1", 352
    with path.open("wb") as handle:
        handle.write(header.binaryblock.ljust(352, b"\0"))
        for _ in range(slices):
            handle.write(plane.tobytes())


def write_model(folder: Path) -> None:
    """Write a bundle with random weights: 15 classes, 4 channels."""
    architecture = STUNetArchitecture.of([1, 1, 1], [4, 4, 8], [[1, 1, 1], [2, 4, 4], [2, 4, 4]])
    torch.manual_seed(0)
    network = STUNet(1, 15, **architecture.to_json())
    network.apply(network.initialize)
    labels = tuple(ModelLabel(f"label_{value}", value) for value in range(15))
    model = Model(
        name="memory", network=architecture, patch_size=(48, 128, 160), spacing=(2.5, 1.5, 1.5), labels=labels,
        intensity=Intensity(-970, 279, 80.3, 141.4), orientation="stored",
    )  # fmt: skip
    write_bundle(folder, model, network.state_dict())


def run(work: Path, limit: int) -> dict[str, object]:
    """Predict under a limit in MB."""
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", str(work / "model")]
    command += ["--input", str(work / "image_0000.nii"), "--output", str(work / "labels.nii.gz"), "--overwrite"]
    command += ["--device", "cpu", "--memory", str(limit), "--step", "0.8", "--windows", "body"]
    with (work / "log.txt").open("w") as handle:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    lines = (work / "log.txt").read_text().splitlines()
    said = [line for line in lines if "memory: " in line or "needs " in line]
    peak = usage.ru_maxrss * 1024 / 1e6
    return {
        "limit_MB": limit, "refused": status != 0, "peak_MB": round(peak), "share": round(peak / limit, 3),
        "seconds": round(seconds, 1), "log": (said or lines or [""])[0].split(" ", 2)[-1].replace(f"{work}/", ""),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", type=int, nargs="+", default=[8000, 3000, 1500])
    parser.add_argument("--slices", type=int, default=SHAPE[0], help="fewer, for a first look")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference_memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_image(work / "image_0000.nii", args.slices)
        write_model(work / "model")
        rows = [run(work, limit) for limit in args.limits]
    for row in rows:
        print(row, flush=True)
    if args.slices == SHAPE[0]:
        write_json(args.output, {**provenance(), "shape": list(SHAPE), "spacing": list(SPACING), "runs": rows})


if __name__ == "__main__":
    main()
