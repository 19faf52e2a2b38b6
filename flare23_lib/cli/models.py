"""Commands that use a model: `predict`, `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flare23_lib.cache.entries import Shard
from flare23_lib.cli.common import Commands, at_least, command, device, output_file, output_folder
from flare23_lib.runtime.devices import NAMES
from flare23_lib.runtime.signals import ended_at_once


@ended_at_once()
def _predict(args: argparse.Namespace) -> int:
    from flare23_lib.inference.image_files import MB, Reader, find_cases, model_file

    model_file(args.model)
    reader = Reader(find_cases(args.input, args.output, args.shard), args.overwrite)
    reader.start_early(args.memory * MB)  # torch is imported and the weights are loaded beside it
    import torch

    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.engine import Engine
    from flare23_lib.inference.memory import Limits
    from flare23_lib.inference.predict import predict
    from flare23_lib.inference.timing import seconds_since_start
    from flare23_lib.runtime.devices import choose

    seconds = {"start_up": seconds_since_start()}
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = choose(args.device)
    bundle = load_bundle(args.model)
    engine = Engine(bundle, chosen, args.step, args.tta, args.precision, args.windows,
                    Limits(args.gpu_memory, args.memory), args.compile)  # fmt: skip
    seconds["weights"] = seconds_since_start() - seconds["start_up"]
    faults = predict(reader, engine, args.timings, seconds)
    return 1 if faults else 0


def _export(args: argparse.Namespace) -> int:
    from flare23_lib.inference.bundle import InferenceDefaults
    from flare23_lib.inference.export import export_checkpoint

    inference = InferenceDefaults(step=args.step, tta=bool(args.tta), windows=args.windows)
    model = export_checkpoint(args.checkpoint, args.output, args.name, args.orientation, inference)
    print(f"{args.output}: {model.name}, {len(model.labels) - 1} labels, orientation {model.orientation}")
    return 0


def _labels_path(text: str) -> Path:
    """Return the path of a folder for labels, or of a single case's label file."""
    from flare23_lib.inference.image_files import case_name

    path = Path(text)
    return output_file(text) if case_name(path) and not path.is_dir() else output_folder(text)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text.replace("/", "-of-"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 0/4") from error


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "predict", _predict, "segment CTs with a model bundle")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.json and model.safetensors")
    parser.add_argument("--input", type=Path, required=True, help="a NIfTI file or a folder of them")
    parser.add_argument("--output", type=_labels_path, required=True,
                        help="folder for the labels; for a single image their file, too")  # fmt: skip
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=None,
                        help="average over mirrored passes (default: the model's)")  # fmt: skip
    parser.add_argument("--step", type=float, help="distance of windows in patch sizes (default: the model's)")
    parser.add_argument("--windows", choices=["all", "body", "center_first"],
                        help="where windows are laid (default: the model's)")  # fmt: skip
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto",
                        help="auto takes the fastest of the device (default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", type=device, default="auto",
                        help=f"{NAMES}; N counts GPUs from 0 (default: auto, a GPU if there is one)")  # fmt: skip
    parser.add_argument("--gpu-memory", type=at_least(1), default=4000, metavar="MB",
                        help="limit on the GPU, as its driver counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--memory", type=at_least(1), default=8000, metavar="MB",
                        help="limit of the process on the host (default: %(default)s)")  # fmt: skip
    parser.add_argument("--compile", action="store_true",
                        help="compile the network first; pays over many cases, if at all")  # fmt: skip
    parser.add_argument("--threads", type=at_least(1), help="processor threads (default: PyTorch's choice)")
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only part I (from 0) of N parts of a folder, by a hash of names",
    )
    parser.add_argument(
        "--timings", type=output_file, metavar="FILE", help="CSV for the seconds per phase of each case"
    )
    parser.add_argument("--overwrite", action="store_true", help="segment again what is there already")

    parser = command(commands, "export", _export, "make a model bundle from an nnU-Net checkpoint of a STU-Net")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint_final.pth of nnU-Net v2")
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the bundle")
    parser.add_argument("--name", default="student", help="name of the model (default: %(default)s)")
    parser.add_argument("--orientation", choices=["stored", "canonical"],
                        help="default: what its plans say, else stored, nnU-Net's way")  # fmt: skip
    parser.add_argument("--step", type=float, default=0.5, help="distance of windows (default: %(default)s)")
    parser.add_argument("--windows", choices=["all", "body", "center_first"], default="body",
                        help="where windows are laid (default: %(default)s)")  # fmt: skip
    parser.add_argument("--tta", action="store_true", help="the model averages over mirrored passes by default")
