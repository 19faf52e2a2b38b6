"""A bundle as a model folder that nnU-Net's own `nnUNetv2_predict_from_modelfolder` opens."""

from __future__ import annotations

import logging
from pathlib import Path

from flare23_lib.errors import BundleError
from flare23_lib.inference.bundle import Bundle
from flare23_lib.io.atomic import atomic_path, write_json
from flare23_lib.networks.weight_files import save_checkpoint
from flare23_lib.nnunet.plans import CONFIGURATION, dataset_json, network_plans

log = logging.getLogger(__name__)

TRAINER = "nnUNetTrainer"
"""nnU-Net's own trainer, which builds the network that the plans name."""


def export_to_nnunet(bundle: Bundle, output: Path) -> None:
    """Write `plans.json`, `dataset.json` and `fold_all/checkpoint_final.pth`; BundleError if that exists already.

    The plans name the network by its import path: this package has to be installed beside nnU-Net. What nnU-Net does
    otherwise than `flare23 predict` is logged.
    """
    checkpoint_file = output / "fold_all" / "checkpoint_final.pth"
    if checkpoint_file.exists():
        raise BundleError(f"{output}: holds a trained model already; give another folder")
    model = bundle.model
    plans = {
        **network_plans(model.patch_size, model.spacing, model.intensity, model.network, batch_size=2),
        "label_values": model.values[1:],
        "orientation": model.orientation,
    }
    dataset = dataset_json(model.names[1:], False, [], model.unseen)
    write_json(output / "plans.json", plans)
    write_json(output / "dataset.json", dataset)
    checkpoint = {
        "network_weights": dict(bundle.state_dict),
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": model.mirror_axes or None,
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": "all", "dataset_json": dataset},
    }
    with atomic_path(checkpoint_file) as temporary:
        save_checkpoint(temporary, checkpoint)
    if model.values != list(range(len(model.values))):
        log.warning("%s: nnU-Net writes 1, 2, ... in the order of the labels, not the model's values", output)
    if model.orientation != "stored":
        log.warning("%s: nnU-Net takes axes as stored; give it images in LPS (identity direction)", output)
    if model.unseen:
        log.warning("%s: nnU-Net may answer with classes that were never seen: %s", output, ", ".join(model.unseen))
