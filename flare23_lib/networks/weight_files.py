"""Writing weights and checkpoints through Python's files.

The libraries' own writers do not raise the operating system's error (PyTorch), or write to a file of another name in
the same folder, which a kill leaves there (safetensors).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

BUFFER_BYTES = 1 << 20
"""PyTorch writes an archive in many small parts."""


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of any device as a safetensors file; two more copies of them all are in memory meanwhile."""
    path.write_bytes(save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}))


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint as `torch.save` does; OSError if it cannot be written."""
    with path.open("wb", BUFFER_BYTES) as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # its archive cannot be ended after a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
