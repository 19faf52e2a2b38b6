"""Small models and volumes that several tests use."""

import numpy as np
import torch
import torch.nn.functional as F

from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.inference.bundle import Bundle, write_bundle
from flare23_lib.inference.model import InferenceDefaults, Model, ModelLabel
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import Volume, header_for, write_volume
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.preprocessing.intensity import Intensity

PATCH = (8, 16, 16)


def a_bundle(values=(0, 1, 2, 3), **changes):
    options = {
        "name": "tiny",
        "network": STUNetArchitecture.of([1, 1, 1], [4, 8, 8], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
        "patch_size": PATCH,
        "spacing": (1.0, 1.0, 1.0),
        "intensity": Intensity(-1000, 1000, 0, 1),
        "orientation": "stored",
        "labels": tuple(ModelLabel(f"label_{value}" if value else "background", value) for value in values),
        "mirror_axes": (0, 1, 2),
        "inference": InferenceDefaults(precision="float32"),
    }
    model = Model(**(options | changes))
    torch.manual_seed(0)
    network = STUNet(model.input_channels, len(values), **model.network.to_json())
    network.apply(network.initialize)
    return Bundle(model, network.state_dict())


def a_volume(shape=(11, 20, 23), affine=None, seed=0, dtype=np.float32):
    torch.manual_seed(seed)
    coarse = torch.randn(1, 1, *(max(2, size // 4) for size in shape))
    smooth = F.interpolate(coarse, size=shape, mode="trilinear")[0, 0]
    array = (3 * smooth + 0.1 * torch.randn(shape)).numpy().astype(dtype)
    return volume_of(array, np.eye(4) if affine is None else affine)


def write_work(results, model, number, shape=(12, 24, 24), split="validation", category=""):
    """Write a model of random weights, and the table of some cases with an image each; return the cases."""
    bundle, cases = a_bundle(orientation="canonical"), []
    write_bundle(results.bundle(model), bundle.model, bundle.state_dict)
    for seed in range(number):
        volume, path = a_volume(shape, seed=seed, dtype=np.int16), results.root / "images" / f"case{seed}.nii.gz"
        write_volume(path, volume.array, volume.header)
        cases.append(Case(f"case{seed}", str(path), None, split, {}, category, shape, (1.0, 1.0, 1.0),
                          image_id=file_identity(path)))  # fmt: skip
    write_cases(results.cases, cases)
    return cases


def volume_of(array, affine):
    header = header_for(array.shape, affine, array.dtype)
    spacing = tuple(float(zoom) for zoom in header.get_zooms()[::-1])
    return Volume(array, Geometry(tuple(array.shape), affine, spacing), header)
