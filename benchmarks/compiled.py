"""What `flare23 predict --compile` saves, window by window, and after how many windows it has paid.

    python benchmarks/compiled.py --folder FOLDER [--device cuda --network stunet_base --output FILE]

The model and its patch are those of `inference_case.py`; one window at a time is run on noise, as it is and compiled,
in turn, and the shortest of the times counts. Compiling starts from an empty cache. On a GPU convolutions are chosen
as the engine has them chosen: those that repeat their results, and float32 that is not TF32.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inference_case import RECIPES, Making, make
from provenance import provenance

from flare23_lib.inference.bundle import Bundle, load_bundle
from flare23_lib.inference.network import WindowNetwork
from flare23_lib.io.atomic import write_json


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def compare(bundle: Bundle, device: torch.device, precision: str, repeats: int) -> dict[str, Any]:
    """Time a network as it is and compiled."""
    patch = torch.randn(1, *bundle.model.patch_size, generator=torch.Generator().manual_seed(0)).to(device)
    networks = [WindowNetwork(bundle.build_network(), device, precision, option) for option in (False, True)]
    plain, compiled = networks
    tf32 = precision != "float32"
    chosen = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32)
    with torch.inference_mode(), chosen:
        seconds_of(partial(plain, patch), device)
        compiling = seconds_of(partial(compiled, patch), device)
        times = [[seconds_of(partial(network, patch), device) for network in networks] for _ in range(repeats)]
        different = float((plain(patch).argmax(-1) != compiled(patch).argmax(-1)).float().mean())
    best = [min(column) for column in zip(*times, strict=True)]
    saved = best[0] - best[1]
    return {
        "window_s": round(best[0], 4), "compiled_window_s": round(best[1], 4), "ratio": round(best[0] / best[1], 3),
        "compiling_s": round(compiling, 1), "paid_after_windows": math.ceil(compiling / saved) if saved > 0 else None,
        "voxels_of_noise_labeled_otherwise": round(different, 6),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the model is kept")
    parser.add_argument("--network", default="stunet_small", choices=list(RECIPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compiled.json")
    args = parser.parse_args()
    make(args.folder, args.network, Making(device=args.device))
    bundle, device = load_bundle(args.folder / args.network), torch.device(args.device)
    found = {**provenance(), "network": args.network, "device": args.device}
    for precision in args.precisions:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            found[precision] = compare(bundle, device, precision, args.repeats)
        print(precision, found[precision], flush=True)
        write_json(args.output, found)


if __name__ == "__main__":
    main()
