"""What a model is: the content of `model.json` in its bundle, read without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from flare23_lib.axes import Spacing, Triple, as_triple
from flare23_lib.choices import MODEL_FILE, LabelKind, OrientationMode, Precision, Scored, Windows
from flare23_lib.errors import BundleError, ConfigError, UsageError, without_file
from flare23_lib.inference.training_images import TrainingImages
from flare23_lib.io.anatomy import is_tumor
from flare23_lib.io.checksum import without_checksum
from flare23_lib.io.label_tables import Structure, label_table
from flare23_lib.labels import IGNORE_VALUE, Label, LabelMap
from flare23_lib.networks import Architecture
from flare23_lib.preprocessing.intensity import Intensity

FORMAT = 1
"""Version of model.json that this module writes and reads."""

AXES = "zyx"


@dataclass(frozen=True)
class ModelLabel:
    """One class of a model.

    Attributes:
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
        precision: "float32", "bfloat16", "float16" (on a GPU only), or "auto" (`flare23_lib.runtime.precision`). A
            model.json without the key means "auto".
    """

    step: float = 0.5
    tta: bool = False
    windows: str = "all"
    precision: str = "auto"


@dataclass(frozen=True)
class Weights:
    """The weights' file name in the bundle's folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """The content of model.json, in its order. Axes are (z, y, x) throughout, spacing in mm.

    Attributes:
        name: as it appears in tables and provenance.
        input_channels: channels of the image; 1 for CT.
        patch_size: the window.
        spacing: the resolution that the network sees.
        intensity: how HU are normalized.
        orientation: "stored" (axes as they are in the file) or "canonical" (see `orientation.Orientation`).
        axes: order of the axes; always "zyx".
        labels: the classes in the order of the network's outputs, background first.
        unseen: names of labels without training data.
        mirror_axes: axes that training mirrored along; test-time augmentation uses them.
        weights: the weights' file; None until the bundle is written.
        provenance: where the model comes from; free, must fit JSON.
        training_images: what the images were like that it learned from; None in bundles that do not say.

    Raises:
        BundleError: the values contradict one another or are out of range.
    """

    name: str
    network: Architecture
    input_channels: int = 1
    patch_size: Triple
    spacing: Spacing
    intensity: Intensity
    orientation: str
    axes: str = AXES
    labels: tuple[ModelLabel, ...]
    unseen: tuple[str, ...] = ()
    mirror_axes: tuple[int, ...] = ()
    inference: InferenceDefaults = InferenceDefaults()
    weights: Weights | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training_images: TrainingImages | None = None

    def __post_init__(self) -> None:
        checks = {
            "name": isinstance(self.name, str) and self.name,
            "input_channels": _whole(self.input_channels, 1),
            "patch_size": all(_whole(size, 1) for size in self.patch_size),
            "spacing": all(math.isfinite(size) and size > 0 for size in self.spacing),
            "intensity": self._intensity_is_right(),
            "orientation": self.orientation in get_args(OrientationMode),
            "axes": self.axes == AXES,
            "labels": self._labels_are_right(),
            "unseen": set(self.unseen) <= set(self.names[1:]),
            "mirror_axes": len(set(self.mirror_axes)) == len(self.mirror_axes) and set(self.mirror_axes) <= {0, 1, 2},
            "inference.step": _is_number(self.inference.step) and 0 < self.inference.step <= 1,
            "inference.tta": isinstance(self.inference.tta, bool),
            "inference.windows": self.inference.windows in get_args(Windows),
            "inference.precision": self.inference.precision in get_args(Precision),
            # A name with folders in it could lead out of the bundle.
            "weights.file": self.weights is None or Path(self.weights.file).name == self.weights.file,
        }
        for key, right in checks.items():
            if not right:
                value: Any = self
                for part in key.split("."):
                    value = getattr(value, part)
                raise BundleError(f"{key} {value!r} cannot be")
        factors = self.network.downsampling
        if any(size % factor for size, factor in zip(self.patch_size, factors, strict=True)):
            raise BundleError(f"patch_size {self.patch_size} is not a multiple of the strides' product {factors}")
        if tuple(self.patch_size) == tuple(factors):
            raise BundleError(f"patch_size {self.patch_size}: the strides leave one voxel, too few to normalize")

    def _intensity_is_right(self) -> bool:
        values = self.intensity
        return all(map(_is_number, asdict(values).values())) and values.low < values.high and values.std > 0

    def _labels_are_right(self) -> bool:
        return (
            len(self.labels) >= 2
            and all(isinstance(name, str) for name in self.names)
            and all(_whole(value, 0) and value < IGNORE_VALUE for value in self.values)
            and self.values[0] == 0
            and len(set(self.values)) == len(set(self.names)) == len(self.labels)
        )

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
        tumors = [label.name for label in self.labels[1:] if is_tumor(label.name, label.kind)]
        return label_table(self.names[1:], self.values[1:], tumors)

    @property
    def label_map(self) -> LabelMap:
        """The labels with their rules of scoring; BundleError for a bundle that does not have these."""
        if any(label.tolerance_mm is None for label in self.labels[1:]):
            raise BundleError(f"{self.name}: does not say how its labels are scored; give a configuration instead")
        return LabelMap(tuple(Label(**label.to_json()) for label in self.labels[1:]))

    def to_json(self) -> dict[str, Any]:
        """Return the content of model.json."""
        content = {"format": FORMAT, **asdict(self), "labels": [label.to_json() for label in self.labels]}
        content["network"] = self.network.to_json()
        if self.training_images is None:
            del content["training_images"]
        return content

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
        images = content.get("training_images")
        try:
            return cls(
                name=content["name"],
                network=Architecture.from_json(content["network"]),
                input_channels=content["input_channels"],
                patch_size=as_triple(content["patch_size"], "patch_size"),
                spacing=as_triple(map(float, content["spacing"]), "spacing"),
                intensity=Intensity(**content["intensity"]),
                orientation=content["orientation"],
                axes=content["axes"],
                labels=tuple(ModelLabel(**label) for label in content["labels"]),
                unseen=tuple(content["unseen"]),
                mirror_axes=tuple(content["mirror_axes"]),
                inference=InferenceDefaults(**content["inference"]),
                weights=Weights(**content["weights"]) if content["weights"] else None,
                provenance=content.get("provenance", {}),
                training_images=TrainingImages.from_json(images) if images else None,
            )
        except KeyError as error:
            raise BundleError(f"has no {error.args[0]!r}") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise BundleError(f"cannot be used ({error})") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def read_model(folder: Path) -> Model:
    """Read the description in a bundle's folder; BundleError if it is missing, broken or cannot be."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise BundleError(f"{path}: is missing; {folder} is no model bundle")
    try:
        content = without_checksum(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({without_file(error)})") from error
    try:
        return Model.from_json(content)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def chosen_labels(
    table: Sequence[Structure], names: Sequence[str], option: str = "labels_only"
) -> tuple[Structure, ...]:
    """Return the named labels in the order of the table, all if none are named; UsageError for an unknown name."""
    known = [structure.name for structure in table]
    for name in names:
        if name not in known:
            raise UsageError(f"{option}: there is no label {name!r}; the labels are {', '.join(known)}")
    return tuple(structure for structure in table if not names or structure.name in names)
