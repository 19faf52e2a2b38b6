"""Does a training that starts from a checkpoint take the steps that it would have taken without a break?

    python benchmarks/resumed.py --device cuda --output FILE

A tiny network takes some steps, writes a checkpoint and takes some more (`undisturbed`). Another trainer starts from
that checkpoint and takes the latter steps on the same batches (`resumed`). A third one repeats everything without a
break (`repeated`): a GPU adds in no fixed order, so even that need not give the same weights to the bit, and what it
differs by is what starting from a checkpoint may differ by. Ends with an error if what a checkpoint holds does not
come back to the bit, or if the resumed training ends farther off than that.

`survival.py` kills trainings in mid-epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from training import largest_difference, prepare, settings_of

from flare23_lib.config import Config
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.nnunet import checkpoints
from flare23_lib.nnunet import plans as nnunet_plans
from flare23_lib.nnunet.launch import TrainingRun, make_trainer
from flare23_lib.nnunet.trainer import FlareTrainer

REPOSITORY = Path(__file__).resolve().parent.parent

ROUNDING = 1e-6
"""What the weights may differ by though a repeated training's do not."""


def trainer_of(folder: Path, args: argparse.Namespace, resume: bool = False) -> FlareTrainer:
    """Return a trainer that is ready to take steps."""
    names = Config.load([REPOSITORY / "config.yaml"]).label_map.names
    dataset = nnunet_plans.dataset_json(names, False, read_json(folder / "rows.json"))
    plans = nnunet_plans.plans(settings_of("tiny", args.precision))
    trainer = make_trainer(TrainingRun(folder, plans, dataset, torch.device(args.device), 1, args.threads))
    if resume and not trainer.resume():
        raise RuntimeError("there is no checkpoint to start from")
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def state_of(trainer: FlareTrainer) -> dict[str, Any]:
    """Return a copy of what a checkpoint has to bring back."""
    momenta = [
        [value.clone() for value in state.values() if torch.is_tensor(value)]
        for state in trainer.optimizer.state_dict()["state"].values()
    ]
    return {
        "weights": [value.clone() for value in trainer.bare_network.state_dict().values()],
        "optimizer": [value for values in momenta for value in values],
        "loss_scale": None if trainer.grad_scaler is None else trainer.grad_scaler.state_dict(),
        "random_numbers": checkpoints.random_state(trainer.device),
    }


def equal(first: Any, second: Any) -> bool:
    """Tell whether two states are equal to the bit, whatever they are made of."""
    if isinstance(first, torch.Tensor | np.ndarray):
        return bool((first == second).all())
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def steps(trainer: FlareTrainer, batches: Sequence[dict]) -> list[float]:
    """Take a step on each batch; return the losses."""
    return [float(trainer.train_step(batch)) for batch in batches]


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return what came back, and how far the trainings end apart."""
    prepare(folder, settings_of("tiny", args.precision), 2)
    one = trainer_of(folder, args)
    batches = [next(one.dataloader_train) for _ in range(2 * args.steps)]
    before, after = batches[: args.steps], batches[args.steps :]
    losses = {"undisturbed": steps(one, before)}
    one._save()
    saved = state_of(one)
    losses["undisturbed"] += steps(one, after)
    resumed = trainer_of(folder, args, resume=True)
    restored = state_of(resumed)
    losses["resumed"] = steps(resumed, after)
    repeated = trainer_of(folder, args)
    losses["repeated"] = steps(repeated, batches)
    for trainer in (one, resumed, repeated):
        trainer._end_workers()
    expected = one.bare_network.state_dict()
    apart = {
        name: largest_difference(trainer.bare_network.state_dict(), expected)
        for name, trainer in (("resumed", resumed), ("repeated", repeated))
    }
    back = {name: equal(value, restored[name]) for name, value in saved.items()}
    changes = [(value - old).abs().max() for value, old in zip(expected.values(), saved["weights"], strict=True)]
    as_far = apart["resumed"] <= max(ROUNDING, 4 * apart["repeated"])
    return {
        "as_undisturbed": all(back.values()) and as_far and float(max(changes)) > 0,
        "restored_to_the_bit": back,
        "losses": losses,
        "largest_weight_difference_from_undisturbed": apart,
        "largest_change_of_a_weight_after_the_checkpoint": float(max(changes)),
    }


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="mixed", help="nnU-Net's unless given: float16 on a GPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="on a GPU")
    parser.add_argument("--steps", type=int, default=8, help="before the checkpoint, and after it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    os.environ["nnUNet_compile"] = str(args.compile)  # noqa: SIM112 (its spelling)
    about = {"device": args.device, "precision": args.precision, "compiled": args.compile and args.device == "cuda"}
    with tempfile.TemporaryDirectory() as place:
        found = {**provenance(), **about, **measure(Path(place), args)}
    print(json.dumps(found, indent=2))
    if args.output:
        write_json(args.output, found)
    sys.exit(not found["as_undisturbed"])


if __name__ == "__main__":
    main()
