"""A training loop that can be interrupted and resumed at any iteration."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from flare23_lib.errors import TrainingError
from flare23_lib.nnunet import checkpoints, history
from flare23_lib.nnunet.sampling import next_batch
from flare23_lib.runtime.progress import Bar, duration
from flare23_lib.runtime.signals import Signals, StoppedError

log = logging.getLogger(__name__)

HISTORY = "training.csv"

RECENT_ITERATIONS = 20
"""Iterations whose mean loss is shown within an epoch."""

RECENT_EPOCHS = 20
"""Epochs whose mean time the time left follows from."""


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a loop of its own: checkpoints by time, in mid-epoch too, and no model selection.

    Arguments as the base class's. A subclass gives `train_step`, `validation_step` and `seed_rank`.

    Attributes:
        checkpoint_seconds: the longest time between two checkpoints.
        history: a row per finished epoch (`history.row`).
        epoch: the unfinished epoch.
    """

    is_ddp: bool
    network: torch.nn.Module

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        plans.setdefault("continue_training", True)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if not self.is_ddp or device.type == "cpu":  # the base class takes the first GPU, or one for each process
            self.device = device
        if device.type == "cpu":
            self.grad_scaler = None
        self.checkpoint_seconds = 600.0
        self.history: list[dict[str, Any]] = []
        self.epoch = history.Epoch()
        self._restored: dict[str, Any] | None = None
        self._nan_in_a_row = 0
        self._last_checkpoint = time.monotonic()

    @property
    def class_names(self) -> list[str]:
        """Names of the foreground classes in index order."""
        names = {value: name for name, value in self.dataset_json["labels"].items()}
        return [names[label] for label in self.label_manager.foreground_labels]

    def run_training(self) -> None:
        """Train to the last epoch.

        Raises:
            StoppedError: a signal asked for it; a checkpoint is written.
            TrainingError: the loss is NaN.
            KilledError: a process that loads patches was killed.
        """
        with Signals(alone=not self.is_ddp) as signals:
            try:
                self.on_train_start()
                while self.current_epoch < self.num_epochs:
                    self._train_epoch(signals)
                    losses, dice = self._validate(signals)
                    self._end_epoch(losses, dice)
                    self._stop_or_save(self._must_stop(signals))
                self.on_train_end()
            finally:
                self._end_workers()

    def _train_epoch(self, signals: Signals) -> None:
        """Take the iterations of the unfinished epoch that are still to be taken."""
        self.network.train()
        self.lr_scheduler.step(self.current_epoch)
        waiting: torch.Tensor | None = None
        with self._bar(self.num_iterations_per_epoch, len(self.epoch.losses)) as bar:
            while len(self.epoch.losses) + (waiting is not None) < self.num_iterations_per_epoch:
                begun = time.perf_counter()
                batch = next_batch(self.dataloader_train)
                self.epoch.waiting += time.perf_counter() - begun
                step = self.train_step(batch)
                # The loss of the step before is read while the device works on this one, so that neither waits.
                self._note_loss(waiting)
                waiting = step
                self.epoch.seconds += time.perf_counter() - begun
                bar.update(note=self._state())
                stop = self._must_stop(signals)
                if stop is not None or self._is_due():
                    self._note_loss(waiting)
                    waiting = None
                    self._stop_or_save(stop)
            self._note_loss(waiting)

    def _bar(self, iterations: int, done: int = 0, what: str = "") -> Bar:
        """Return what shows how far a part of the epoch is; in the first of several processes only."""
        name = f"epoch {self.current_epoch + 1} of {self.num_epochs}{what}"
        return Bar(iterations, "iteration", name, done, hidden=self.local_rank != 0)

    def _state(self) -> str:
        """Return the loss of the last iterations and the time left of the whole training, for display."""
        recent = self.epoch.losses[-RECENT_ITERATIONS:]
        loss = f"loss {np.mean(recent):.4f}, " if recent else ""
        left = (self.num_epochs - self.current_epoch) * self._epoch_seconds() - self.epoch.seconds
        return f"{loss}about {duration(max(0.0, left))} left in all"

    def _epoch_seconds(self) -> float:
        """Return how long an epoch takes: as the last ones, in the first one as if all its iterations were alike."""
        recent = [row["seconds"] for row in self.history[-RECENT_EPOCHS:]]
        if recent:
            return sum(recent) / len(recent)
        done = len(self.epoch.losses) + 1  # the last one's loss is not read yet
        return self.epoch.seconds / done * (self.num_iterations_per_epoch + self.num_val_iterations_per_epoch)

    def _note_loss(self, loss: torch.Tensor | None) -> None:
        if loss is None:
            return
        self.epoch.losses.append(float(loss))
        self._nan_in_a_row = self._nan_in_a_row + 1 if np.isnan(self.epoch.losses[-1]) else 0
        if self._nan_in_a_row > 1:
            raise self._nan_error("twice in a row")

    def _nan_error(self, when: str) -> TrainingError:
        epoch = min(self.current_epoch + 1, self.num_epochs)
        return TrainingError(
            f"the loss is NaN {when}, in epoch {epoch}; the last good checkpoint is kept in "
            f"{self.output_folder}; a lower learning_rate or precision float32 or bfloat16 may help"
        )

    @torch.no_grad()
    def _validate(self, signals: Signals) -> tuple[list[float], list[float]]:
        """Return losses and pseudo Dice by class of some patches of the training set; they select no model."""
        self.network.eval()
        losses, counts = [], np.zeros((3, len(self.class_names)))
        with self._bar(self.num_val_iterations_per_epoch, what=", validation") as bar:
            for _ in range(self.num_val_iterations_per_epoch):
                begun = time.perf_counter()
                loss, voxels = self.validation_step(next_batch(self.dataloader_val))
                losses.append(loss)
                counts += voxels
                self.epoch.seconds += time.perf_counter() - begun
                bar.update()
                self._stop_or_save(self._must_stop(signals))
        if self.is_ddp:
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, (losses, counts, self.epoch.losses))
            losses = [loss for rank in gathered for loss in rank[0]]
            counts = np.sum([rank[1] for rank in gathered], axis=0)
            self.epoch.losses = list(np.mean([rank[2] for rank in gathered], axis=0))
        true, false, missed = counts
        with np.errstate(invalid="ignore"):
            dice = 2 * true / (2 * true + false + missed)
        return losses, dice.tolist()

    def _end_epoch(self, losses: list[float], dice: list[float]) -> None:
        """Record the epoch and start the next."""
        rate = self.optimizer.param_groups[0]["lr"]
        row = history.row(self.current_epoch + 1, rate, self.epoch, losses, dice)
        self.history.append(row)
        if self.local_rank == 0:
            history.write(Path(self.output_folder) / HISTORY, self.class_names, self.history)
            self.on_epoch_written(row)
        self.current_epoch += 1
        self.epoch = history.Epoch()

    def on_epoch_written(self, row: dict[str, Any]) -> None:
        """Log the epoch's losses and Dice; called after its row is written."""
        left = (self.num_epochs - row["epoch"]) * self._epoch_seconds()
        known = dict(zip(self.class_names, row["classes"], strict=True))
        classes = ", ".join(f"{name} {dice:.2f}" for name, dice in known.items() if dice is not None)
        log.info(
            "epoch %d of %d: loss %s, validation loss %s, %.1f s, about %s left; pseudo Dice %s (%s)",
            row["epoch"], self.num_epochs, row["train_loss"], row["validation_loss"], row["seconds"], duration(left),
            row["pseudo_dice"], classes,
        )  # fmt: skip

    # ------------------------------------------------------------------ checkpoints

    def _must_stop(self, signals: Signals) -> int | None:
        """Return the signal that came to this process or to one of those that train with it, the same in all."""
        return self._largest(signals.received or 0) or None

    def _largest(self, number: int) -> int:
        """Return the largest number of all processes, of which none returns before each has come here."""
        if not self.is_ddp:
            return number
        largest = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_checkpoint >= self.checkpoint_seconds

    def _stop_or_save(self, signal: int | None) -> None:
        """Write a checkpoint if one is due or a signal came, and stop for the signal; not after the last epoch."""
        if self.current_epoch >= self.num_epochs:
            return
        if signal is not None or self._is_due():
            self._save()
        if signal is not None:
            self._largest(signal)  # a process that ended before the first has saved would have it killed
            place = f" in epoch {self.current_epoch + 1} after {len(self.epoch.losses)} iterations"
            raise StoppedError(signal, place)

    def _save(self) -> None:
        """Write the newest checkpoint, unless the loss is NaN; TrainingError if the weights are already."""
        if self.local_rank == 0 and not self._nan_in_a_row:
            self._check_weights()
            checkpoints.write_latest(Path(self.output_folder), self._content())
        self._last_checkpoint = time.monotonic()

    def _check_weights(self) -> None:
        """Raise TrainingError if a weight is not finite: a step can spoil them whose own loss was a number."""
        finite = [torch.isfinite(weight).all() for weight in self.bare_network.parameters()]
        if not torch.stack(finite).all():
            raise self._nan_error("after the last iteration (weights are not finite)")

    def _content(self) -> dict[str, Any]:
        """Return a checkpoint in nnU-Net's form, and what a start in mid-epoch needs in addition."""
        return {
            "network_weights": self.bare_network.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": None if self.grad_scaler is None else self.grad_scaler.state_dict(),
            "logging": self.logger.get_checkpoint(),
            "_best_ema": None,
            "current_epoch": self.current_epoch,
            "init_args": self.my_init_kwargs,
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "flare23": {
                "history": self.history,
                "epoch": asdict(self.epoch),
                "random_state": checkpoints.random_state(self.device),
            },
        }

    @property
    def bare_network(self) -> torch.nn.Module:
        """The network itself, out of what wraps it."""
        network: Any = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def on_train_end(self) -> None:
        """Write the final checkpoint and remove the others; TrainingError if the last loss is NaN."""
        if self._nan_in_a_row:
            raise self._nan_error("in the last iteration")
        if self.local_rank == 0:
            self._check_weights()
            folder = Path(self.output_folder)
            checkpoints.write(folder / checkpoints.FINAL, self._content())
            checkpoints.remove_intermediate(folder)

    def _end_workers(self) -> None:
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()

    def resume(self) -> bool:
        """Resume from the newest complete checkpoint; False if there is none."""
        found = checkpoints.newest(Path(self.output_folder))
        if found is None:
            return False
        name, content = found
        if name == checkpoints.FINAL and self.local_rank == 0:
            checkpoints.remove_intermediate(Path(self.output_folder))  # what an interrupted end left
        self.bare_network.load_state_dict(content["network_weights"])
        for group in content["optimizer_state"]["param_groups"]:
            group["fused"] = self.optimizer.defaults["fused"]  # of this device; the checkpoint may be of another
        self.optimizer.load_state_dict(content["optimizer_state"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.current_epoch = content["current_epoch"]
        self.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]
        state = content["flare23"]
        self.history, self.epoch = state["history"], history.Epoch(**state["epoch"])
        self._restored = state
        log.info("%s: epoch %d, iteration %d come next", name, self.current_epoch + 1, len(self.epoch.losses) + 1)
        return True

    def on_train_start(self) -> None:
        """Make the loaders; then set the random state, which making them used, to that of the checkpoint."""
        super().on_train_start()
        if self._restored is None:
            return
        if self.local_rank == 0:
            checkpoints.restore_random_state(self._restored["random_state"], self.device)
        else:
            self.seed_rank()

    # ------------------------------------------------------------------ output of the base class

    def print_to_log_file(self, *args, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Pass on nnU-Net's messages to the log; it would write a file of its own for each start."""
        text = " ".join(str(arg) for arg in args).strip()
        if text:
            log.debug("%s", text)

    def _save_debug_information(self) -> None:
        """Write nothing: the base class writes out all attributes, with what is known of each case; training.json has
        what matters."""

    def plot_network_architecture(self) -> None:
        """Draw nothing: the drawing needs an unmaintained package."""
