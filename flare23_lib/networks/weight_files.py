"""Writing weights and checkpoints through Python's files.

The libraries' own writers do not raise the operating system's error (PyTorch), or write to a file of another name in
the same folder, which a kill leaves there (safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

BUFFER_BYTES = 1 << 20
"""PyTorch writes an archive in many small parts."""


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as a safetensors file, one by one, so that no second copy of them all is in memory.

    The bytes are those of `safetensors.torch.save` for tensors of one type.

    Args:
        path: of the file.
        tensors: by name, on any device.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", BUFFER_BYTES) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint as `torch.save` does; OSError if it cannot be written."""
    with path.open("wb", BUFFER_BYTES) as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # its archive cannot be ended after a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
