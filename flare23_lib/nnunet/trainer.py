"""nnU-Net's trainer with our protocol: everything in the configuration's `training` is what it really uses."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.nn.parallel import DistributedDataParallel

from flare23_lib.config.checks import forced_patches
from flare23_lib.config.training_models import TrainingProtocol
from flare23_lib.errors import TrainingError
from flare23_lib.nnunet import checkpoints
from flare23_lib.nnunet.augmentation import deform_elastically
from flare23_lib.nnunet.fine_labels import with_labels
from flare23_lib.nnunet.fine_losses import FineLabelLoss
from flare23_lib.nnunet.loop import ResumableTrainer
from flare23_lib.nnunet.losses import LabelSetLoss, admissible_sets, count_voxels
from flare23_lib.nnunet.sampling import BalancedDataLoader, cases_by_class, endless, next_batch
from flare23_lib.nnunet.tumor_copies import Copied, CopyTumors, NamedCases
from flare23_lib.preprocessing.preprocess import identifier
from flare23_lib.runtime.devices import memory_format
from flare23_lib.runtime.precision import training_precision

log = logging.getLogger(__name__)

GRADIENT_NORM = 12
"""Largest norm of a step's gradient, nnU-Net's."""


def set_up_cudnn(precision: str) -> None:
    """Take the fastest convolutions, as nnU-Net's own entry point does, and keep float32 from becoming TF32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "float32"


