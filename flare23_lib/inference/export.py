"""A bundle from an nnU-Net v2 checkpoint: ours or that of the paper's authors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flare23_lib.axes import as_triple
from flare23_lib.errors import BundleError, ConfigError, with_path
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.checkpoint import checkpoint_weights, read_checkpoint
from flare23_lib.inference.model import InferenceDefaults, Model, ModelLabel
from flare23_lib.networks import NETWORKS, Architecture, STUNetArchitecture
from flare23_lib.preprocessing.intensity import Intensity

log = logging.getLogger(__name__)

RESAMPLING = "resample_torch_fornnunet"
"""nnU-Net's function that does what ours does."""


def network_of(
    weights: Mapping[str, torch.Tensor], configuration: Mapping[str, Any], trainer: str = ""
) -> Architecture:
    """Return the architecture that plans name or, without one of ours, a STU-Net's from its weights and strides.

    The official trainers of STU-Nets cut the plans' strides to their network's stages, or add some of 1.
    """
    planned = configuration.get("architecture", {})
    name, arguments = planned.get("network_class_name"), planned.get("arch_kwargs", {})
    if name != STUNetArchitecture.network_class and name in {kind.network_class for kind, _ in NETWORKS.values()}:
        return Architecture.from_json({"network_class": name, **arguments})
    strides = arguments.get("strides") or configuration["pool_op_kernel_sizes"]
    depth: list[int] = []
    widths: list[int] = []
    kernels: list[list[int]] = []
    while (name := f"conv_blocks_context.{len(widths)}.0.conv1.weight") in weights:
        block = re.compile(rf"conv_blocks_context\.{len(widths)}\.\d+\.conv1\.weight")
        depth.append(sum(block.fullmatch(key) is not None for key in weights))
        widths.append(weights[name].shape[0])
        kernels.append(list(weights[name].shape[2:]))
    if not widths:
        raise BundleError("the weights are not those of a STU-Net")
    if trainer.startswith("STUNetTrainer"):
        strides = [*strides, *[[1, 1, 1]] * len(widths)][: len(widths)]
    if (channels := weights["conv_blocks_context.0.0.conv1.weight"].shape[1]) != 1:
        raise BundleError(f"the network takes {channels} channels, bundles 1")
    return STUNetArchitecture.of(depth, widths, [list(map(int, stride)) for stride in strides], kernels)


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    name: str,
    orientation: str | None = None,
    inference: InferenceDefaults | None = None,
) -> Model:
    """Write a bundle from a checkpoint.

    Plans and dataset.json are taken from the checkpoint, where nnU-Net keeps them. Nothing in it is run.

    Args:
        checkpoint: `checkpoint_final.pth` of nnU-Net v2.
        output: the bundle's folder.
        orientation: "stored" or "canonical"; None for that of the plans, and "stored", nnU-Net's way, if they
            have none.
        inference: how the model is used by default.

    Raises:
        BundleError: the file is not such a checkpoint, or its plans do not describe the network.
    """
    content = read_checkpoint(checkpoint)
    weights = checkpoint_weights(content, checkpoint)
    if "init_args" not in content:
        raise BundleError(
            f"{checkpoint}: is a checkpoint without plans, as of nnU-Net 1; `models.NAME.pretrained` takes its "
            "weights, `flare23 export` cannot know spacing and labels"
        )
    try:
        arguments = content["init_args"]
        plans, dataset = arguments["plans"], arguments["dataset_json"]
        configuration = _configuration(plans, arguments["configuration"])
        intensity = plans["foreground_intensity_properties_per_channel"]["0"]
        if list(plans["transpose_forward"]) != [0, 1, 2]:
            raise BundleError(f"{checkpoint}: its plans transpose the axes, which bundles do not support")
        if list(configuration["normalization_schemes"]) != ["CTNormalization"]:
            named = ", ".join(map(str, configuration["normalization_schemes"]))
            raise BundleError(f"{checkpoint}: its plans normalize by {named}; bundles support CTNormalization only")
        _warn_of_resampling(checkpoint, configuration)
        trainer = str(content.get("trainer_name", ""))
        model = Model(
            name=name,
            network=network_of(weights, configuration, trainer),
            patch_size=as_triple(map(int, configuration["patch_size"])),
            spacing=as_triple(map(float, configuration["spacing"])),
            intensity=Intensity(
                *(float(intensity[key]) for key in ("percentile_00_5", "percentile_99_5", "mean", "std"))
            ),
            orientation=orientation or plans.get("orientation", "stored"),
            labels=_labels(dataset["labels"], plans.get("label_values")),
            unseen=tuple(dataset.get("labels_unseen", ())),
            mirror_axes=tuple(map(int, content.get("inference_allowed_mirroring_axes") or ())),
            inference=inference or InferenceDefaults(),
            provenance={"checkpoint": checkpoint.name, "trainer": trainer},
        )
    except BundleError as error:
        raise BundleError(with_path(checkpoint, error)) from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, ConfigError) as error:
        raise BundleError(f"{checkpoint}: its plans do not describe the network ({error!r})") from error
    return write_bundle(output, model, weights)


def _warn_of_resampling(checkpoint: Path, configuration: Mapping[str, Any]) -> None:
    """Warn of a model whose training images were resampled otherwise than a bundle does."""
    for what in ("data", "probabilities"):
        function = configuration.get(f"resampling_fn_{what}")
        separate = configuration.get(f"resampling_fn_{what}_kwargs", {}).get("force_separate_z")
        if function != RESAMPLING or separate is not False:
            log.warning(
                "%s: its plans resample %s by %s (force_separate_z: %s); a bundle does so by trilinear "
                "interpolation, as %s without separate z", checkpoint, what, function, separate, RESAMPLING,
            )  # fmt: skip


def _configuration(plans: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a configuration of plans with what it inherits."""
    if name not in plans["configurations"]:
        raise BundleError(f"its plans have no configuration {name}, only {', '.join(plans['configurations'])}")
    configuration = plans["configurations"][name]
    if "inherits_from" in configuration:
        return {**_configuration(plans, configuration["inherits_from"]), **configuration}
    return configuration


def _labels(names: Mapping[str, int], values: list[int] | None) -> tuple[ModelLabel, ...]:
    """Return the classes in index order; plans of ours name the values that stand for them in files."""
    regions = [name for name, index in names.items() if not isinstance(index, int)]
    if regions:
        raise BundleError(f"its labels are regions ({', '.join(regions)}); bundles know one class per voxel")
    classes = sorted((index, name) for name, index in names.items() if name != "ignore")
    if [index for index, _ in classes] != list(range(len(classes))):
        raise ValueError("labels are not numbered from 0 without gaps")
    files = [0, *(values or range(1, len(classes)))]
    return tuple(ModelLabel(name, int(value)) for (_, name), value in zip(classes, files, strict=True))
