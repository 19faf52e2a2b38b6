"""Ten kills at random moments: does a training end as one that nobody disturbed?

Runs a tiny training to its end, and once more with the same seed while it is killed ten times, SIGKILL and SIGTERM in
turn, with a checkpoint every second. Then it checks that the killed one has every epoch once and no broken or
left-over checkpoint, and prints what both reached and how much longer the killed one took.

    python benchmarks/survival.py --output benchmarks/results/survival.json
    python benchmarks/survival.py --device cuda --precision mixed --kills 2 --lifetime 0.5 2 --from-checkpoint \
        --output FILE

`--from-checkpoint` counts the seconds until a kill from the first checkpoint of that start, not from the start
itself, which takes long where a network is compiled first. `resumed.py` compares steps after a checkpoint one by one.
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
from training import TINY

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.dataset.summary import write_scan
from flare23_lib.io.atomic import write_json
from flare23_lib.io.tables import read_csv
from flare23_lib.nnunet.checkpoints import FINAL, mark
from flare23_lib.nnunet.training_job import CHECKPOINTS
from flare23_lib.phantom import PhantomLayout, write_cohort
from flare23_lib.preprocessing.preprocess_cases import preprocess

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = "organ_teacher"


def configuration(args: argparse.Namespace) -> Config:
    """Return the recipe with a tiny network and a short protocol."""
    protocol = {
        "epochs": args.epochs, "iterations_per_epoch": args.iterations, "validation_iterations": 1,
        "optimizer": "adamw", "learning_rate": 0.01, "precision": args.precision, "elastic_deformation": False,
    }  # fmt: skip
    defaults = {"orientation": "canonical", "training": protocol}
    return Config.load([REPOSITORY / "config.yaml"], {"model_defaults": defaults, "models": {MODEL: TINY}})


def prepare(folder: Path, config: Config) -> Results:
    """Write a cohort of phantoms and preprocess the model's cases; return the results folder."""
    results, shard = Results(folder / "results"), Shard(0, 1)
    write_cohort(folder / "cohort", cases=12, validation=0, layout=PhantomLayout(coarseness=2))
    scan = scan_cohort(folder / "cohort", config.cohort_settings(), results.scan_memory)
    write_scan(scan, results.cases.parent)
    settings = config.preprocessing_settings(MODEL)
    preprocess(results, settings, config.models[MODEL].patch_size, shard, results.shard("preprocessed", MODEL, shard))
    told = {"settings": config.training_settings(MODEL).to_json(), "label_names": config.label_map.names}
    write_json(results.root / "training.json", told)
    return results


def command(results: Results, args: argparse.Namespace) -> list[str]:
    """Return the command that runs the training."""
    record, minutes = results.training(MODEL), args.checkpoint_seconds / 60
    return [
        sys.executable, "-m", "flare23_lib.cli", "stage", "train", "--results", str(results.root), "--model", MODEL,
        "--settings", str(results.root / "training.json"), "--shards", "1", "--device", args.device,
        "--threads", str(args.threads), "--checkpoint-minutes", str(minutes),
        "--history", str(record.with_name("training.csv")), "--output", str(record),
    ]  # fmt: skip


def history(results: Results) -> list[dict[str, str]]:
    """Return the rows of training.csv."""
    return read_csv(results.training(MODEL).with_name("training.csv"))


def finish(results: Results, args: argparse.Namespace) -> float:
    """Train to the end undisturbed, and return the seconds it took."""
    begun = time.perf_counter()
    done = subprocess.run(command(results, args), check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return time.perf_counter() - begun


def wait_for_checkpoint(process: subprocess.Popen, root: Path) -> None:
    """Wait until a training has written a checkpoint since now, or has ended."""

    def marks() -> list[list[int]]:
        return [mark(folder) for folder in root.glob(f"store/training/*/{CHECKPOINTS}")]

    before = [*marks(), []]
    while process.poll() is None and all(found in before for found in marks()):
        time.sleep(0.02)


def disturb(results: Results, args: argparse.Namespace) -> list[dict]:
    """Start the training and kill it, again and again; return what happened."""
    chance = random.Random(0)
    happened = []
    for number in range(args.kills):
        begun = time.perf_counter()
        process = subprocess.Popen(command(results, args), stderr=subprocess.DEVNULL, start_new_session=True)
        if args.from_checkpoint:
            wait_for_checkpoint(process, results.root)
        sent = signal.SIGKILL if number % 2 else signal.SIGTERM
        try:
            process.wait(timeout=chance.uniform(*args.lifetime))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, sent)
        after = round(time.perf_counter() - begun, 2)
        happened.append({"after_s": after, "sent": sent.name, "exit_code": process.wait()})
    return happened


def measure(folder: Path, args: argparse.Namespace) -> dict:
    """Return the figures."""
    unbroken = prepare(folder / "unbroken", configuration(args))
    killed = Results(folder / "killed" / "results")
    shutil.copytree(unbroken.root, killed.root)
    alone = finish(unbroken, args)
    begun = time.perf_counter()
    kills = disturb(killed, args)
    finish(killed, args)
    disturbed = time.perf_counter() - begun
    epochs = [int(row["epoch"]) for row in history(killed)]
    checkpoints = sorted(killed.root.rglob("*.pth"))
    found = {
        "protocol": {"epochs": args.epochs, "iterations_per_epoch": args.iterations, "precision": args.precision},
        "kills": kills,
        "killed_before_the_end": sum(kill["exit_code"] != 0 for kill in kills),
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
    return {"whole": whole and found["killed_before_the_end"] > 0, **found}


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--lifetime", type=float, nargs=2, default=[5.0, 12.0], help="seconds until a kill")
    parser.add_argument("--from-checkpoint", action="store_true", help="count them from a start's first checkpoint")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=1, help="between checkpoints, 0 for each iteration"
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = {**provenance(), "device": args.device, **measure(Path(place), args)}
    print(json.dumps(found, indent=2))
    if args.output:
        write_json(args.output, found)
    sys.exit(0 if found["whole"] else 1)


if __name__ == "__main__":
    main()
