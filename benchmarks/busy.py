"""What a busy machine costs, by how long a thread spins before it sleeps.

    python benchmarks/busy.py --folder FOLDER [--repeats 3] [--output FILE]

A command starts with as many threads as there are cores. Where other programs use these cores too, a thread
waits at the end of each parallel region for one that is not running. GNU's OpenMP, which PyTorch's wheels have
on Linux, spins meanwhile, 300,000 times (`GOMP_SPINCOUNT`, libgomp's manual), on a core that the other thread
could use. Asleep (`OMP_WAIT_POLICY=passive`) it is slow to wake up, which a small network's many short regions
pay for. The command sets a number between, `flare23_lib.cli.SPINS`. All three are timed in turn on an idle and
on a busy machine, beside one endless loop for each core: the windows of `flare23 predict` (a CT of half the
resolution of `inference_case.py`'s, STU-Net-S, nearly random weights), and iterations of the demo's training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inference_case import Making, case_path, make
from provenance import provenance
from training import ours, prepare

from flare23_lib.cli import SPINS
from flare23_lib.config import Config
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.runtime.machine import available_cores

NETWORK = "stunet_small"
REPOSITORY = Path(__file__).resolve().parent.parent
SIDES = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "sleeping": {"OMP_WAIT_POLICY": "passive"},
    "ours": {"GOMP_SPINCOUNT": str(SPINS)},
}
ITERATIONS = 20


def predict_seconds(folder: Path, environment: dict[str, str]) -> float:
    """Return the seconds that the windows of the case take in a process of its own."""
    report = folder / "run.json"
    subprocess.run(
        [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", folder / NETWORK, "--input",
         case_path(folder), "--output", folder / "labels", "--run-report", report, "--device", "cpu", "--overwrite"],
        env={**os.environ, **environment}, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return read_json(report)["cases"][0]["seconds"]["windows"]


def training_seconds(folder: Path, environment: dict[str, str]) -> float:
    """Return the seconds of an iteration of the demo's training, in a process of its own."""
    arguments = [sys.executable, __file__, "--folder", str(folder), "--iterations"]
    done = subprocess.run(
        arguments, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return float(done.stdout.split()[-1])


def iterate(folder: Path) -> None:
    """Train for some iterations, and print the seconds of one."""
    import torch

    config = Config.load([REPOSITORY / "config.yaml", REPOSITORY / "presets" / "demo.yaml"])
    settings = config.training_settings("organ_teacher")
    if not (folder / "rows.json").exists():
        prepare(folder, settings, cases=2)
    labels = [f"class {value}" for value in settings.label_values]
    trainer, step = ours(folder, settings, labels, torch.device("cpu"), available_cores())
    for count in (3, ITERATIONS):  # the first ones warm up
        begun = time.perf_counter()
        for _ in range(count):
            step(next(trainer.dataloader_train))
    print((time.perf_counter() - begun) / ITERATIONS)


def measure(folder: Path, loops: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of all sides, in turn, beside a number of endless loops."""
    found = {}
    with ExitStack() as stack:
        for _ in range(loops):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        for work, seconds_of in (("predict", predict_seconds), ("training", training_seconds)):
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(repeats):
                for side, environment in SIDES.items():
                    seconds[side].append(round(seconds_of(folder, environment), 4))
            medians = {side: statistics.median(values) for side, values in seconds.items()}
            ratios = {side: round(medians[side] / medians["ours"], 2) for side in ("spinning", "sleeping")}
            found[work] = {"seconds": seconds, "times_ours": ratios}
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where case and model are kept")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.iterations:
        iterate(args.folder / "training")
        return
    make(args.folder, NETWORK, Making(minutes=0.01, phantoms=1, coarseness=2))
    training_seconds(args.folder, {})  # prepares its images
    found = {
        "idle": measure(args.folder, 0, args.repeats),
        "busy": measure(args.folder, available_cores(), args.repeats),
    }
    for state, works in found.items():
        for work, figures in works.items():
            print(f"{state}, {work}: {figures['seconds']} s; times ours: {figures['times_ours']}")
    if args.output:
        write_json(args.output, {**provenance(), "spins": SPINS, **found})


if __name__ == "__main__":
    main()
