"""A model bundle: a folder with `model.safetensors` (weights) and `model.json` (all else that inference needs).

It loads without nnU-Net and without pickle.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file

from flare23_lib.axes import Spacing, Triple, as_triple
from flare23_lib.choices import MODEL_FILE, WEIGHTS_FILE, LabelKind, OrientationMode, Precision, Scored, Windows
from flare23_lib.errors import BundleError, ConfigError
from flare23_lib.inference.checkpoint import read_safetensors
from flare23_lib.inference.image_files import model_file, read_description
from flare23_lib.inference.training_images import TrainingImages
from flare23_lib.io.anatomy import is_tumor
from flare23_lib.io.atomic import atomic_path, write_json
from flare23_lib.io.checksum import with_checksum
from flare23_lib.io.label_tables import Structure, label_table
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.preprocessing.resampling import Intensity

FORMAT = 1
"""Version of model.json that this module writes and reads."""

AXES = "zyx"
ORIENTATIONS, WINDOWS, PRECISIONS = get_args(OrientationMode), get_args(Windows), get_args(Precision)


@dataclass(frozen=True)
class ModelLabel:
    """One class of a model.

    Attributes:
        name: of the class.
        value: that files hold for it (background: 0).
        kind: "organ" or "tumor"; None in bundles that do not say.
        tolerance_mm: of the normalized surface Dice; None likewise.
        scored: where it is scored (`labels.Label`); None likewise.
    """

    name: str
    value: int
    kind: LabelKind | None = None
    tolerance_mm: float | None = None
    scored: Scored | None = None

    @property
    def is_tumor(self) -> bool:
        """Whether it is a tumor; by its name if the bundle does not say."""
        return is_tumor(self.name, self.kind)

    def to_json(self) -> dict[str, Any]:
        """Return the row of model.json; what the bundle does not say is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class InferenceDefaults:
    """How a model is run by default.

    Attributes:
        step: distance of neighboring windows as a share of the patch, in (0, 1].
        tta: test-time augmentation by mirroring along the model's mirror axes.
        windows: which windows are computed (see `flare23_lib.inference.windows`): "all", "body" or "center_first".
            A model.json without the key means "all".
        precision: "float32", "bfloat16", "float16" (on a GPU only), or "auto" (`flare23_lib.runtime.precision`).
    """

    step: float = 0.5
    tta: bool = False
    windows: str = "all"
    precision: str = "float32"


