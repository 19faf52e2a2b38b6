"""What a busy machine costs `flare23 predict`, with threads that wait by spinning and by sleeping.

    python benchmarks/busy.py --folder FOLDER [--repeats 3] [--output FILE]

The command starts with as many threads as there are cores. Where other programs use these cores too, a thread waits
at the end of each parallel region for one that is not running. GNU's OpenMP, which PyTorch's wheels have on Linux,
spins meanwhile (`GOMP_SPINCOUNT` 300,000, libgomp's manual), on a core that the other thread could use; with
`OMP_WAIT_POLICY=passive`, which the command sets, it sleeps. Both are timed in turn on an idle and on a busy machine:
beside one endless loop for each core. A CT of half the resolution of `inference_case.py`'s, STU-Net-S, nearly random
weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inference_case import Making, case_path, make
from provenance import provenance

from flare23_lib.io.atomic import write_json
from flare23_lib.io.tables import read_csv
from flare23_lib.runtime.machine import available_cores

NETWORK = "stunet_small"
SIDES = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {}}


def predict_seconds(folder: Path, environment: dict[str, str]) -> float:
    """Return the seconds that the windows of the case take in a process of its own."""
    timings = folder / "timings.csv"
    subprocess.run(
        [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", folder / NETWORK, "--input",
         case_path(folder), "--output", folder / "labels", "--timings", timings, "--device", "cpu", "--overwrite"],
        env={**os.environ, **environment}, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return float(read_csv(timings)[0]["windows"])


def measure(folder: Path, loops: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of both sides, in turn, beside a number of endless loops."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        for _ in range(loops):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        for _ in range(repeats):
            for side, environment in SIDES.items():
                seconds[side].append(predict_seconds(folder, environment))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return {"seconds": seconds, "ratio": round(medians["spinning"] / medians["sleeping"], 2)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where case and model are kept")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    make(args.folder, NETWORK, Making(minutes=0.01, phantoms=1, coarseness=2))
    found = {
        "idle": measure(args.folder, 0, args.repeats),
        "busy": measure(args.folder, available_cores(), args.repeats),
    }
    for state, sides in found.items():
        print(f"{state}: {sides['seconds']} s, spinning takes {sides['ratio']} times as long")
    if args.output:
        write_json(args.output, {**provenance(), **found})


if __name__ == "__main__":
    main()
