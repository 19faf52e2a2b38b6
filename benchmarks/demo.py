"""How long does the demo take, with 16-bit instructions and without?

Draws the demo's phantoms, then runs `presets/demo.yaml` twice from nothing: on this CPU as it is, and with its
instructions limited to AVX2, as on CPUs without AVX-512 BF16. That the limit holds is checked by a convolution:
emulated bfloat16 must take several times as long as float32.

    python benchmarks/demo.py --output benchmarks/results/demo.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phantom_runs import REPOSITORY, run_workflow, scores
from provenance import provenance

from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.tables import read_csv

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Environment that limits oneDNN and PyTorch to AVX2."""

CONVOLUTION = """
import time, torch
def seconds(dtype):
    x, w = torch.ones(2, 16, 16, 24, 24, dtype=dtype), torch.ones(16, 16, 3, 3, 3, dtype=dtype)
    torch.nn.functional.conv3d(x, w, padding=1)
    begun = time.perf_counter()
    torch.nn.functional.conv3d(x, w, padding=1)
    return time.perf_counter() - begun
print(seconds(torch.bfloat16) / seconds(torch.float32))
"""
"""Prints how many times as long a convolution takes in bfloat16 as in float32."""


def bfloat16_cost(environment: dict[str, str]) -> float:
    """Return how many times as long a convolution takes in bfloat16 as in float32."""
    done = subprocess.run(
        [sys.executable, "-c", CONVOLUTION], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return round(float(done.stdout), 2)


def run(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run the demo in a folder that holds its phantoms; returns seconds and scores."""
    os.environ.update(environment)
    started = time.perf_counter()
    try:
        run_workflow(folder, [REPOSITORY / "presets" / "demo.yaml"], {}, [])
    finally:
        for name in environment:
            del os.environ[name]
    seconds = time.perf_counter() - started
    results = folder / "demo" / "results"
    found = next(row for row in read_csv(results / "evaluation/student/detection.csv") if row["diameter"] == "all")
    dsc = scores(results, "student")
    return {
        "seconds": round(seconds),
        "precision": read_json(results / "training/student/training.json")["used"]["computed_in"],
        "organ_DSC": round(dsc["organs"], 4),
        "tumor_DSC": round(dsc["tumor"], 4),
        "tumors": int(found["tumors"]),
        "tumors_found": int(found["found"]),
    }


def main() -> None:
    """Run the demo on both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    result: dict[str, Any] = {**provenance()}
    for name, environment in (("AVX2", AVX2), ("as it is", {})):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            subprocess.run(
                [sys.executable, "-m", "flare23_lib.cli", "phantoms", "--output", str(folder / "demo" / "cohort"),
                 "--cases", "32", "--validation", "6", "--seed", "0"],
                check=True, capture_output=True,
            )  # fmt: skip
            cost = bfloat16_cost(environment)
            result[name] = {"bfloat16_cost": cost, **run(folder, environment)}
        print(name, result[name], flush=True)
    result["ratio"] = round(result["AVX2"]["seconds"] / result["as it is"]["seconds"], 2)
    print(f"without 16-bit instructions the demo takes {result['ratio']} times as long")
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()
