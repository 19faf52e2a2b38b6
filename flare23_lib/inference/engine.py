"""Segmentation of one volume with a model bundle.

Order: orient, normalize, resample, windows, logits, labels at full resolution, orient back. Axes are (z, y, x).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from flare23_lib.errors import BundleError, ConfigError, ImageError
from flare23_lib.images import Orientation, Volume
from flare23_lib.inference.bundle import PRECISIONS, Bundle
from flare23_lib.inference.upsampling import labels_from_logits
from flare23_lib.inference.windows import Grid, pad_to_patch
from flare23_lib.networks.stunet import STUNet
from flare23_lib.resampling import resample_image, resampled_shape

log = logging.getLogger(__name__)

Flip = tuple[int, ...]
"""The axes of (z, y, x) that a pass mirrors along."""


@dataclass(frozen=True)
class Segmentation:
    """What the engine makes of one volume.

    Attributes:
        labels: uint8 file values in the volume's own stored (z, y, x) geometry.
        alternative: the labels that result when the excluded classes may not win, likewise; None if none were
            excluded.
        agreement: by label name, the Dice between each mirrored pass's labels and the mean's, averaged over the
            passes, at the model's resolution; None for a class that neither holds. Empty without TTA.
        timings: seconds per phase.
    """

    labels: np.ndarray
    alternative: np.ndarray | None
    agreement: dict[str, float | None]
    timings: dict[str, float]


class Engine:
    """Segments volumes with one model.

    All windows are computed. Results do not vary from run to run
    on one machine.

    Args:
        bundle: the model.
        device: "cpu", "cuda" or "cuda:1".
        step: distance of neighboring windows as a share of the patch; None for the model's default.
        tta: average over mirrored passes; None for the model's default.
        precision: "float32" or "bfloat16" (the network under autocast; sums stay float32); None for the model's
            default.
        batch_size: windows that the network sees at a time.

    Raises:
        ConfigError: an option is out of range.
        BundleError: the model does not take CT of one channel.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | str = "cpu",
        step: float | None = None,
        tta: bool | None = None,
        precision: str | None = "float32",
        batch_size: int = 1,
    ) -> None:
        model = bundle.model
        if model.input_channels != 1:
            raise BundleError(f"model {model.name}: takes {model.input_channels} channels, not 1")
        self.model = model
        self.device = torch.device(device)
        self.step = model.inference.step if step is None else step
        self.tta = model.inference.tta if tta is None else tta
        self.precision = model.inference.precision if precision is None else precision
        self.batch_size = batch_size
        if not 0 < self.step <= 1:
            raise ConfigError(f"step {self.step} is not in (0, 1]")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} is not at least 1")
        self.network = bundle.build_network(self.device)
        self._values = torch.tensor(model.values, dtype=torch.uint8, device=self.device)

    @property
    def flips(self) -> list[Flip]:
        """The passes: unmirrored, and with TTA every combination of the model's mirror axes."""
        return all_flips(self.model.mirror_axes) if self.tta else [()]

    def segment(self, volume: Volume, exclude: Collection[int] = ()) -> Segmentation:
        """Segment a volume.

        Args:
            volume: a CT in HU.
            exclude: label values whose classes may not win in `alternative`; values that the model does not know
                have no effect.

        Raises:
            ImageError: the volume is empty or holds values that are not finite.
            ConfigError: nothing is left to win.
        """
        excluded = [index for index, value in enumerate(self.model.values) if value in set(exclude)]
        if len(excluded) == len(self.model.values):
            raise ConfigError("exclude: every label of the model is excluded")
        clock = Clock(self.device)
        with torch.inference_mode(), _reproducible(self.device, self.precision):
            orientation = Orientation.of(volume.geometry.affine, self.model.orientation)
            image, shape = self._prepare(volume, orientation)
            clock.phase("prepare")
            logits, agreement = self._infer(image)
            clock.phase("infer")
            labels = self._finish(logits, shape, orientation)
            alternative = self._finish(logits, shape, orientation, excluded) if exclude else None
            clock.phase("upsample")
        return Segmentation(labels, alternative, agreement, clock.seconds)

    def _prepare(self, volume: Volume, orientation: Orientation) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Return the image that the network sees, and the oriented shape at full resolution."""
        stored = volume.array
        if stored.size == 0 or stored.dtype.kind not in "iufb":
            raise ImageError(f"a volume of shape {stored.shape} and type {stored.dtype} is no CT")
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise ImageError("the volume holds values that are not finite (NaN or infinite)")
        seen = np.ascontiguousarray(orientation.forward(stored), dtype=np.float32)
        spacing = orientation.spacing(volume.geometry.spacing)
        image = self.model.intensity.normalize(torch.from_numpy(seen).to(self.device))
        return resample_image(image, resampled_shape(seen.shape, spacing, self.model.spacing)), seen.shape

    def _infer(self, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, float | None]]:
        """Return the mean logits (classes, z, y, x) of all passes at the image's resolution, and the agreement."""
        padded, box = pad_to_patch(image, self.model.patch_size)
        grid = Grid.over(padded.shape, self.model.patch_size, self.step, self.device)
        flips = self.flips
        mean, passes = None, []
        for flip in flips:
            logits = self._pass(padded, grid, flip)[(slice(None), *box)]
            if len(flips) > 1:
                passes.append(logits.argmax(dim=0).to(torch.uint8))
            mean = logits if mean is None else mean.add_(logits)
        mean.div_(len(flips))
        agreement = agreement_of(passes, mean.argmax(dim=0), len(self.model.labels)) if passes else []
        return mean, dict(zip(self.model.names[1:], agreement[1:], strict=True)) if passes else {}

    def _pass(self, image: torch.Tensor, grid: Grid, flip: Flip) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return sliding_window(self.network, image, grid, len(self.model.labels), flip, batch_size=self.batch_size)

    def _finish(
        self,
        logits: torch.Tensor,
        shape: Sequence[int],
        orientation: Orientation,
        excluded: Collection[int] = (),
    ) -> np.ndarray:
        """Return file values in the stored geometry."""
        indices = labels_from_logits(logits, shape, excluded)
        values = self._values[indices.int()].cpu().numpy()
        return np.ascontiguousarray(orientation.backward(values))