class FlareTrainer(ResumableTrainer):
    """nnU-Net's trainer with our protocol: class-balanced sampling, a choice of optimizer, precision, augmentation.

    The protocol is the plans' entry `training` (see `plans.plans`), so that plans, dataset.json and a checkpoint are
    all that is needed to make the trainer again.

    Arguments as the base class's.

    Attributes:
        precision: what it computes in: "mixed", "float32" or "bfloat16".
        workers: processes that load and augment; 0 to load in the training's own process.
        soft: whether labels are soft where a teacher hesitated (`fine_labels`).
        sets: admissible sets of each case (`losses.admissible_sets`); None with nnU-Net's loss.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (the base class's signature, which it inspects)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        protocol = TrainingProtocol.from_json(plans["training"])
        self.protocol = protocol
        self.precision = training_precision(protocol.precision, self.device)
        self.workers = 0
        self.num_epochs = protocol.epochs
        self.num_iterations_per_epoch = protocol.iterations_per_epoch
        self.num_val_iterations_per_epoch = protocol.validation_iterations
        self.initial_lr = protocol.learning_rate
        self.weight_decay = protocol.weight_decay
        self.oversample_foreground_percent = protocol.oversample_foreground
        self.soft = plans.get("soft", False)
        by_sets = self.soft or protocol.loss == "label_sets" or protocol.label_factor is not None
        self.sets = self._label_sets(plans, dataset_json) if by_sets else None

    def _label_sets(self, plans: dict[str, Any], dataset_json: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the admissible sets of each case (`losses.admissible_sets`).

        A class that is annotated in no case cannot be learned; it counts as absent from all of them. Without the loss
        label_sets everything counts as annotated.
        """
        labels = self.label_manager.foreground_labels
        whole = {identifier(case): labels for case in dataset_json["dataset"]}
        annotated: dict[str, list[int]] = dataset_json["annotated"] if self.protocol.loss == "label_sets" else whole
        nowhere = set(labels).difference(*annotated.values())
        hidden_in = {int(label): others for label, others in plans.get("hidden_in", {}).items()}
        weight = self.protocol.hidden_weight
        return {
            case: admissible_sets({*found, *nowhere}, len(labels) + 1, hidden_in, weight)
            for case, found in annotated.items()
        }

    # ------------------------------------------------------------------ the protocol

    def initialize(self) -> None:
        """Build the network, with the memory layout in which 3-D convolutions are fastest."""
        checkpoints.seed(self.protocol.seed)
        if self.device.type == "cuda":
            set_up_cudnn(self.precision)
        distributed, self.is_ddp = self.is_ddp, False
        super().initialize()
        # PyTorch's annotations leave out this signature of `to`.
        self.network = self.network.to(memory_format=memory_format(self.device))  # type: ignore[call-overload]
        if self.precision != "mixed":
            self.grad_scaler = None
        if distributed:
            self.is_ddp = True
            self._set_batch_size_and_oversample()
            self.loss = self._build_loss()
            devices = None if self.device.type == "cpu" else [self.local_rank]
            self.network = DistributedDataParallel(self.network, device_ids=devices)
            checkpoints.seed(self.protocol.seed + self.local_rank)

    def _do_i_compile(self) -> bool:
        """Return nnU-Net's choice: to compile on a GPU, unless nnUNet_compile is false; not if Triton cannot.

        Triton builds with CC, gcc or clang against Python's headers.
        """
        if not super()._do_i_compile():
            return False
        compilers = shlex.split(os.environ.get("CC", ""))[:1] or ["gcc", "clang"]
        headers = Path(sysconfig.get_path("include"), "Python.h")
        can_build = any(map(shutil.which, compilers)) and headers.exists()
        if not can_build and not self.was_initialized:
            log.warning("training without torch.compile, which needs a C compiler and %s", headers)
        return can_build

    def configure_optimizers(self):
        """Return the configured optimizer and the polynomial decay of its learning rate."""
        parameters = self.network.parameters()
        fused = self.device.type == "cuda"
        optimizer: torch.optim.Optimizer
        if self.protocol.optimizer == "adamw":
            optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay, fused=fused)
        else:
            momentum = self.protocol.momentum
            optimizer = torch.optim.SGD(
                parameters, self.initial_lr, weight_decay=self.weight_decay, momentum=momentum,
                nesterov=momentum > 0, fused=fused,
            )  # fmt: skip
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802 (the base class's name)
        """Return nnU-Net's choice, with the configured mirror axes."""
        choice = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation, dummy_2d, initial_patch_size, _ = choice
        mirror_axes = self.protocol.mirror_axes
        self.inference_allowed_mirroring_axes = mirror_axes or None  # nnU-Net's predictor takes None for none
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_training_transforms(self, *args, **kwargs):
        """Return nnU-Net's augmentation, with elastic deformation if it is configured."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.protocol.elastic_deformation:
            deform_elastically(transforms)
        return transforms

    # ------------------------------------------------------------------ batches

    def get_dataloaders(self):
        """Return the endless generators of augmented training and plain validation batches."""
        patch_size = self.configuration_manager.patch_size
        augmentation, plain, initial_patch_size = self._transforms()
        training, validation = self.get_tr_and_val_datasets()
        members = cases_by_class(training, self.label_manager.foreground_labels)
        names = zip(members.values(), self.class_names, strict=True)
        if left_out := ", ".join(name for cases, name in names if not cases):
            log.info("no case has voxels of %s; they are never a patch's target", left_out)
        if self.protocol.copy_tumors is not None:
            training = NamedCases(training.source_folder, training.identifiers)
            copied = self._copied(int(self.protocol.copy_tumors.label), members)
            augmentation.transforms.insert(0, CopyTumors(self.protocol.copy_tumors, copied, training, patch_size))
        loaders = [
            self._loader(training, members, initial_patch_size, augmentation),
            self._loader(validation, members, patch_size, plain),
        ]
        seeds = map(self._worker_seeds, range(len(loaders)))
        pinned = self.device.type == "cuda"
        generators = [endless(loader, own, pinned) for loader, own in zip(loaders, seeds, strict=True)]
        for generator in generators:
            next_batch(generator)
        return tuple(generators)

    def _copied(self, value: int, members: dict[int, list[str]]) -> Copied:
        """Return which cases a label, by its value, is copied from and to; TrainingError if there are none."""
        label = self.plans_manager.plans["label_values"].index(value) + 1
        donors, name = members[label], self.class_names[label - 1]
        annotated = [case for case, labels in self.dataset_json["annotated"].items() if label in labels]
        recipients = frozenset(annotated).difference(donors)
        for cases, what in ((donors, f"has {name}"), (recipients, f"is known to be without {name}")):
            if not cases:
                raise TrainingError(f"copy_tumors: no case {what} (`annotated` of the categories says what is known)")
        log.info("%s of %d cases is copied into %d that have none", name, len(donors), len(recipients))
        others = [one for one in self.label_manager.foreground_labels if one != label]
        return Copied(
            label, self.plans_manager.plans.get("hidden_in", {}).get(str(label), others), donors, recipients
        )

    def _transforms(self) -> tuple[BasicTransform, BasicTransform, tuple[int, ...]]:
        """Return the augmentation, the transforms of validation patches, and the size it starts from."""
        factor = self.protocol.label_factor
        scales = None if factor else self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        common = {
            "foreground_labels": self.label_manager.foreground_labels,
            "ignore_label": self.label_manager.ignore_label,
        }
        augmentation = self.get_training_transforms(
            self.configuration_manager.patch_size, rotation, scales, mirror_axes, dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm, **common,
        )  # fmt: skip
        plain = self.get_validation_transforms(scales, **common)
        if factor or self.soft:
            augmentation, plain = (with_labels(one, factor or (1, 1, 1), self.soft) for one in (augmentation, plain))
        return augmentation, plain, initial_patch_size

    def _loader(self, dataset, members, patch_size, transforms) -> nnUNetDataLoader:
        arguments = (dataset, self.batch_size, patch_size, self.configuration_manager.patch_size, self.label_manager)
        options = {
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
            "transforms": transforms,
        }
        if self.protocol.sampling == "nnunet":
            return nnUNetDataLoader(*arguments, **options)
        return BalancedDataLoader(*arguments, **options, members=members)

    def _worker_seeds(self, stream: int) -> list[int]:
        """Return a seed for each process that loads: of stream 0, the training, or 1, the validation patches."""
        if self.workers == 0:
            return []
        processes = max(1, round(self.workers * (1.0, 0.5)[stream]))
        first = self._fresh_seed(stream, 2**31 - processes)
        return list(range(first, first + processes))

    def _fresh_seed(self, stream: int, below: int) -> int:
        """Return a seed that no earlier start of this training used, as each start is at another iteration."""
        place = (self.protocol.seed, self.local_rank, self.current_epoch, len(self.epoch.losses), stream)
        return int(np.random.default_rng(place).integers(below))

    def seed_rank(self) -> None:
        """Seed a process of a resumed training; the first one has the checkpoint's random state."""
        checkpoints.seed(self._fresh_seed(2, 2**31))

    def used(self) -> dict[str, Any]:
        """Return what the training used, as plain data."""
        group = {key: str(value) for key, value in self.optimizer.param_groups[0].items() if key != "params"}
        reduced = self.autocast()
        copies = [CopyTumors.__name__] if self.protocol.copy_tumors is not None else []
        return {
            "optimizer": {"class": type(self.optimizer).__name__, **group},
            "schedule": type(self.lr_scheduler).__name__,
            "loss": type(getattr(self.loss, "loss", self.loss)).__name__,
            "computed_in": str(reduced.fast_dtype if reduced._enabled else torch.float32),
            "loss_scaling": self.grad_scaler is not None,
            "compiled": self._do_i_compile(),
            "batch_size": self.configuration_manager.batch_size,
            "patch_size": [int(size) for size in self.configuration_manager.patch_size],
            "forced_patches_per_batch": forced_patches(self.batch_size, self.oversample_foreground_percent),
            "mirror_axes": list(self.protocol.mirror_axes),
            "augmented_in_plane": self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[1],
            "augmentation": [*copies, *map(str, self._transforms()[0].transforms)],
            "parameters": sum(parameter.numel() for parameter in self.bare_network.parameters()),
        }

    # ------------------------------------------------------------------ one step

    def train_step(self, batch: dict) -> torch.Tensor:
        """Take one step, and return its loss, still on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, _, _ = self._forward(batch)
        scaler = self.grad_scaler or torch.amp.GradScaler(enabled=False)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        scaler.step(self.optimizer)
        scaler.update()
        return loss.detach()

    def validation_step(self, batch: dict) -> tuple[float, np.ndarray]:
        """Return a batch's loss, and (3, classes) voxels: true positive, false positive, false negative.

        As nnU-Net's `validation_step`, but in the configured precision, where that has one of its own on a GPU. With
        label sets voxels count for the classes of which it is known whether they are theirs.
        """
        loss, output, target = self._forward(batch)
        if self.protocol.label_factor:
            output = F.interpolate(output.float(), target.shape[2:], mode="trilinear", align_corners=False)
        return float(loss.detach()), count_voxels(output, target, self._sets_of(batch))

    def _build_loss(self) -> torch.nn.Module:
        """Return nnU-Net's loss with its weights of the scales, or that of the label sets with the same ones."""
        loss = super()._build_loss()
        if self.protocol.label_factor:
            return FineLabelLoss(loss.weight_factors, self.protocol.targets == "native", self.is_ddp)
        if self.sets is not None:
            loss.loss = LabelSetLoss(self.is_ddp)
        return loss

    def _sets_of(self, batch: dict) -> torch.Tensor:
        """Return the admissible sets of a batch's cases, (b, classes + 1, classes)."""
        labels = self.label_manager.foreground_labels
        whole = admissible_sets(labels, len(labels) + 1)
        return torch.stack([whole if self.sets is None else self.sets[key] for key in batch["keys"]])

    def _forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a batch's loss, and logits (b, classes, z, y, x) and labels (b, 1, z, y, x) of full resolution.

        Finer labels come back as they are.
        """
        data = batch["data"].to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        if self.protocol.label_factor:
            fine = batch["target"].to(self.device, non_blocking=True)
            with self.autocast():
                output = self.network(data)
                return self._loss(output, fine, self._sets_of(batch)), output[0], fine[:, :1]
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        with self.autocast():
            output = self.network(data)
            inputs = [output, target]
            if self.sets is not None:
                inputs.append([self._sets_of(batch)] * len(output))
            return self._loss(*inputs), output[0], target[0][:, :1]

    def autocast(self) -> torch.autocast:
        """Compute in the configured precision; "mixed" is nnU-Net's way: float16 on a GPU, float32 elsewhere."""
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float16
        on_gpu = self.precision == "mixed" and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype, enabled=self.precision == "bfloat16" or on_gpu)

    def _loss(self, output: list[torch.Tensor], *targets: Any) -> torch.Tensor:
        """Return the loss; sums over a patch need more digits than bfloat16 has, and those of label sets float32."""
        if self.precision != "bfloat16" and self.sets is None:
            return self.loss(output, *targets)
        with torch.autocast(self.device.type, enabled=False):
            return self.loss([scale.float() for scale in output], *targets)
