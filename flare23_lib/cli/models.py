"""Commands that use a model: `predict`, `export`."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from unicodedata import normalize

from flare23_lib.choices import MODEL_FILE, OrientationMode, OutputType, Precision, Windows
from flare23_lib.cli.common import Commands, at_least, command, device, output_file, output_folder, shard, window_step
from flare23_lib.errors import BundleError, UsageError
from flare23_lib.runtime.devices import NAMES
from flare23_lib.runtime.signals import ended_at_once

if TYPE_CHECKING:
    from flare23_lib.inference.model import Model
    from flare23_lib.inference.outputs import Outputs
    from flare23_lib.io.label_tables import Structure

log = logging.getLogger(__name__)


@ended_at_once()
def _predict(args: argparse.Namespace) -> int:
    from flare23_lib.inference.image_files import MB, default_memory, find_cases
    from flare23_lib.inference.model import chosen_labels, read_model
    from flare23_lib.inference.outputs import (
        check_class_names,
        check_tables,
        check_types,
        write_names,
        write_numbers,
    )
    from flare23_lib.inference.segment_cases import Reader
    from flare23_lib.runtime.machine import seconds_since_start, usable_memory

    model = read_model(args.model)
    table = chosen_labels(model.label_table, args.labels_only, "--labels-only")
    cases = find_cases(args.input, args.output, args.shard, args.series, args.irregular)
    check_types(args.output_type, cases)
    if args.per_class and cases:
        check_class_names(table, cases[0])
    outputs = _outputs(args, model, table)
    with_names = args.label_files and ("nifti" in outputs.types or outputs.per_class)
    if not args.overwrite:
        check_tables(cases, args.output, with_names, args.statistics)
    reader = Reader(cases, args.overwrite, outputs)
    args.memory = args.memory or default_memory()
    # torch is imported and the weights are loaded beside it.
    reader.start_early(args.memory * MB if args.memory else usable_memory())
    import torch

    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.engine import Engine
    from flare23_lib.inference.memory import Limits
    from flare23_lib.inference.predict import predict, write_run_report
    from flare23_lib.runtime.devices import choose

    seconds = {"start_up": seconds_since_start()}
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = choose(args.device)
    bundle = load_bundle(args.model).with_inference(args.step, args.tta, args.windows, args.precision)
    engine = Engine(bundle, chosen, Limits(args.gpu_memory, args.memory, whole_process=True), args.compile)
    seconds["weights"] = seconds_since_start() - seconds["start_up"]
    reports = predict(reader, engine, seconds)
    failed = sum(report["error"] is not None for report in reports)
    if args.run_report:
        options = {key: value for key, value in sorted(vars(args).items()) if key != "run"}
        write_run_report(args.run_report, engine, json.loads(json.dumps(options, default=str)), reports)
    if with_names and failed < len(cases):
        write_names(cases, args.output, table)
    if args.statistics:
        write_numbers(cases, args.output)
    return 1 if failed else 0


def _outputs(args: argparse.Namespace, model: Model, table: tuple[Structure, ...]) -> Outputs:
    from flare23_lib.inference.outputs import Outputs

    given = {"step": args.step, "windows": args.windows, "tta": args.tta}
    options = {name: getattr(model.inference, name) if value is None else value for name, value in given.items()}
    weights = model.weights.sha256[:16] if model.weights else "unknown weights"
    made_by = f"{model.name} {weights}, " + ", ".join(f"{name} {value}" for name, value in options.items())
    types = tuple(dict.fromkeys(args.output_type))
    outputs = Outputs(table, model.name, made_by, types, args.per_class, args.statistics)
    if args.preview:
        from flare23_lib.report.preview import draw_preview

        return replace(outputs, draw=draw_preview)
    return outputs


def _statistics(args: argparse.Namespace) -> int:
    from flare23_lib.errors import ImageError, one_line
    from flare23_lib.inference.image_files import find_cases
    from flare23_lib.inference.label_statistics import (
        check_statistics_table,
        measure_files,
        write_statistics_table,
    )
    from flare23_lib.inference.model import read_model

    check_statistics_table(args.output / "statistics.csv")
    table = read_model(args.model).label_table if args.model else None
    cases = find_cases(args.images, args.labels, series=args.series, irregular=args.irregular)
    unused: dict[str, Path] = {}
    if not args.labels.exists():
        raise ImageError(f"{args.labels}: no such file or folder")
    if args.labels.is_dir():  # names look the same in composed and decomposed letters
        unused = {normalize("NFC", path.name): path for path in sorted(args.labels.glob("[!.]*.nii.gz"))}
        if not unused:
            raise ImageError(f"{args.labels}: holds no label files (X.nii.gz)")
        found = [unused.pop(normalize("NFC", case.labels.name), case.labels) for case in cases]
        cases = [replace(case, labels=labels) for case, labels in zip(cases, found, strict=True)]
    if not args.images.is_dir() or not all(isinstance(case.image, Path) for case in cases):
        unused = {}  # one image was asked for
    for path in unused.values():
        log.warning("%s: has no image in %s and was left out", path, args.images)
    written, failed = [], 0
    for case in cases:
        try:
            written.append(measure_files(case, args.output, table))
        except ImageError as error:
            failed += 1
            log.error("%s", error if str(case.labels) in str(error) else one_line(case.image, error))
    write_statistics_table(args.output / "statistics.csv", written)
    print(f"{len(written)} of {len(cases)} cases measured; {args.output / 'statistics.csv'} is written")
    return 1 if failed or unused else 0


def _export(args: argparse.Namespace) -> None:
    if args.to == "nnunet":
        from flare23_lib.inference.bundle import load_bundle
        from flare23_lib.nnunet.export_folder import export_to_nnunet

        if args.model is None:
            raise UsageError("--to nnunet needs --model, the folder of a bundle")
        if given := [f"--{name}" for name in ("checkpoint", *EXPORT_DEFAULTS) if getattr(args, name) is not None]:
            raise UsageError(f"--to nnunet takes no {', '.join(given)}; what it writes is as the bundle's model")
        export_to_nnunet(load_bundle(args.model), args.output)
        print(f"{args.output}: nnUNetv2_predict_from_modelfolder -m {args.output} -f all -i IMAGES -o LABELS")
        return
    from flare23_lib.inference.export import export_checkpoint
    from flare23_lib.inference.model import InferenceDefaults

    if args.checkpoint is None:
        raise UsageError("give --checkpoint or, with --to nnunet, --model")
    if args.model is not None:
        raise UsageError("--model belongs to --to nnunet; the model's name is --name")
    if (args.output / MODEL_FILE).exists():
        raise BundleError(f"{args.output}: holds a model already; give another folder, or delete it")
    name, orientation, step, windows, tta = (
        default if getattr(args, option) is None else getattr(args, option)
        for option, default in EXPORT_DEFAULTS.items()
    )
    inference = InferenceDefaults(step=step, tta=tta, windows=windows)
    model = export_checkpoint(args.checkpoint, args.output, name, orientation, inference)
    print(f"{args.output}: {model.name}, {len(model.labels) - 1} labels, orientation {model.orientation}")


EXPORT_DEFAULTS = dict[str, Any](name="student", orientation=None, step=0.5, windows="body", tta=False)
"""Of the options that a bundle is made with; they are None where they are not given."""

NOT_LABELS = (".nrrd", ".mha", ".mhd", ".dcm", ".zip", ".png")
"""Endings of what is no folder and no NIfTI file."""


def _labels_path(text: str) -> Path:
    """Return the path of a folder for labels, or of a single case's label file."""
    path = Path(text)
    if path.name.lower().endswith(NOT_LABELS) and not path.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text}: give a folder, or X.nii.gz or X.nii, after which other kinds of files are named (X.seg.dcm)"
        )
    is_file = path.name.endswith((".nii.gz", ".nii")) and not path.is_dir()
    return output_file(text) if is_file else output_folder(text)


