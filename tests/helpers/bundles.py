"""Small bundles, and a checkpoint of nnU-Net."""

import torch

from flare23_lib.inference.model import InferenceDefaults, Model, ModelLabel
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.preprocessing.intensity import Intensity


def a_model(**changes):
    values = {
        "name": "student",
        "network": STUNetArchitecture.of([1, 1], [4, 8], [[1, 1, 1], [1, 2, 2]]),
        "patch_size": (4, 8, 8),
        "spacing": (2.5, 1.5, 1.5),
        "intensity": Intensity(-970, 279, 80.3, 141.4),
        "orientation": "canonical",
        "labels": (ModelLabel("background", 0), ModelLabel("liver", 3), ModelLabel("tumor", 14)),
        "unseen": ("tumor",),
        "mirror_axes": (0, 1, 2),
        "inference": InferenceDefaults(step=0.8, tta=True, windows="all", precision="bfloat16"),
        "provenance": {"dataset": "FLARE23", "epochs": 2000},
    }
    return Model(**(values | changes))


def some_weights(model=None):
    torch.manual_seed(0)
    model = model or a_model()
    return STUNet(1, len(model.labels), **model.network.to_json()).state_dict()


def a_checkpoint(path, unseen=(), **configuration):
    plans = {
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"percentile_00_5": -160, "percentile_99_5": 240, "mean": 50, "std": 80}
        },
        "configurations": {
            "base": {
                "patch_size": [8, 8, 8],
                "spacing": [3, 2, 2],
                "normalization_schemes": ["CTNormalization"],
                "pool_op_kernel_sizes": a_model().network.to_json()["strides"],
                "resampling_fn_data": "resample_torch_fornnunet",
                "resampling_fn_data_kwargs": {"force_separate_z": False},
                "resampling_fn_probabilities": "resample_torch_fornnunet",
                "resampling_fn_probabilities_kwargs": {"force_separate_z": False},
            },
            "3d": {"inherits_from": "base", **configuration},
        },
    }
    labels = {name: index for index, name in enumerate(a_model().names)}
    dataset = {"labels": labels, **({"labels_unseen": list(unseen)} if unseen else {})}
    arguments = {"plans": plans, "configuration": "3d", "dataset_json": dataset}
    torch.save({"network_weights": some_weights(), "init_args": arguments}, path)
    return path
