"""Is float32 really float32 on a GPU, and not TF32, where training and inference say so?

    python benchmarks/float32.py --device cuda --output FILE

A convolution, its weights' gradient and a small STU-Net are computed in float32 under the settings of cuDNN that
PyTorch begins with, that `set_up_cudnn` makes for a training in each precision, and that the engine makes for
float32, and compared with float64 on the CPU. The relative error (of norms) of float32 lies below 1e-5, that of TF32,
whose products have 10 bits, near 3e-4. Ends with an error if float32 was computed as TF32 where it must not be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from provenance import provenance

from flare23_lib.inference.engine import _reproducible
from flare23_lib.io.atomic import write_json
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet.trainer import set_up_cudnn

TF32 = 5e-5
"""Relative error from which on products cannot have been those of float32."""

MUST_BE_FLOAT32 = ("training_float32", "engine_float32")

NO_GPU = "no GPU here: there is no TF32, the errors are those of the CPU"


def convolved(image: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a convolution's result and the gradient of its weights."""
    weight = weight.clone().requires_grad_()
    result = F.conv3d(image, weight, padding=1)
    (gradient,) = torch.autograd.grad((result * result.detach().roll(1, 1)).sum(), weight)
    return {"convolution": result.detach(), "gradient": gradient}


def computed(device: torch.device, kind: torch.dtype) -> dict[str, torch.Tensor]:
    """Compute everything on a device, from the same random numbers, and return it as float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    image, weight, patch = (
        torch.randn(shape, generator=generator).to(device, kind)
        for shape in ((1, 32, 8, 24, 24), (64, 32, 3, 3, 3), (1, 1, 16, 32, 32))
    )
    torch.manual_seed(0)
    network = STUNet(1, 15, **Architecture.named("stunet_tiny").to_json())
    network.apply(network.initialize)
    network = network.to(device, kind, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    with torch.no_grad():
        logits = network(patch)
    found = {**convolved(image, weight), "network": logits}
    return {name: value.cpu().double() for name, value in found.items()}


@contextlib.contextmanager
def set_up(precision: str | None) -> Iterator[None]:
    """Set cuDNN up for a training in a precision, or leave it as PyTorch begins."""
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    try:
        if precision is not None:
            set_up_cudnn(precision)
        yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = flags


def settings(device: torch.device) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """Return the settings of cuDNN, by name."""
    return {
        "pytorch_default": partial(set_up, None),
        **{f"training_{name}": partial(set_up, name) for name in ("float32", "mixed", "bfloat16")},
        "engine_float32": partial(_reproducible, device, "float32"),
    }


def measure(device: torch.device) -> dict[str, Any]:
    """Return the errors under each of the settings, and whether two results are equal to the bit."""
    reference = computed(torch.device("cpu"), torch.float64)
    found: dict[str, Any] = {}
    for name, context in settings(device).items():
        with context():
            flags = {key: getattr(torch.backends.cudnn, key) for key in ("benchmark", "deterministic", "allow_tf32")}
            made, again = (computed(device, torch.float32) for _ in range(2))
        errors = {key: float((made[key] - reference[key]).norm() / reference[key].norm()) for key in reference}
        tf32 = any(not error < TF32 for error in errors.values()) if device.type == "cuda" else NO_GPU
        repeated = {key: torch.equal(made[key], again[key]) for key in reference}
        found[name] = {"cudnn": flags, "relative_error": errors, "tf32": tf32, "equal_when_repeated": repeated}
    return found


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = measure(torch.device(args.device))
    # On a CPU the errors are judged likewise: there they show that the comparison itself is right.
    wrong = [name for name in MUST_BE_FLOAT32 if not max(found[name]["relative_error"].values()) < TF32]
    result = {**provenance(), "device": args.device, "not_float32": wrong, "settings": found}
    print(json.dumps(result, indent=2))
    if args.output:
        write_json(args.output, result)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
