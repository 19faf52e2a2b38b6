"""Commands that use a model: `predict`, `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flare23_lib.commands.common import Commands, command, say


def _predict(args: argparse.Namespace) -> int:
    import torch

    from flare23_lib.devices import choose
    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.predict import predict

    if args.threads:
        torch.set_num_threads(args.threads)
    faults = predict(
        args.input,
        args.output,
        load_bundle(args.model),
        device=choose(args.device),
        step=args.step,
        tta=args.tta,
        precision=args.precision,
        overwrite=args.overwrite,
    )
    return 1 if faults else 0


def _export(args: argparse.Namespace) -> int:
    from flare23_lib.inference.bundle import InferenceDefaults
    from flare23_lib.inference.export import export_checkpoint

    inference = InferenceDefaults(step=args.step, tta=bool(args.tta))
    model = export_checkpoint(args.checkpoint, args.output, args.name, args.orientation, inference)
    say(f"{args.output}: {model.name}, {len(model.labels) - 1} labels, orientation {model.orientation}")
    return 0


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "predict", _predict, "segment CTs with a model bundle")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json and model.safetensors")
    parser.add_argument("--input", type=Path, required=True, help="a NIfTI file or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for the labels")
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=None,
                        help="average over mirrored passes (default: the model's)")  # fmt: skip
    parser.add_argument("--step", type=float, help="distance of windows in patch sizes (default: the model's)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="(default: the model's)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is there already")

    parser = command(commands, "export", _export, "make a model bundle from an nnU-Net checkpoint of a STU-Net")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint_final.pth of nnU-Net v2")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--name", default="student", help="name of the model (default: %(default)s)")
    parser.add_argument("--orientation", choices=["stored", "canonical"],
                        help="default: what its plans say, else stored, nnU-Net's way")  # fmt: skip
    parser.add_argument("--step", type=float, default=0.5, help="distance of windows (default: %(default)s)")
    parser.add_argument("--tta", action="store_true", help="the model averages over mirrored passes by default")