def _add_series(parser: argparse.ArgumentParser) -> None:
    """Add the options for DICOM series."""
    parser.add_argument("--series", metavar="NUMBER|UID|all",
                        help="which DICOM series, if there are several; without it they are listed")  # fmt: skip
    parser.add_argument("--irregular", choices=["refuse", "resample"], default="refuse",
                        help="DICOM slices that are not equally spaced (default: %(default)s)")  # fmt: skip


def register(commands: Commands) -> None:
    """Add the commands."""
    parser = command(commands, "predict", _predict, "segment CTs with a model bundle")
    parser.add_argument("-m", "--model", type=Path, required=True,
                        help="folder with model.json and model.safetensors")  # fmt: skip
    parser.add_argument("-i", "--input", type=Path, required=True,
                        help="a NIfTI, NRRD or MetaImage file, a folder of them, or DICOM (folder, zip)")  # fmt: skip
    parser.add_argument("-o", "--output", type=_labels_path, required=True,
                        help="folder for the labels; for a single image X.nii.gz, too")  # fmt: skip
    _add_series(parser)
    parser.add_argument("--output-type", nargs="+", choices=get_args(OutputType), default=["nifti"],
                        help="kinds of label files; the last two need DICOM input (default: nifti)")  # fmt: skip
    parser.add_argument("--labels-only", nargs="+", default=[], metavar="LABEL",
                        help="labels that are kept, by name (default: all)")  # fmt: skip
    parser.add_argument("--label-files", action=argparse.BooleanOptionalAction, default=True,
                        help="names and colors for 3D Slicer, ITK-SNAP and tables beside the labels")  # fmt: skip
    parser.add_argument("--per-class", action="store_true",
                        help="also a file for each label, in a folder named after the case")  # fmt: skip
    parser.add_argument("--statistics", action="store_true",
                        help="volume and HU of each label: statistics.csv and a JSON file for each case")  # fmt: skip
    parser.add_argument("--preview", action="store_true", help="an overview of each case as PNG")
    parser.add_argument("--run-report", type=output_file, metavar="FILE",
                        help="JSON for versions, device, model, and seconds and warnings of each case")  # fmt: skip
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=None,
                        help="average over mirrored passes, which takes up to 8 times as long (default: the "
                        "model's)")  # fmt: skip
    parser.add_argument("--step", type=window_step,
                        help="distance of windows in patch sizes, above 0 and at most 1; smaller ones take longer "
                        "(default: the model's)")  # fmt: skip
    parser.add_argument("--windows", choices=get_args(Windows),
                        help="which are computed: all, those with body in them, or the one nearest to the center and "
                        "the others if it holds foreground (default: the model's)")  # fmt: skip
    parser.add_argument("--precision", choices=get_args(Precision),
                        help="auto takes the fastest of the device (default: the model's)")  # fmt: skip
    parser.add_argument("--device", type=device, default="auto",
                        help=f"{NAMES}; N counts GPUs from 0 (default: auto, a GPU if there is one)")  # fmt: skip
    parser.add_argument("--gpu-memory", type=at_least(1), default=4000, metavar="MB",
                        help="limit on the GPU, as its driver counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--memory", type=at_least(1), metavar="MB",
                        help="limit of the process on the host (default: 8000, or what is there)")  # fmt: skip
    parser.add_argument("--compile", action="store_true",
                        help="compile the network first; pays over many cases, if at all")  # fmt: skip
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--shard", type=shard, metavar="I/N",
                        help="only part I (from 0) of N parts of a folder, by a hash of names")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true",
                        help="segment again what is there already, and replace files of others")  # fmt: skip

    parser = command(commands, "statistics", _statistics, "measure volume and HU of each label")
    parser.add_argument("--labels", type=Path, required=True, help="label file, or folder of X.nii.gz")
    parser.add_argument("--images", type=Path, required=True, help="their images, as for predict")
    parser.add_argument("--output", type=output_folder, required=True, help="folder for CSV and JSON")
    parser.add_argument("--model", type=Path,
                        help="bundle that names the labels (default: the names in the label files)")  # fmt: skip
    _add_series(parser)

    parser = command(commands, "export", _export, "make a bundle from an nnU-Net checkpoint, or the reverse")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint_final.pth of nnU-Net v2")
    parser.add_argument("--to", choices=["bundle", "nnunet"], default="bundle",
                        help="nnunet: from --model to nnU-Net's model folder (default: %(default)s)")  # fmt: skip
    parser.add_argument("--model", type=Path, help="bundle that --to nnunet exports")
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the bundle")
    parser.add_argument("--name", help=f"name of the model (default: {EXPORT_DEFAULTS['name']})")
    parser.add_argument("--orientation", choices=get_args(OrientationMode),
                        help="default: what its plans say, else stored, nnU-Net's way")  # fmt: skip
    parser.add_argument("--step", type=window_step,
                        help="distance of windows, above 0 and at most 1 (default: "
                        f"{EXPORT_DEFAULTS['step']})")  # fmt: skip
    parser.add_argument("--windows", choices=get_args(Windows),
                        help=f"where windows are laid (default: {EXPORT_DEFAULTS['windows']})")  # fmt: skip
    parser.add_argument("--tta", action="store_true", default=None,
                        help="the model averages over mirrored passes by default")  # fmt: skip
