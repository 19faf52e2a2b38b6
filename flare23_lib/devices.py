"""Which device work runs on."""

from __future__ import annotations

import logging

import torch

from flare23_lib import gpus
from flare23_lib.errors import ConfigError

log = logging.getLogger(__name__)


def choose(device: str, claimed: int = 0) -> torch.device:
    """Return the device for "auto" (a GPU if there is one), "cuda" or "cpu", and log what it is.

    Args:
        device: which.
        claimed: how many GPUs the process claims for itself first (`gpus.claim`), if it may use any.

    Raises:
        ConfigError: "cuda" was asked for and there is none.
    """
    if claimed and device != "cpu":
        gpus.claim(claimed)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("device: cuda was asked for, and PyTorch sees no GPU; use cpu or auto")
    chosen = torch.device("cuda" if device == "cuda" or (device == "auto" and available) else "cpu")
    name = torch.cuda.get_device_name() if chosen.type == "cuda" else f"CPU with {torch.get_num_threads()} threads"
    log.info("runs on %s", name)
    return chosen
