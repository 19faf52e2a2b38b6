"""nnU-Net's dataset.json and plans, written from our settings instead of planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flare23_lib.axes import Spacing, Triple
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.networks import Architecture
from flare23_lib.preprocessing.intensity import Intensity

DATASET_NAME = "Dataset001_CT"
PLANS_NAME = "plans"
CONFIGURATION = "3d_fullres"
DATA_IDENTIFIER = f"{PLANS_NAME}_{CONFIGURATION}"


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
    indices = {value: index for index, value in enumerate(settings.label_values, start=1)}
    hidden_in = {
        str(indices[int(value)]): [indices[other] for other in others]
        for value, others in (settings.hidden_in or {}).items()
    }
    return {
        **network_plans(
            settings.patch_size,
            settings.spacing,
            Intensity.of(settings.intensity),
            settings.network,
            settings.training.batch_size,
        ),
        # Ours, in addition to nnU-Net's own entries: what its trainer and an export of its checkpoint need to know.
        "training": settings.training.to_json(),
        "label_values": list(settings.label_values),
        "orientation": settings.orientation,
        **({"hidden_in": hidden_in} if hidden_in else {}),
        **({"soft": True} if settings.soft else {}),
    }


def network_plans(
    patch_size: Triple, spacing: Spacing, intensity: Intensity, network: Architecture, batch_size: int
) -> dict[str, Any]:
    """Return nnU-Net's own entries of plans for one configuration.

    The patch size is (z, y, x); the spacing, (z, y, x) in mm, is the one that the network sees.
    """
    resample = {"is_seg": False, "force_separate_z": False}
    return {
        "dataset_name": DATASET_NAME,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch_size),
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
        "configurations": {
            CONFIGURATION: {
                "data_identifier": DATA_IDENTIFIER,
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": batch_size,
                "patch_size": list(patch_size),
                "median_image_size_in_voxels": list(patch_size),
                "spacing": list(spacing),
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
                    "network_class_name": network.network_class,
                    "arch_kwargs": network.arch_kwargs,
                    "_kw_requires_import": [],
                },
            }
        },
    }