def all_flips(axes: Sequence[int]) -> list[Flip]:
    """Return every combination of axes, the empty one first: 8 for three axes."""
    return [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]


def sliding_window(
    network: STUNet, image: torch.Tensor, grid: Grid, classes: int, flip: Flip = (), batch_size: int = 1
) -> torch.Tensor:
    """Run a network over an image window by window.

    Every window is mirrored, run, and mirrored back (as nnU-Net does it; the windows stay where they are), so
    that the mean of several flips' results is nnU-Net's result.

    Args:
        network: maps (b, 1, z, y, x) to logits (b, classes, z, y, x).
        image: (z, y, x), normalized.
        grid: the windows over the image.
        classes: the network's outputs.
        flip: axes of (z, y, x) to mirror along.
        batch_size: windows at a time.

    Returns:
        float32 logits (classes, z, y, x), the mean of the windows by their Gaussian weights.
    """
    dims = [axis + 2 for axis in flip]
    total = torch.zeros((classes, *image.shape), device=image.device)
    for start in range(0, len(grid.windows), batch_size):
        windows = grid.windows[start : start + batch_size]
        patches = torch.stack([image[window] for window in windows])[:, None]
        outputs = network(patches.flip(dims)).float().flip(dims)
        for window, logits in zip(windows, outputs, strict=True):
            total[(slice(None), *window)] += logits * grid.importance
    return total.div_(grid.coverage)


def agreement_of(passes: Sequence[torch.Tensor], mean: torch.Tensor, classes: int) -> list[float | None]:
    """Return, per class, the Dice between each pass's labels and the mean's, averaged over the passes.

    A pass counts for a class if it or the mean holds the class; None if no pass counts.

    Args:
        passes: label indices, all of one shape.
        mean: label indices of the same shape.
        classes: number of classes.
    """
    scores: list[list[float]] = [[] for _ in range(classes)]
    for labels in passes:
        pairs = torch.bincount((labels.long() * classes + mean).flatten(), minlength=classes**2)
        table = pairs.reshape(classes, classes).cpu()
        both, sizes = table.diagonal().tolist(), (table.sum(0) + table.sum(1)).tolist()
        for score, shared, size in zip(scores, both, sizes, strict=True):
            if size:
                score.append(2 * shared / size)
    return [sum(score) / len(score) if score else None for score in scores]


class Clock:
    """Seconds per phase; waits for the device at the end of each, as its work is asynchronous."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def phase(self, name: str) -> None:
        """End a phase."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


@contextlib.contextmanager
def _reproducible(device: torch.device, precision: str) -> Iterator[None]:
    """On a GPU, choose convolutions that repeat their result, and keep float32 from becoming TF32."""
    if device.type != "cuda":
        yield
        return
    tf32 = precision != "float32"
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
        yield
