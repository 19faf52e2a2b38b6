"""Does our trainer take nnU-Net's steps, and keep up with it, on the same network and data?

Preprocesses a few phantoms, then trains the same network on them with nnU-Net's stock trainer and with ours, in turns
within one process, at equal batch, patch and precision (nnU-Net's: float16 on a GPU, float32 elsewhere), and once
more with ours in bfloat16. All begin with the same weights, and their first step is on the same batch: how far its
loss and the weights after it lie from the stock trainer's is written down. Then come iterations per second, where the
time of an iteration goes, and the ratio.

    python benchmarks/training.py --output benchmarks/results/training.json                     # a processor
    python benchmarks/training.py --network stunet_base stunet_large --iterations 30 --rounds 5 --device cuda \
        --threads 16 --output benchmarks/results/training_gpu.json                              # a GPU

On a GPU both trainers compile their networks, as is nnU-Net's default; `--no-compile` saves the minutes which that
takes. A rate is that of iterations as a training takes them: the device is waited for before the first one and after
the last. Where the time goes is measured in iterations of their own, whose parts are each waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from flare23_lib.config import Config
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.io.atomic import write_json
from flare23_lib.nnunet import checkpoints
from flare23_lib.nnunet import plans as nnunet_plans
from flare23_lib.nnunet.launch import TrainingRun, make_trainer
from flare23_lib.nnunet.sampling import cases_by_class
from flare23_lib.phantom import write_cohort
from flare23_lib.preprocessing.intensity import Intensity
from flare23_lib.preprocessing.preprocess import TrainingGrid, link_dataset, preprocess_image, preprocess_labels

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = {"stunet_large": "organ_teacher"}
"""Whose patch, spacing and strides a network gets from the recipe; the student's if not named."""

Loss = torch.Tensor | Mapping[str, np.ndarray]
"""What a step gives, ours or nnU-Net's."""

TINY = {
    "network": {"depth": [1, 1, 1], "widths": [4, 8, 8]},
    "patch_size": [16, 24, 24],
    "spacing": [14, 12, 12],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
}
"""The network `tiny`: it shows in seconds whether a training runs."""


def settings_of(network: str, precision: str) -> TrainingSettings:
    """Return the recipe's training settings with a network and a precision."""
    name = MODELS.get(network, "student")
    model = TINY if network == "tiny" else {"network": network}
    config = Config.load(
        [REPOSITORY / "config.yaml"],
        {"model_defaults": {"training": {"precision": precision}}, "models": {name: model}},
    )
    return config.training_settings(name)


def prepare(folder: Path, settings: TrainingSettings, cases: int) -> None:
    """Write phantoms and preprocess them."""
    write_cohort(folder / "cohort", cases=2 * cases, validation=0, seed=0)
    images = sorted((folder / "cohort" / "imagesTr2200").glob("*.nii.gz"))[:cases]
    rows = []
    for image in images:
        name = image.name.removesuffix("_0000.nii.gz")
        label = folder / "cohort" / "truth" / f"{name}.nii.gz"
        grid = TrainingGrid(settings.spacing, settings.orientation, settings.patch_size)
        preprocess_image(image, folder / f"{name}.b2nd", grid, Intensity.of(settings.intensity))
        preprocess_labels(label, folder / f"{name}_labels.b2nd", grid, settings.label_values)
        rows.append({"case": name, "image": f"{name}.b2nd", "label": f"{name}_labels.b2nd"})
    preprocessed = folder / "preprocessed" / nnunet_plans.DATASET_NAME
    link_dataset(preprocessed / nnunet_plans.DATA_IDENTIFIER, folder, rows)
    write_json(preprocessed / "dataset_fingerprint.json", {})
    write_json(folder / "rows.json", rows)


def ours(folder: Path, settings: TrainingSettings, names: list[str], device: torch.device, threads: int):
    """Return our trainer, ready to take steps, and its step."""
    rows = json.loads((folder / "rows.json").read_text())
    dataset = nnunet_plans.dataset_json(names, False, rows)
    trainer = make_trainer(TrainingRun(folder, nnunet_plans.plans(settings), dataset, device, 1, threads))
    trainer.on_train_start()
    trainer.network.train()
    return trainer, trainer.train_step


