"""Files of weights: safetensors, and nnU-Net's own checkpoints, which are pickles; nothing in them is run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file

from flare23_lib.errors import BundleError, first_line

SAFE_GLOBALS: list[Any] = [
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
    # numpy 2 moved its internals: checkpoints name them by either path.
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for module in ("numpy.core", "numpy._core")
        for function in (multiarray.scalar, multiarray._reconstruct)
    ),
]
"""What nnU-Net's checkpoints hold in addition to tensors and plain values: numbers and arrays of numpy."""


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU, by name of layer.

    Raises:
        BundleError: missing, broken, or lost while it is read; one line that names the file.
    """
    try:
        return load_file(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: PyTorch's, of a file it cannot map
        raise BundleError(f"{path}: cannot be read ({first_line(error)})") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net (version 2 `.pth`, version 1 `.model`) onto the CPU.

    Only tensors, plain values and numpy's numbers are read. A pickle that names anything else is refused before
    anything of it runs.

    Raises:
        BundleError: missing, broken, or in need of more than `SAFE_GLOBALS`.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(4)
        if start != b"PK\x03\x04" and not start.startswith(b"\x80"):
            raise BundleError(f"{path}: is not a checkpoint of torch.save")
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise BundleError(f"{path}: is refused, and nothing in it was run: {_reason(error)}") from error
    except Exception as error:  # a broken file ends in errors of many kinds
        raise BundleError(f"{path}: is broken or not a checkpoint ({first_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise BundleError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def checkpoint_weights(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, torch.Tensor]:
    """Return the network's weights of a checkpoint: `network_weights` (nnU-Net 2) or `state_dict` (nnU-Net 1).

    Prefixes that compilation (`_orig_mod.`) and distributed training (`module.`) leave are removed.

    Raises:
        BundleError: neither key is there, or what it holds is not weights.
    """
    weights = checkpoint.get("network_weights", checkpoint.get("state_dict"))
    if weights is None:
        raise BundleError(f"{source}: has neither network_weights (nnU-Net 2) nor state_dict (nnU-Net 1)")
    if not isinstance(weights, Mapping) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise BundleError(f"{source}: does not hold weights under their key")
    return {re.sub(r"^(_orig_mod\.|module\.)+", "", name): weight for name, weight in weights.items()}


def _reason(error: pickle.UnpicklingError) -> str:
    """Shorten torch's page of advice to the line that names what the pickle wanted."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it needs {named.group(1)}" if named else first_line(error)
