"""What a device computes in: 16 bit where its instructions do, float32 elsewhere.

`auto` is what settings, fingerprints and bundles hold: it stands for "16 bit or better", on any
device. So a cohort finished on two kinds of machines is one result, and nothing is computed twice; the precision of
each case is in its metadata.
"""

from __future__ import annotations

import logging
import os

import torch

from flare23_lib.errors import ConfigError

log = logging.getLogger(__name__)

AUTO = "auto"
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""As `torch.cpu.get_capabilities` names them; the last one is ARM's."""

BFLOAT16_ISA = ("DEFAULT", "BF16", "FP16", "AMX", "AVX10")
"""Parts of the values of ONEDNN_MAX_CPU_ISA that leave oneDNN those instructions."""


def inference_precision(name: str, device: torch.device) -> str:
    """Return what a network computes in: "float32", "bfloat16" or "float16".

    "auto" is bfloat16 where the device has instructions for it, else float16 on a CUDA GPU and float32 elsewhere.

    Raises:
        ConfigError: the device only emulates what is named.
    """
    if name == AUTO:
        otherwise = "float16" if device.type == "cuda" else "float32"
        name = "bfloat16" if computes_in_bfloat16(device) else otherwise
    return _taken(name, device)


def training_precision(name: str, device: torch.device) -> str:
    """Return what a training computes in: "mixed", "float32" or "bfloat16".

    "auto" is mixed (nnU-Net's float16 with scaled gradients) on a CUDA GPU, bfloat16 on a CPU with instructions for
    it, float32 elsewhere.

    Raises:
        ConfigError: the device only emulates what is named.
    """
    if name == AUTO:
        on_cpu = "bfloat16" if computes_in_bfloat16(device) else "float32"
        name = "mixed" if device.type == "cuda" else on_cpu
    return _taken(name, device)


def _taken(name: str, device: torch.device) -> str:
    refuse_emulation(name, device)
    log.info("precision: %s", name)
    return name


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16; a CPU that emulates it takes 100 times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    return (
        _has_bfloat16_instructions()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and any(part in isa for part in BFLOAT16_ISA)
    )


def _has_bfloat16_instructions() -> bool:
    """Return whether the CPU reports them; False where a PyTorch of before 2026 cannot tell."""
    if hasattr(torch.cpu, "get_capabilities"):
        reported = torch.cpu.get_capabilities()
        return any(reported.get(name) for name in BFLOAT16_INSTRUCTIONS)
    return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def refuse_emulation(name: str, device: torch.device) -> None:
    """Raise ConfigError if a device only emulates a precision."""
    if name == "float16" and device.type == "cpu":
        raise ConfigError("precision float16: this CPU only emulates it; use auto (--precision auto), or float32")
    if name == "bfloat16" and not computes_in_bfloat16(device):
        what = "this GPU" if device.type == "cuda" else "this CPU" if device.type == "cpu" else f"device {device}"
        raise ConfigError(f"precision bfloat16: {what} only emulates it; use auto (--precision auto), or float32")
