"""Ten kills at random moments: does a training end as one that nobody disturbed?

Runs a tiny training to its end, and once more with the same seed while it is killed ten times, SIGKILL and SIGTERM in
turn, with a checkpoint every second. Then it checks that the killed one has every epoch once and no broken or
left-over checkpoint, and prints what both reached and how much longer the killed one took.

    python benchmarks/survival.py --output benchmarks/results/survival.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from provenance import provenance

from flare23_lib.nnunet.checkpoints import FINAL
from flare23_lib.stages.results import Results
from flare23_lib.store import read_csv, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from trainings import MODEL, command, prepare  # the tests' tiny training

CHECKPOINT_MINUTES = 1 / 60


def history(results: Results) -> list[dict[str, str]]:
    """Return the rows of training.csv."""
    return read_csv(results.training(MODEL).with_name("training.csv"))


def finish(results: Results, protocol: dict) -> float:
    """Train to the end undisturbed, and return the seconds it took."""
    begun = time.perf_counter()
    subprocess.run(
        command(results, checkpoint_minutes=CHECKPOINT_MINUTES, **protocol), check=True, capture_output=True
    )
    return time.perf_counter() - begun


def disturb(results: Results, protocol: dict, kills: int, lifetime: tuple[float, float]) -> list[dict]:
    """Start the training and kill it, again and again; return what happened."""
    chance = random.Random(0)
    happened = []
    for number in range(kills):
        line = command(results, checkpoint_minutes=CHECKPOINT_MINUTES, **protocol)
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True)
        seconds = chance.uniform(*lifetime)
        sent = signal.SIGKILL if number % 2 else signal.SIGTERM
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, sent)
        happened.append({"after_s": round(seconds, 2), "sent": sent.name, "exit_code": process.wait()})
    return happened


def measure(folder: Path, args: argparse.Namespace) -> dict:
    """Return the figures."""
    protocol = {"epochs": args.epochs, "iterations_per_epoch": args.iterations}
    unbroken = prepare(folder / "unbroken")
    killed = Results(folder / "killed" / "results")
    shutil.copytree(unbroken.root, killed.root)
    alone = finish(unbroken, protocol)
    begun = time.perf_counter()
    kills = disturb(killed, protocol, args.kills, tuple(args.lifetime))
    finish(killed, protocol)
    disturbed = time.perf_counter() - begun
    epochs = [int(row["epoch"]) for row in history(killed)]
    checkpoints = sorted(killed.root.rglob("*.pth"))
    found = {
        "protocol": protocol,
        "kills": kills,
        "epochs_in_order_and_once": epochs == list(range(1, args.epochs + 1)),
        "checkpoints_left": [path.name for path in checkpoints],
        "checkpoints_whole": all(zipfile.ZipFile(path).testzip() is None for path in checkpoints),
        "half_files": len(list(killed.root.rglob(".partial-*"))),
        "seconds": {"unbroken": round(alone, 1), "killed": round(disturbed, 1)},
        "seconds_lost_per_kill": round((disturbed - alone) / args.kills, 1),
        "last_epoch": {
            name: {key: history(results)[-1][key] for key in ("train_loss", "pseudo_dice")}
            for name, results in (("unbroken", unbroken), ("killed", killed))
        },
    }
    whole = found["epochs_in_order_and_once"] and found["checkpoints_whole"] and found["checkpoints_left"] == [FINAL]
    return {"whole": whole, **found}


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--lifetime", type=float, nargs=2, default=[5.0, 12.0], help="seconds until a kill")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = {**provenance(), **measure(Path(place), args)}
    print(json.dumps(found, indent=2))
    if args.output:
        write_json(args.output, found)
    sys.exit(0 if found["whole"] else 1)


if __name__ == "__main__":
    main()
