"""Does our trainer keep up with nnU-Net's own on the same network and data?

Preprocesses a few phantoms, then trains the same network on them with nnU-Net's stock trainer and with ours, in turns
within one process, at equal batch, patch and precision (nnU-Net's: float16 on a GPU, float32 on a processor), and
once more with ours in bfloat16. Prints iterations per second, where the time of an iteration goes, and the ratio.

    python benchmarks/training.py --output benchmarks/results/training.json                     # a processor
    python benchmarks/training.py --network stunet_base stunet_large --iterations 30 --rounds 5 --device cuda \
        --threads 16 --output benchmarks/results/training_gpu.json                              # a GPU
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
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from flare23_lib.config import Config
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.nnunet import plans as nnunet_plans
from flare23_lib.nnunet.preprocessing import link_dataset, preprocess_image, preprocess_labels
from flare23_lib.nnunet.running import Run, make_trainer
from flare23_lib.phantom import write_cohort
from flare23_lib.resampling import Intensity
from flare23_lib.store import write_json

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = {"stunet_large": "organ_teacher"}
"""Whose patch, spacing and strides a network gets from the recipe; the student's if not named."""


def settings_of(network: str, precision: str) -> TrainingSettings:
    """Return the recipe's training settings with a network and a precision."""
    name = MODELS.get(network, "student")
    config = Config.load(
        [REPOSITORY / "config.yaml"],
        {"model_defaults": {"training": {"precision": precision}}, "models": {name: {"network": network}}},
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
        geometry = (settings.spacing, settings.orientation)
        preprocess_image(
            image, folder / f"{name}.b2nd", *geometry, Intensity(**dict(settings.intensity)), settings.patch_size
        )
        places = [folder / f"{name}_labels{suffix}" for suffix in (".b2nd", ".pkl")]
        preprocess_labels(label, *places, *geometry, settings.label_values, settings.patch_size)
        rows.append({"case": name, "image": f"{name}.b2nd", "label": f"{name}_labels.b2nd"})
    preprocessed = folder / "preprocessed" / nnunet_plans.DATASET_NAME
    link_dataset(preprocessed / nnunet_plans.DATA_IDENTIFIER, folder, rows)
    write_json(preprocessed / "dataset_fingerprint.json", {})
    write_json(folder / "rows.json", rows)


def ours(folder: Path, settings: TrainingSettings, names: list[str], device: torch.device, threads: int):
    """Return our trainer, ready to take steps, and its step."""
    rows = json.loads((folder / "rows.json").read_text())
    dataset = nnunet_plans.dataset_json(names, False, rows)
    trainer = make_trainer(Run(folder, nnunet_plans.plans(settings), dataset, device, 1, threads))
    trainer.on_train_start()
    trainer.network.train()
    return trainer, trainer.step


def stock(folder: Path, settings: TrainingSettings, names: list[str], device: torch.device):
    """Return nnU-Net's trainer on the same plans, ready to take steps, and its step."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ["nnUNet_preprocessed"] = str(folder / "preprocessed")  # noqa: SIM112 (its spelling)
    os.environ["nnUNet_results"] = str(folder / "stock")  # noqa: SIM112
    rows = json.loads((folder / "rows.json").read_text())
    plans = copy.deepcopy(nnunet_plans.plans(settings)) | {"continue_training": False}
    trainer = nnUNetTrainer(
        plans, nnunet_plans.CONFIGURATION, "all", nnunet_plans.dataset_json(names, False, rows), device
    )
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    return trainer, trainer.train_step


class Clock:
    """Where the time of iterations goes: waiting for batches, the network's forward pass, the rest of the step."""

    def __init__(self, trainer, step) -> None:
        self.trainer, self.step = trainer, step
        self.seconds = {"waiting": 0.0, "forward": 0.0, "step": 0.0}
        self.iterations = 0
        self.utilization: list[int] = []
        self._begun = 0.0
        trainer.network.register_forward_pre_hook(lambda *_: self._start())
        trainer.network.register_forward_hook(lambda *_: self._stop())

    def _now(self) -> float:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _start(self) -> None:
        self._begun = self._now()

    def _stop(self) -> None:
        self.seconds["forward"] += self._now() - self._begun

    def run(self, iterations: int) -> float:
        """Take steps; return the mean of the losses."""
        losses = []
        for _ in range(iterations):
            if self.trainer.device.type == "cuda":
                self.utilization.append(torch.cuda.utilization())
            begun = self._now()
            batch = next(self.trainer.dataloader_train)
            got = self._now()
            loss = self.step(batch)
            losses.append(float(loss["loss"] if isinstance(loss, dict) else loss))
            self.seconds["waiting"] += got - begun
            self.seconds["step"] += self._now() - got
        self.iterations += iterations
        return float(np.mean(losses))

    def summary(self) -> dict:
        """Return iterations per second and seconds per iteration by phase."""
        waiting, forward, step = (self.seconds[key] / self.iterations for key in ("waiting", "forward", "step"))
        return {
            "iterations": self.iterations,
            "iterations_per_s": round(1 / (waiting + step), 4),
            "waiting_s": round(waiting, 4),
            "forward_s": round(forward, 4),
            "backward_and_update_s": round(step - forward, 4),
            "gpu_utilization_percent": round(float(np.mean(self.utilization)), 1) if self.utilization else None,
        }


def preparation_of_a_batch(trainer, batches: int = 4) -> dict:
    """Return the seconds that one process takes for a batch: without and with augmentation."""
    training, _ = trainer.get_tr_and_val_datasets()
    augmentation, _, initial = trainer._transforms()
    found = {}
    for key, transforms in (("loading_s", None), ("loading_and_augmentation_s", augmentation)):
        loader = trainer._loader(training, trainer._members(training), initial, transforms)
        next(loader)
        begun = time.perf_counter()
        for _ in range(batches):
            next(loader)
        found[key] = round((time.perf_counter() - begun) / batches, 4)
    return found


def measure(network: str, args: argparse.Namespace) -> dict:
    """Return the figures for one network."""
    device = torch.device(args.device)
    names = Config.load([REPOSITORY / "config.yaml"]).label_map.names
    plain, reduced = (settings_of(network, precision) for precision in ("mixed", "bfloat16"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, plain, args.cases)
        torch.set_num_threads(args.threads)
        with contextlib.redirect_stdout(io.StringIO()):
            sides = {
                "stock": Clock(*stock(folder, plain, names, device)),
                "ours": Clock(*ours(folder, plain, names, device, args.threads)),
                "ours_bfloat16": Clock(*ours(folder, reduced, names, device, args.threads)),
            }
        torch.set_num_threads(args.threads)
        for clock in sides.values():  # warm up: caches, compilation
            clock.run(args.warm_up)
            clock.seconds = dict.fromkeys(clock.seconds, 0.0)
            clock.iterations = 0
            clock.utilization.clear()
        losses = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, clock in sides.items():
                losses[name].append(round(clock.run(args.iterations), 3))
        found = {name: {**clock.summary(), "losses": losses[name]} for name, clock in sides.items()}
        found["one_process_per_batch"] = preparation_of_a_batch(sides["ours"].trainer)
        for clock in sides.values():
            for loader in (clock.trainer.dataloader_train, clock.trainer.dataloader_val):
                getattr(loader, "_finish", lambda: None)()
    for name in ("ours", "ours_bfloat16"):
        ratio = found[name]["iterations_per_s"] / found["stock"]["iterations_per_s"]
        found[f"{name}_to_stock"] = round(ratio, 2)
    return {"network": network, "patch_size": plain["patch_size"], "batch_size": 2, **found}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["stunet_small"])
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = {**provenance(), "device": args.device, "networks": [measure(name, args) for name in args.network]}
    if args.device == "cuda":
        found["machine"]["gpu_name"] = torch.cuda.get_device_name()
    print(json.dumps(found, indent=2))
    for row in found["networks"]:
        print(f"{row['network']}: ours / stock = {row['ours_to_stock']}, in bfloat16 {row['ours_bfloat16_to_stock']}")
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