def stock(folder: Path, settings: TrainingSettings, names: list[str], device: torch.device):
    """Return nnU-Net's trainer on the same plans, ready to take steps, and its step."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ["nnUNet_preprocessed"] = str(folder / "preprocessed")  # noqa: SIM112 (its spelling)
    os.environ["nnUNet_results"] = str(folder / "stock")  # noqa: SIM112
    rows = json.loads((folder / "rows.json").read_text())
    plans = copy.deepcopy(nnunet_plans.plans(settings)) | {"continue_training": False}
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as its entry point sets it
    trainer = nnUNetTrainer(
        plans, nnunet_plans.CONFIGURATION, "all", nnunet_plans.dataset_json(names, False, rows), device
    )
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    return trainer, trainer.train_step


def bare(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network out of what torch.compile wraps around it."""
    return getattr(network, "_orig_mod", network)


def number(loss: Loss) -> float:
    """Return the loss that a step of ours, or of nnU-Net's, gives; waits for the device."""
    return float(loss["loss"] if isinstance(loss, Mapping) else loss)


class Clock:
    """A trainer that takes iterations: how many a second, and where the time of one goes."""

    def __init__(self, trainer, step) -> None:
        self.trainer, self.step = trainer, step
        self.on_gpu = trainer.device.type == "cuda"
        self.reset()
        self._begun: float | None = None
        trainer.network.register_forward_pre_hook(lambda *_: self._start())
        trainer.network.register_forward_hook(lambda *_: self._stop())

    def reset(self) -> None:
        """Forget what was measured."""
        self.iterations, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.utilization: list[int] = []
        self.step_bytes = 0
        self.parts = {"waiting": 0.0, "forward": 0.0, "step": 0.0}
        self.parts_of = 0

    def now(self) -> float:
        """Return the time when the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _start(self) -> None:
        if self._begun is not None:
            self._begun = self.now()

    def _stop(self) -> None:
        if self._begun is not None:
            self.parts["forward"] += self.now() - self._begun

    def run(self, iterations: int) -> None:
        """Take steps as a training takes them: a loss is read while the next step is computed."""
        losses: list[float] = []
        unread: list[Loss] = []
        began = self.now()
        if self.on_gpu:
            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(iterations):
            batch = next(self.trainer.dataloader_train)
            unread.append(self.step(batch))
            if len(unread) > 1:
                losses.append(number(unread.pop(0)))
        if self.on_gpu:
            self.utilization.append(torch.cuda.utilization())
        losses.append(number(unread.pop()))
        self.seconds += self.now() - began
        self.iterations += iterations
        self.losses.append(round(float(np.mean(losses)), 3))
        if self.on_gpu:
            self.step_bytes = max(self.step_bytes, torch.cuda.max_memory_allocated() - held)

    def run_in_parts(self, iterations: int) -> None:
        """Take steps whose parts are each waited for: batch, forward pass, the rest."""
        for _ in range(iterations):
            begun = self.now()
            batch = next(self.trainer.dataloader_train)
            got = self._begun = self.now()
            self.step(batch)
            self.parts["waiting"] += got - begun
            self.parts["step"] += self.now() - got
        self._begun = None
        self.parts_of += iterations

    def summary(self) -> dict[str, Any]:
        """Return iterations per second, and seconds per iteration by part."""
        found: dict[str, Any] = {
            "iterations": self.iterations,
            "iterations_per_s": round(self.iterations / self.seconds, 4),
            "losses": self.losses,
        }
        if self.parts_of:
            waiting, forward, step = (self.parts[key] / self.parts_of for key in ("waiting", "forward", "step"))
            found["waiting_s"] = round(waiting, 4)
            found["forward_s"] = round(forward, 4)
            found["backward_and_update_s"] = round(step - forward, 4)
        if self.on_gpu:
            found["gpu_utilization_percent"] = round(float(np.mean(self.utilization)), 1)
            found["memory_of_a_step_MB"] = round(self.step_bytes / 1e6)
        return found


def first_step(sides: Mapping[str, Clock], most: int = 20) -> dict[str, Any]:
    """Let all trainers take a step from the stock trainer's weights on one batch, and compare what comes of it.

    Where gradients in float16 overflow, the step is left out and the scale of the loss halved, by both trainers; the
    same batch is taken again until the stock trainer's weights have changed.

    Returns:
        By side: the loss, its difference from the stock trainer's, and the largest difference of a weight; for the
        stock trainer the largest change of a weight, and how often the batch was taken.
    """
    networks = {name: bare(clock.trainer.network) for name, clock in sides.items()}
    before = {name: value.clone() for name, value in networks["stock"].state_dict().items()}
    for network in networks.values():
        network.load_state_dict(before)
    batch = next(sides["ours"].trainer.dataloader_train)
    taken, changed = 0, 0.0
    while not changed and taken < most:
        losses = {name: number(clock.step(batch)) for name, clock in sides.items()}
        taken += 1
        changed = largest_difference(networks["stock"].state_dict(), before)
    found: dict[str, Any] = {"stock": {"loss": losses["stock"], "largest_change": changed, "taken": taken}}
    expected = networks.pop("stock").state_dict()
    for name, network in networks.items():
        found[name] = {
            "loss": losses[name],
            "loss_difference": losses[name] - losses["stock"],
            "largest_weight_difference": largest_difference(network.state_dict(), expected),
        }
    return found


def largest_difference(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference between two sets of weights."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def preparation_of_a_batch(trainer, batches: int = 4) -> dict:
    """Return the seconds that one process takes for a batch: without and with augmentation."""
    training, _ = trainer.get_tr_and_val_datasets()
    members = cases_by_class(training, trainer.label_manager.foreground_labels)
    augmentation, _, initial = trainer._transforms()
    found = {}
    for key, transforms in (("loading_s", None), ("loading_and_augmentation_s", augmentation)):
        loader = trainer._loader(training, members, initial, transforms)
        next(loader)
        begun = time.perf_counter()
        for _ in range(batches):
            next(loader)
        found[key] = round((time.perf_counter() - begun) / batches, 4)
    return found


def make_sides(folder: Path, network: str, args: argparse.Namespace) -> dict[str, Clock]:
    """Return the trainers."""
    device = torch.device(args.device)
    names = Config.load([REPOSITORY / "config.yaml"]).label_map.names
    plain = settings_of(network, "mixed")
    os.environ["nnUNet_compile"] = str(args.compile)  # noqa: SIM112
    if device.type == "cuda":  # as many as ours; elsewhere nnU-Net's default
        os.environ.setdefault("nnUNet_n_proc_DA", str(max(1, args.threads - 1)))
    checkpoints.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        sides = {
            "stock": Clock(*stock(folder, plain, names, device)),
            "ours": Clock(*ours(folder, plain, names, device, args.threads)),
        }
        if not args.equal_only:
            reduced = settings_of(network, "bfloat16")
            sides["ours_bfloat16"] = Clock(*ours(folder, reduced, names, device, args.threads))
    return sides


def measure(network: str, args: argparse.Namespace, found: dict[str, Any], save: Callable[[], None]) -> None:
    """Measure one network.

    Args:
        network: its name.
        args: the command line.
        found: takes the figures.
        save: called when there are some more.
    """
    settings = settings_of(network, "mixed")
    found |= {"network": network, "patch_size": settings.patch_size, "batch_size": 2}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, settings, args.cases)
        torch.set_num_threads(args.threads)
        sides = make_sides(folder, network, args)
        torch.set_num_threads(args.threads)
        found["first_step"] = first_step(sides)
        save()
        for clock in sides.values():  # warm up: caches, compilation, the choice of convolutions
            clock.run(args.warm_up)
            clock.reset()
        for _ in range(args.rounds):
            for clock in sides.values():
                clock.run(args.iterations)
            found |= {name: clock.summary() for name, clock in sides.items()}
            found |= ratios(found)
            save()
        for clock in sides.values():
            clock.run_in_parts(args.iterations)
        found |= {name: clock.summary() for name, clock in sides.items()}
        if args.batches:
            found["one_process_per_batch"] = preparation_of_a_batch(sides["ours"].trainer, args.batches)
        for clock in sides.values():
            for loader in (clock.trainer.dataloader_train, clock.trainer.dataloader_val):
                getattr(loader, "_finish", lambda: None)()
    save()


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """Return how many times as many iterations per second as the stock trainer's our sides take."""
    theirs = found["stock"]["iterations_per_s"]
    ours = [name for name in found if name.startswith("ours") and not name.endswith("_to_stock")]
    return {f"{name}_to_stock": round(found[name]["iterations_per_s"] / theirs, 2) for name in ours}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["stunet_small"], help="names of STU-Nets, or tiny")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--batches", type=int, default=4, help="that one process prepares, 0 for none")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--equal-only", action="store_true", help="leave out ours in bfloat16")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="on a GPU")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    compiled = args.compile and args.device == "cuda"
    networks: list[dict[str, Any]] = []
    found = {**provenance(), "device": args.device, "compiled": compiled, "networks": networks}

    def save() -> None:
        if args.output:
            write_json(args.output, found)

    for network in args.network:
        networks.append({})
        measure(network, args, networks[-1], save)
    print(json.dumps(found, indent=2))
    for row in networks:
        print(f"{row['network']}: {', '.join(f'{name} = {value}' for name, value in ratios(row).items())}")


if __name__ == "__main__":
    main()
