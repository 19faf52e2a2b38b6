"""A model bundle: a folder with `model.safetensors` (weights) and `model.json` (all else that inference needs).

It loads without nnU-Net and without pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from flare23_lib.choices import MODEL_FILE, WEIGHTS_FILE
from flare23_lib.errors import BundleError, ConfigError, without_file
from flare23_lib.inference.checkpoint import read_safetensors
from flare23_lib.inference.model import InferenceDefaults, Model, Weights, read_model
from flare23_lib.io.atomic import about_path, atomic_path, write_json
from flare23_lib.io.checksum import with_checksum
from flare23_lib.networks.weight_files import save_weights


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the description and the weights (name of layer -> tensor on the CPU)."""

    model: Model
    state_dict: Mapping[str, torch.Tensor]

    def with_inference(
        self,
        step: float | None = None,
        tta: bool | None = None,
        windows: str | None = None,
        precision: str | None = None,
    ) -> Bundle:
        """Return the bundle with other inference options, None for the model's own; ConfigError if out of range."""
        given = {"step": step, "tta": tta, "windows": windows, "precision": precision}
        options = asdict(self.model.inference) | {name: value for name, value in given.items() if value is not None}
        try:
            return replace(self, model=replace(self.model, inference=InferenceDefaults(**options)))
        except BundleError as error:
            raise ConfigError(str(error)) from error

    def build_network(self) -> torch.nn.Module:
        """Build the network with the weights, in float32, ready to infer on the CPU."""
        network = _empty_network(self.model)
        network.load_state_dict(dict(self.state_dict), assign=True)
        return network.float().eval().requires_grad_(False)


def _empty_network(model: Model) -> torch.nn.Module:
    return model.network.empty(len(model.labels), model.input_channels)


def _check_weights(place: Path, model: Model, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Raise BundleError if the weights do not fit the network; it names a layer."""
    expected = {name: tuple(weight.shape) for name, weight in _empty_network(model).state_dict().items()}
    given = {name: tuple(weight.shape) for name, weight in state_dict.items()}
    for name in {**expected, **given}:
        if name not in given:
            raise BundleError(f"{place}: the layer {name} is missing")
        if name not in expected:
            raise BundleError(f"{place}: the network has no layer {name}")
        if given[name] != expected[name]:
            raise BundleError(f"{place}: the layer {name} is {given[name]}, the network needs {expected[name]}")


def write_bundle(folder: str | Path, model: Model, state_dict: Mapping[str, torch.Tensor]) -> Model:
    """Write a bundle; the same input gives the same bytes.

    The weights are written first and the description last, each atomically: a bundle cut short does not load.

    Returns:
        The model as written, with the file and digest of its weights.

    Raises:
        BundleError: the weights do not fit the network, or are not finite.
    """
    folder = Path(folder)
    _check_weights(folder, model, state_dict)
    for name, weight in state_dict.items():
        if not weight.isfinite().all():
            raise BundleError(f"{folder}: the layer {name} holds values that are not finite (NaN or infinite)")
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_weights(temporary, state_dict)
        digest = file_sha256(temporary)
    model = replace(model, weights=Weights(WEIGHTS_FILE, digest))
    write_json(folder / MODEL_FILE, with_checksum(model.to_json()))
    return model


def load_bundle(folder: str | Path) -> Bundle:
    """Load a bundle and check it: the digest of the weights, and that they fit the network.

    Raises:
        BundleError: a file is missing, of another format or broken, or the two do not match.
    """
    folder = Path(folder)
    model = read_model(folder)
    if model.weights is None:
        raise BundleError(f"{folder / MODEL_FILE}: names no weights")
    weights = folder / model.weights.file
    try:
        if file_sha256(weights) != model.weights.sha256:
            raise BundleError(f"{weights}: does not match {MODEL_FILE} (SHA-256 differs)")
    except FileNotFoundError as error:
        raise BundleError(f"{weights}: is missing") from error
    except OSError as error:
        raise BundleError(f"{weights}: cannot be read ({without_file(error)})") from error
    state_dict = read_safetensors(weights)
    _check_weights(weights, model, state_dict)
    return Bundle(model, state_dict)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with about_path(path), path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
