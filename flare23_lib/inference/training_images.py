"""What a model's training images were like, and what makes another image unlike them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.io.nifti import Volume

AIR_HU = -500.0
"""An image without values below this has no air, unless it was windowed."""

BONE_HU = 1000.0

MARGIN_HU = 100.0
"""How much less far than in any training image an image's values may reach."""

MIN_WINDOW_HU = 100.0
"""Windows are wider."""

SHARE_AT_LIMIT = 0.001
"""More voxels at the highest value are cut off there."""


@dataclass(frozen=True)
class TrainingImages:
    """What the images were like that a model learned from.

    Attributes:
        axes: axis codes such as "LPS" -> images.
        lowest: smallest and largest of the images' lowest values, in HU; None if voxels were not read.
        highest: likewise of their highest values.
    """

    axes: Mapping[str, int]
    lowest: tuple[float, float] | None = None
    highest: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingImages:
        """Read what `to_json` gave; TypeError, ValueError or KeyError if it is something else."""
        if not isinstance(content, Mapping) or not isinstance(content["axes"], Mapping):
            raise TypeError(f"training_images: {content!r} must be a table, and so must its axes")
        low, high = (content.get(name) for name in ("lowest", "highest"))
        axes = {str(code): int(count) for code, count in content["axes"].items()}
        return cls(axes, _pair(low), _pair(high))


def _pair(values: Iterable[float] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = map(float, values)
    return low, high


def summarize(images: Iterable[ImageInfo]) -> TrainingImages | None:
    """Summarize images; None if the header of none could be read."""
    readable = [info for info in images if info.shape is not None]
    axes = Counter(info.geometry.axis_codes for info in readable)
    ranges = [(info.low, info.high) for info in readable if info.low is not None and info.high is not None]
    if not axes:
        return None
    lowest, highest = ((min(part), max(part)) for part in zip(*ranges, strict=True)) if ranges else (None, None)
    return TrainingImages(dict(sorted(axes.items())), lowest, highest)


def unlike_training(trained: TrainingImages | None, orientation: str, volume: Volume) -> tuple[str, ...]:
    """Return what makes an image in HU unlike those that a model learned from, a line each.

    `trained` is None if the model does not say. Axes matter only if its `orientation` takes them as stored.
    """
    found = []
    codes = volume.geometry.axis_codes
    if trained and orientation == "stored" and codes not in trained.axes:
        known = ", ".join(trained.axes)
        found.append(f"its axes are {codes}; the model takes axes as stored, and its training images have {known}")
    if not volume.array.size:
        return tuple(found)
    low, high = float(volume.array.min()), float(volume.array.max())
    if low > AIR_HU and high < BONE_HU and high - low > MIN_WINDOW_HU:
        share = float((volume.array == high).mean())
        if share > SHARE_AT_LIMIT:
            found.append(f"{share:.1%} of its voxels have the highest value, {high:g}: it seems windowed")
    if trained is None or trained.lowest is None or trained.highest is None:
        return tuple(found)
    if low > trained.lowest[1] + MARGIN_HU or high < trained.highest[0] - MARGIN_HU:
        found.append(
            f"its values go from {low:g} to {high:g} HU; in every training image they begin at or below "
            f"{trained.lowest[1]:g} and end at or above {trained.highest[0]:g}"
        )
    return tuple(found)
