"""nnU-Net's trainer with our protocol: everything in the configuration's `training` is what it really uses."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from flare23_lib.nnunet.plans import CONFIGURATION
from flare23_lib.nnunet.sampling import BalancedDataLoader
from flare23_lib.store import atomic_path

log = logging.getLogger(__name__)

ELASTIC_PROBABILITY = 0.2
"""Share of patches that are deformed elastically; the paper names the augmentation, not its strength, and this is
the value of nnU-Net v1, in which STU-Net was published."""

GRADIENT_NORM = 12
"""Largest norm of a step's gradient, nnU-Net's."""

CHECKPOINT_LATEST = "checkpoint_latest.pth"
CHECKPOINT_FINAL = "checkpoint_final.pth"


class FlareTrainer(nnUNetTrainer):
    """nnU-Net's trainer with class-balanced sampling, checkpoints by time, and no model selection.

    The protocol is the plans' entry `training` (see `plans.plans`), so that plans, dataset.json and a checkpoint are
    all that is needed to make the trainer again.

    Args:
        plans: nnU-Net plans.
        configuration: name of a configuration in the plans.
        fold: "all".
        dataset_json: nnU-Net's dataset.json.
        device: where to train.

    Attributes:
        workers: processes that load and augment; 0 for none beside the training itself.
        checkpoint_seconds: the longest time between two checkpoints, at ends of epochs.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (the base class's signature, which it inspects)
    ) -> None:
        plans.setdefault("continue_training", True)
        super().__init__(plans, configuration, fold, dataset_json, device)
        training = plans["training"]
        self.training_settings = training
        self.workers = 0
        self.checkpoint_seconds = 600.0
        self.num_epochs = training["epochs"]
        self.num_iterations_per_epoch = training["iterations_per_epoch"]
        self.num_val_iterations_per_epoch = training["validation_iterations"]
        self.initial_lr = training["learning_rate"]
        self.weight_decay = training["weight_decay"]
        self.oversample_foreground_percent = training["oversample_foreground"]
        self._last_checkpoint = time.monotonic()

    def initialize(self) -> None:
        """Build the network, with the memory layout in which 3-D convolutions are fastest."""
        super().initialize()
        self.network = self.network.to(memory_format=torch.channels_last_3d)
        if self.training_settings["precision"] != "mixed":
            self.grad_scaler = None

    @contextlib.contextmanager
    def _autocast(self):
        """Compute in the configured precision; "mixed" is what nnU-Net does by itself."""
        precision = self.training_settings["precision"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield

    def train_step(self, batch: dict) -> dict:
        """Take one step; returns the loss."""
        if self.training_settings["precision"] == "mixed":
            return super().train_step(batch)
        data = batch["data"].to(self.device, non_blocking=True)
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            output = self.network(data)
        loss = self.loss([scale.float() for scale in output], target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def validation_step(self, batch: dict) -> dict:
        """Return the loss and the counts of true and false voxels of one batch."""
        if self.training_settings["precision"] == "mixed":
            return super().validation_step(batch)
        with self._autocast():
            return super().validation_step(batch)

    def configure_optimizers(self):
        """Return the configured optimizer and the polynomial decay of its learning rate."""
        parameters = self.network.parameters()
        if self.training_settings["optimizer"] == "adamw":
            optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters,
                self.initial_lr,
                weight_decay=self.weight_decay,
                momentum=self.training_settings["momentum"],
                nesterov=self.training_settings["momentum"] > 0,
            )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802 (the base class's name)
        """Return nnU-Net's choice, with the configured mirror axes."""
        choice = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation, dummy_2d, initial_patch_size, _ = choice
        mirror_axes = tuple(self.training_settings["mirror_axes"])
        self.inference_allowed_mirroring_axes = mirror_axes
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_training_transforms(self, *args, **kwargs):
        """Return nnU-Net's augmentation, with elastic deformation if it is configured."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.training_settings["elastic_deformation"]:
            for transform in transforms.transforms:
                if isinstance(transform, SpatialTransform):
                    transform.p_elastic_deform = ELASTIC_PROBABILITY
        return transforms

    def get_dataloaders(self):
        """Return the endless generators of augmented training and plain validation batches."""
        patch_size = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        common = {
            "foreground_labels": self.label_manager.foreground_labels,
            "ignore_label": self.label_manager.ignore_label,
        }
        augmentation = self.get_training_transforms(
            patch_size, rotation, scales, mirror_axes, dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm, **common,
        )  # fmt: skip
        training, validation = self.get_tr_and_val_datasets()
        loaders = [
            self._loader(training, initial_patch_size, augmentation),
            self._loader(validation, patch_size, self.get_validation_transforms(scales, **common)),
        ]
        generators = [self._generator(loader, share) for loader, share in zip(loaders, (1.0, 0.5), strict=True)]
        for generator in generators:
            next(generator)
        return tuple(generators)

    def _loader(self, dataset, patch_size, transforms) -> nnUNetDataLoader:
        arguments = (dataset, self.batch_size, patch_size, self.configuration_manager.patch_size, self.label_manager)
        options = {
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
            "transforms": transforms,
        }
        if self.training_settings["sampling"] == "nnunet":
            return nnUNetDataLoader(*arguments, **options)
        return BalancedDataLoader(*arguments, **options, members=self._members(dataset))

    def _members(self, dataset) -> dict[int, list[str]]:
        """Return which cases hold which class."""
        members: dict[int, list[str]] = {label: [] for label in self.label_manager.foreground_labels}
        for case in dataset.identifiers:
            locations = dataset.load_case(case)[-1]["class_locations"]
            for label, cases in members.items():
                if len(locations.get(label, ())):
                    cases.append(case)
        return members

    def _generator(self, loader: nnUNetDataLoader, share: float):
        if self.workers == 0:
            return SingleThreadedAugmenter(loader, None)
        processes = max(1, round(self.workers * share))
        return NonDetMultiThreadedAugmenter(
            loader, None, num_processes=processes, num_cached=max(2, 2 * processes), seeds=None,
            pin_memory=self.device.type == "cuda", wait_time=0.002,
        )  # fmt: skip

    def plot_network_architecture(self) -> None:
        """Draw nothing: the drawing needs a package that is no longer kept."""

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the pseudo Dice; classes absent from the batches are nan there, which is not worth a warning."""
        with np.errstate(invalid="ignore", divide="ignore"):
            super().on_validation_epoch_end(val_outputs)

    def on_epoch_end(self) -> None:
        """Log the epoch and write a checkpoint if one is due. No epoch is preferred over another."""
        epoch = self.current_epoch
        self.logger.log("epoch_end_timestamps", time.time(), epoch)
        begun, ended = (self.logger.get_value(f"epoch_{side}_timestamps", -1) for side in ("start", "end"))
        self.print_to_log_file(
            f"train loss {self.logger.get_value('train_losses', -1):.4f}, "
            f"validation loss {self.logger.get_value('val_losses', -1):.4f}, "
            f"pseudo Dice {self.logger.get_value('mean_fg_dice', -1):.4f}, {ended - begun:.1f} s"
        )
        self.current_epoch += 1
        due = time.monotonic() - self._last_checkpoint >= self.checkpoint_seconds
        if due and self.current_epoch < self.num_epochs:
            self.current_epoch -= 1  # the base class stores the epoch after the current one
            self.save_checkpoint(str(Path(self.output_folder) / CHECKPOINT_LATEST))
            self.current_epoch += 1
            self._last_checkpoint = time.monotonic()

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in nnU-Net's format, atomically."""
        if self.local_rank == 0:
            with atomic_path(filename) as temporary:
                super().save_checkpoint(str(temporary))

    def resume(self) -> int:
        """Load the newest checkpoint there is and return the epoch that training goes on with (0: none was there)."""
        for name in (CHECKPOINT_FINAL, CHECKPOINT_LATEST):
            path = Path(self.output_folder) / name
            if path.exists():
                self.load_checkpoint(str(path))
                return self.current_epoch
        return 0


def train(
    folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    device: torch.device,
    workers: int = 0,
    checkpoint_minutes: float = 10.0,
) -> FlareTrainer:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        folder: holds nnU-Net's `preprocessed` and `results` folders of this training; checkpoints go there.
        plans: nnU-Net plans.
        dataset_json: nnU-Net's dataset.json.
        device: where to train.
        workers: processes that load and augment.
        checkpoint_minutes: the longest time of training between two checkpoints.

    Returns:
        The trainer with the final weights; `checkpoint_final.pth` is written.
    """
    # nnU-Net reads its folders from the environment when a trainer is made.
    os.environ["nnUNet_preprocessed"] = str(folder.absolute() / "preprocessed")  # noqa: SIM112 (its spelling)
    os.environ["nnUNet_results"] = str(folder.absolute() / "results")  # noqa: SIM112
    trainer = FlareTrainer(copy.deepcopy(plans), CONFIGURATION, "all", dataset_json, device)
    trainer.workers = workers
    trainer.checkpoint_seconds = 60 * checkpoint_minutes
    trainer.initialize()
    epoch = trainer.resume()
    if epoch >= trainer.num_epochs:
        log.info("all %d epochs are done", trainer.num_epochs)
        return trainer
    log.info("epoch %d of %d comes next", epoch + 1, trainer.num_epochs)
    trainer.run_training()
    return trainer
