"""nnU-Net's dataset.json and plans, written from our settings instead of planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flare23_lib.config.models import measured
from flare23_lib.config.settings import TrainingSettings

DATASET_NAME = "Dataset001_CT"
PLANS_NAME = "plans"
CONFIGURATION = "3d_fullres"
DATA_IDENTIFIER = f"{PLANS_NAME}_{CONFIGURATION}"
NETWORK_CLASS = "flare23_lib.networks.stunet.STUNet"


def dataset_json(
    label_names: Sequence[str], ignore_label: bool, cases: Sequence[Mapping[str, str]], unseen: Sequence[str] = ()
) -> dict[str, Any]:
    """Return dataset.json.

    Args:
        label_names: names of the labels in index order, background left out.
        ignore_label: whether voxels may be marked to be passed over by the loss.
        cases: `case`, `image` and `label` (paths) of each training case; nothing is copied.
        unseen: names of labels that no case holds; nnU-Net does not look at this entry, `flare23 export` does.
    """
    labels = {"background": 0, **{name: index for index, name in enumerate(label_names, start=1)}}
    if ignore_label:
        labels["ignore"] = len(label_names) + 1
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "labels_unseen": list(unseen),
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "dataset": {row["case"]: {"images": [row["image"]], "label": row["label"]} for row in cases},
    }


def plans(settings: TrainingSettings) -> dict[str, Any]:
    """Return plans for one configuration, `3d_fullres`.

    Axes are never transposed, and all resampling is trilinear along all three axes (nnU-Net's default turns to
    nearest along z for anisotropic images): what a model sees in training is what it sees when it is used.

    Args:
        settings: what shapes the weights, with the intensity as numbers; `label_values`, `orientation` and the
            protocol are carried along.
    """
    intensity, patch_size, spacing = measured(settings.intensity), list(settings.patch_size), list(settings.spacing)
    resample = {"is_seg": False, "force_separate_z": False}
    return {
        "dataset_name": DATASET_NAME,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": patch_size,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "flare23_lib",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "percentile_00_5": intensity.low,
                "percentile_99_5": intensity.high,
                "mean": intensity.mean,
                "std": intensity.std,
            }
        },
        # Ours, beside nnU-Net's own entries: what its trainer and an export of its checkpoint need to know.
        "training": settings.training.to_json(),
        "label_values": list(settings.label_values),
        "orientation": settings.orientation,
        "configurations": {
            CONFIGURATION: {
                "data_identifier": DATA_IDENTIFIER,
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": settings.training.batch_size,
                "patch_size": patch_size,
                "median_image_size_in_voxels": patch_size,
                "spacing": spacing,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_torch_fornnunet",
                "resampling_fn_seg": "resample_torch_fornnunet",
                "resampling_fn_probabilities": "resample_torch_fornnunet",
                "resampling_fn_data_kwargs": resample,
                "resampling_fn_seg_kwargs": {**resample, "is_seg": True},
                "resampling_fn_probabilities_kwargs": resample,
                "batch_dice": True,
                "architecture": {
                    "network_class_name": NETWORK_CLASS,
                    "arch_kwargs": settings.network.to_json(),
                    "_kw_requires_import": [],
                },
            }
        },
    }
