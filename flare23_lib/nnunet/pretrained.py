"""The weights that a training starts from (`pretrained` in the configuration): what a file holds, and which of it a
network can start from.

Three kinds of file are read: those of the STU-Net releases (nnU-Net 1, `.model`), nnU-Net 2's checkpoints, and the
safetensors of our bundles.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flare23_lib.choices import MODEL_FILE
from flare23_lib.errors import BundleError, TrainingError
from flare23_lib.inference.bundle import file_sha256
from flare23_lib.inference.checkpoint import checkpoint_weights, read_checkpoint, read_safetensors
from flare23_lib.io.atomic import read_json

if TYPE_CHECKING:
    from flare23_lib.nnunet.trainer import FlareTrainer

log = logging.getLogger(__name__)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights onto the CPU, by name of parameter; nothing in it is run.

    Raises:
        BundleError: missing, broken, in need of more than plain values, or not the weights that the bundle around
            them describes; one line that names the file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return checkpoint_weights(read_checkpoint(path), path)
    weights, described = read_safetensors(path), path.with_name(MODEL_FILE)
    content = read_json(described) if described.exists() else {}
    bundled = content.get("weights") if isinstance(content, dict) else None
    if isinstance(bundled, dict) and bundled.get("file") == path.name and bundled.get("sha256") != file_sha256(path):
        raise BundleError(f"{path}: does not match {MODEL_FILE} (SHA-256 differs)")
    return weights


def match(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """Compare weights with a network's parameters, by name and shape. The network may be on the meta device.

    Layers whose shape differs start fresh: of a network for other classes, the heads.

    Returns:
        The weights that the network can start from, by name of parameter; and the names of all others, by the reason.
    """
    expected = network.state_dict()
    fitting = {
        name: weights[name].to(parameter.dtype)
        for name, parameter in expected.items()
        if name in weights and weights[name].shape == parameter.shape
    }
    others = {
        "shape differs": [name for name in expected if name in weights and name not in fitting],
        "not in the file": [name for name in expected if name not in weights],
        "not in the network": [name for name in weights if name not in expected],
    }
    return fitting, {reason: names for reason, names in others.items() if names}


def digest_of(source: Path | None) -> str | None:
    """Return the SHA-256 of a file of initial weights; None without one. BundleError if it cannot be read."""
    if source is None:
        return None
    try:
        status = source.stat()
        return _digest(source, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BundleError(f"{source}: cannot be read ({error.strerror})") from error


@functools.cache
def _digest(source: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file of this size, changed then. Cached, as large files are asked for repeatedly."""
    return file_sha256(source)


def load_initial_weights(source: Path, trainer: FlareTrainer) -> None:
    """Load weights into a new trainer, and log which parameters were not loaded, and why.

    The file of weights is one that `read_weights` reads; the trainer's training has not begun.

    Raises:
        BundleError: the file cannot be read.
        TrainingError: none of its kernels fits.
    """
    weights, others = match(trainer.bare_network, read_weights(source))
    if trainer.local_rank == 0:
        log.info("%d of %d parameters start from %s", len(weights), len(trainer.bare_network.state_dict()), source)
        for reason, names in others.items():
            log.info("%s: %s", reason, ", ".join(names))
    if not any(weight.dim() > 1 for weight in weights.values()):
        raise TrainingError(f"{source}: no kernel fits the network")
    trainer.bare_network.load_state_dict(weights, strict=False)