@dataclass(frozen=True)
class Weights:
    """The weights' file name in the bundle's folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """The content of model.json. Axes are (z, y, x) throughout, spacing in mm.

    Attributes:
        name: as it appears in tables and provenance.
        network: what the STU-Net is made of.
        input_channels: channels of the image; 1 for CT.
        patch_size: the window.
        spacing: the resolution that the network sees.
        intensity: how HU are normalized.
        orientation: "stored" (axes as they are in the file) or "canonical" (see `orientation.Orientation`).
        axes: order of the axes; always "zyx".
        labels: the classes in the order of the network's outputs, background first.
        unseen: names of labels without training data.
        mirror_axes: axes that training mirrored along; test-time augmentation uses them.
        inference: how the model is run by default.
        weights: the weights' file; None until the bundle is written.
        provenance: where the model comes from; free, must fit JSON.
        training_images: what the images were like that it learned from; None in bundles that do not say.

    Raises:
        BundleError: the values contradict one another or are out of range.
    """

    name: str
    network: Architecture
    patch_size: Triple
    spacing: Spacing
    intensity: Intensity
    orientation: str
    labels: tuple[ModelLabel, ...]
    input_channels: int = 1
    axes: str = AXES
    unseen: tuple[str, ...] = ()
    mirror_axes: tuple[int, ...] = ()
    inference: InferenceDefaults = InferenceDefaults()
    weights: Weights | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training_images: TrainingImages | None = None

    def __post_init__(self) -> None:
        fault = _fault_of(self)
        if fault:
            raise BundleError(fault)

    @property
    def names(self) -> list[str]:
        """The classes' names in order, background first."""
        return [label.name for label in self.labels]

    @property
    def values(self) -> list[int]:
        """The classes' file values in order, 0 first."""
        return [label.value for label in self.labels]

    @property
    def label_table(self) -> tuple[Structure, ...]:
        """The labels without background, with the colors of figures and pages."""
        tumors = [label.name for label in self.labels[1:] if label.is_tumor]
        return label_table(self.names[1:], self.values[1:], tumors)

    def to_json(self) -> dict[str, Any]:
        """Return the content of model.json."""
        return {
            "format": FORMAT,
            "name": self.name,
            "network": self.network.to_json(),
            "input_channels": self.input_channels,
            "patch_size": list(self.patch_size),
            "spacing": list(self.spacing),
            "intensity": asdict(self.intensity),
            "orientation": self.orientation,
            "axes": self.axes,
            "labels": [label.to_json() for label in self.labels],
            "unseen": list(self.unseen),
            "mirror_axes": list(self.mirror_axes),
            "inference": asdict(self.inference),
            "weights": asdict(self.weights) if self.weights else None,
            "provenance": dict(self.provenance),
            **({"training_images": self.training_images.to_json()} if self.training_images else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Model:
        """Read the content of model.json.

        Raises:
            BundleError: another format, a key missing, or a value that cannot be.
        """
        if not isinstance(content, Mapping):
            raise BundleError("is not a model description")
        if content.get("format") != FORMAT:
            raise BundleError(f"has format {content.get('format')!r}; this version reads format {FORMAT}")
        try:
            return cls(
                name=content["name"],
                network=Architecture.of(**content["network"]),
                input_channels=content["input_channels"],
                patch_size=as_triple(content["patch_size"], "patch_size"),
                spacing=as_triple((float(value) for value in content["spacing"]), "spacing"),
                intensity=Intensity(**content["intensity"]),
                orientation=content["orientation"],
                axes=content["axes"],
                labels=tuple(ModelLabel(**label) for label in content["labels"]),
                unseen=tuple(content["unseen"]),
                mirror_axes=tuple(content["mirror_axes"]),
                inference=InferenceDefaults(**content["inference"]),
                weights=Weights(**content["weights"]) if content["weights"] else None,
                provenance=content.get("provenance", {}),
                training_images=TrainingImages.from_json(images)
                if (images := content.get("training_images"))
                else None,
            )
        except KeyError as error:
            raise BundleError(f"has no {error.args[0]!r}") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise BundleError(f"cannot be used ({error})") from error


def _fault_of(model: Model) -> str | None:
    """Return what is wrong with a model's values, or None."""
    checks = {
        "name": isinstance(model.name, str) and model.name,
        "input_channels": _whole(model.input_channels, 1),
        "patch_size": all(_whole(size, 1) for size in model.patch_size),
        "spacing": all(math.isfinite(v) and v > 0 for v in model.spacing),
        "intensity": all(_is_number(value) for value in asdict(model.intensity).values()),
        "orientation": model.orientation in ORIENTATIONS,
        "axes": model.axes == AXES,
        "labels": _labels_are_right(model.labels),
        "unseen": set(model.unseen) <= set(model.names[1:]),
        "mirror_axes": len(set(model.mirror_axes)) == len(model.mirror_axes) and set(model.mirror_axes) <= {0, 1, 2},
        "inference.step": _is_number(model.inference.step) and 0 < model.inference.step <= 1,
        "inference.tta": isinstance(model.inference.tta, bool),
        "inference.windows": model.inference.windows in WINDOWS,
        "inference.precision": model.inference.precision in PRECISIONS,
        # A name with folders in it could lead out of the bundle.
        "weights.file": model.weights is None or Path(model.weights.file).name == model.weights.file,
    }
    for key, right in checks.items():
        if not right:
            value: Any = model
            for part in key.split("."):
                value = getattr(value, part)
            return f"{key} {value!r} cannot be"
    if any(size % factor for size, factor in zip(model.patch_size, model.network.downsampling, strict=True)):
        return f"patch_size {model.patch_size} is not a multiple of the strides' product {model.network.downsampling}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _labels_are_right(labels: Sequence[ModelLabel]) -> bool:
    values = [label.value for label in labels]
    names = [label.name for label in labels]
    return (
        len(labels) >= 2
        and all(_whole(value, 0) and value < IGNORE_VALUE for value in values)
        and values[0] == 0
        and len(set(values)) == len(values)
        and len(set(names)) == len(names)
    )


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

    def build_network(self, device: torch.device | str = "cpu") -> STUNet:
        """Build the network with the weights, in float32, ready to infer."""
        network = _empty_network(self.model)
        network.load_state_dict(dict(self.state_dict), assign=True)
        return network.to(device=device, dtype=torch.float32).eval().requires_grad_(False)


def _empty_network(model: Model) -> STUNet:
    """Build the network without memory for its weights."""
    with torch.device("meta"):
        parts = model.network
        return STUNet(
            model.input_channels, len(model.labels), parts.depth, parts.widths, parts.strides, parts.kernel_sizes
        )


def _misfit(model: Model, state_dict: Mapping[str, torch.Tensor]) -> str | None:
    """Return which layer is missing, unknown or of another shape, or None if the weights fit the network."""
    expected = {name: tuple(weight.shape) for name, weight in _empty_network(model).state_dict().items()}
    given = {name: tuple(weight.shape) for name, weight in state_dict.items()}
    for name in {**expected, **given}:
        if name not in given:
            return f"the layer {name} is missing"
        if name not in expected:
            return f"the network has no layer {name}"
        if given[name] != expected[name]:
            return f"the layer {name} is {given[name]}, the network needs {expected[name]}"
    return None


def write_bundle(folder: str | Path, model: Model, state_dict: Mapping[str, torch.Tensor]) -> Model:
    """Write a bundle; the same input gives the same bytes.

    The weights are written first and the description last, each atomically: a bundle cut short does not load.

    Returns:
        The model as written, with the file and digest of its weights.

    Raises:
        BundleError: the weights do not fit the network.
    """
    folder = Path(folder)
    fault = _misfit(model, state_dict)
    if fault:
        raise BundleError(f"{folder}: {fault}")
    tensors = {name: state_dict[name].detach().cpu().contiguous() for name in sorted(state_dict)}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary)
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
    path = model_file(folder)
    model = _read_model(path)
    if model.weights is None:
        raise BundleError(f"{path}: names no weights")
    weights = folder / model.weights.file
    try:
        digest = file_sha256(weights)
        if digest != model.weights.sha256:
            raise BundleError(f"{weights}: does not match {MODEL_FILE} (SHA-256 differs)")
    except FileNotFoundError as error:
        raise BundleError(f"{weights}: is missing") from error
    except OSError as error:
        raise BundleError(f"{weights}: cannot be read ({error})") from error
    state_dict = read_safetensors(weights)
    fault = _misfit(model, state_dict)
    if fault:
        raise BundleError(f"{weights}: {fault}")
    return Bundle(model, state_dict)


def _read_model(path: Path) -> Model:
    content = read_description(path)
    try:
        return Model.from_json(content)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
