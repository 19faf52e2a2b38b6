"""Segmentation of one volume with a model bundle.

Order: orient, normalize, resample; then, slab of windows by slab: logits, their weighted sums, labels at full
resolution, orient back. Axes are (z, y, x).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flare23_lib.axes import Triple, as_triple
from flare23_lib.errors import BundleError, ConfigError, ImageError, first_line
from flare23_lib.inference.body_mask import Body, find_body
from flare23_lib.inference.bundle import Bundle
from flare23_lib.inference.image_files import NO_EXTRAS, Extras
from flare23_lib.inference.logit_accumulator import TTAAgreement
from flare23_lib.inference.memory import CaseSize, Limits, MemoryPlan, plan, weight_bytes
from flare23_lib.inference.network import WindowNetwork
from flare23_lib.inference.sliding_window import Output, PhaseTimer, WindowedImage, run_slabs
from flare23_lib.inference.windows import WindowSlab, all_windows, body_windows, center_first_windows, pad_to_patch
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.nifti import Volume, is_finite
from flare23_lib.io.orientation import Orientation
from flare23_lib.preprocessing.resampling import prepare_image, resampled_shape, write_nearest
from flare23_lib.runtime.precision import inference_precision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmentation:
    """The result of one volume.

    Attributes:
        labels: uint8 file values in the volume's own stored (z, y, x) geometry.
        tta_agreement: by label name, the Dice between each mirrored pass's labels and the mean's, averaged over the
            passes, at the model's resolution; None for a class that neither holds. Empty without TTA.
        tta_vote_count: uint8, likewise: how many passes give the label of their mean at the nearest voxel of the
            model's resolution; None unless wanted.
        soft: int32, likewise: soft labels at the nearest voxel of the model's resolution (`labels.pack_soft`); None
            unless wanted.
        passes: how many there are.
        timings: seconds per phase: resample, windows, labels.
        windows: how many windows were computed.
    """

    labels: np.ndarray
    tta_agreement: dict[str, float | None]
    tta_vote_count: np.ndarray | None
    soft: np.ndarray | None
    passes: int
    timings: dict[str, float]
    windows: int


@dataclass(frozen=True)
class Prepared:
    """A volume as the network sees it; the volume itself is no longer needed.

    Attributes:
        image: float32, normalized and resampled.
        stored_shape: of the volume, as the file stores its axes.
        orientation: from these axes to those that the network sees.
        body: where the body is; None if all windows are wanted, or nothing was found.
    """

    image: torch.Tensor
    stored_shape: Triple
    orientation: Orientation
    body: Body | None
    plan: MemoryPlan
    timer: PhaseTimer
    extras: Extras


class Engine:
    """Segments volumes with one model and its inference options (`Bundle.with_inference`).

    Results do not vary from run to run on one machine; with other numbers of threads or limits of memory they vary by
    float rounding.

    The device is "cpu", "cuda" or "cuda:1". With `compiled` the network is compiled first, for one window at a time.
    That takes a C++ compiler (on a GPU, Triton) and some seconds, and rounds in other places.

    Raises:
        ConfigError: the device only emulates the precision, or the network cannot be compiled here.
        BundleError: the model does not take CT of one channel.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | str = "cpu",
        limits: Limits | None = None,
        compiled: bool = False,
    ) -> None:
        model = bundle.model
        if model.input_channels != 1:
            raise BundleError(f"model {model.name}: takes {model.input_channels} channels, not 1")
        self.model = model
        self.device = torch.device(device)
        self.limits = limits or Limits()
        self.precision = inference_precision(model.inference.precision, self.device)
        self.limits.enforce(self.device, weight_bytes(model, 4 if self.precision == "float32" else 2))
        if model.inference.tta and not model.mirror_axes:
            log.info("test-time augmentation: none; the model was trained without mirroring")
        self.compiled = compiled
        self._network = WindowNetwork(bundle.build_network(), self.device, self.precision, compiled)
        if unseen := model.unseen:
            log.info("classes without training data are suppressed: %s", ", ".join(unseen))
            self._network.suppress_classes([model.names.index(name) for name in unseen])
        if compiled:
            self._compile()

    def _compile(self) -> None:
        log.info("the network is being compiled")
        try:
            with torch.inference_mode(), _reproducible(self.device, self.precision):
                self._network(torch.zeros(1, *self.model.patch_size))
        except Exception as error:  # compilers fail in many ways
            raise ConfigError(f"torch.compile does not work here: {first_line(error)}") from error

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """The axes (z, y, x) that each pass mirrors along: none, and with TTA each combination of the model's."""
        return all_flips(self.model.mirror_axes) if self.model.inference.tta else [()]

    def plan(self, geometry: Geometry, image_bytes: int, extras: Extras = NO_EXTRAS) -> MemoryPlan:
        """Return how a volume of a geometry and a size in bytes would be computed and what memory that takes.

        Raises:
            ImageError: it cannot be done within the limits.
        """
        orientation = Orientation.of(geometry.affine, self.model.orientation)
        shape = orientation.forward(np.broadcast_to(np.uint8(0), geometry.shape)).shape
        resampled = resampled_shape(shape, orientation.spacing(geometry.spacing), self.model.spacing)
        padded = as_triple(map(max, resampled, self.model.patch_size))
        task = CaseSize(
            image=image_bytes,
            voxels=math.prod(shape),
            shape=padded,
            passes=len(self.flips),
            unpadded=0 if padded == resampled else math.prod(resampled),
            extras=extras,
            compiled=self.compiled,
        )
        return plan(self.model, self.precision, self.device, task, self.limits)

    def segment(self, volume: Volume, extras: Extras = NO_EXTRAS) -> Segmentation:
        """Segment a CT in HU: `prepare` and `infer`.

        Raises:
            ImageError: the volume is empty, it or the network's logits hold values that are not finite, or the limits
                of memory are too low.
            ConfigError: there are no mirrored passes to count.
        """
        return self.infer(self.prepare(volume, extras))

    def prepare(self, volume: Volume, extras: Extras = NO_EXTRAS) -> Prepared:
        """Make the image that the network sees; arguments and errors as `segment`."""
        stored = volume.array
        if stored.size == 0 or stored.dtype.kind not in "iufb":
            raise ImageError(f"a volume of shape {stored.shape} and type {stored.dtype} is not a CT")
        if not is_finite(stored):
            raise ImageError("the volume holds values that are not finite (NaN or infinite)")
        chosen = self.plan(volume.geometry, stored.nbytes, extras)
        log.info("memory: %s", chosen)
        timer = PhaseTimer(self.device)
        orientation = Orientation.of(volume.geometry.affine, self.model.orientation)
        seen, spacing = orientation.forward(stored), orientation.spacing(volume.geometry.spacing)
        shape = resampled_shape(seen.shape, spacing, self.model.spacing)
        place = self.device if chosen.image_on_device else torch.device("cpu")
        with torch.inference_mode(), _reproducible(self.device, self.precision):
            image = prepare_image(seen, self.model.intensity, shape, self.device, place, chosen.slab_bytes)
        body = None
        if self.model.inference.windows == "body":
            body = find_body(seen, spacing, shape)
            if body is None:
                log.info("windows: no body was found in the image; all of it is computed")
        timer.phase("resample")
        return Prepared(image, as_triple(stored.shape), orientation, body, chosen, timer, extras)

    def infer(self, prepared: Prepared) -> Segmentation:
        """Segment a prepared volume; errors as `segment`."""
        model, flips, extras = self.model, self.flips, prepared.extras
        if extras.votes and len(flips) == 1:
            raise ConfigError(f"model {model.name}: votes need test-time augmentation (tta, mirror_axes)")
        turn, labels = prepared.orientation.forward, np.zeros(prepared.stored_shape, np.uint8)
        output = Output(
            turn(labels),
            np.array(model.values, np.uint8),
            soft=np.zeros(prepared.image.shape, np.int32) if extras.soft else None,
        )
        agreement = None
        if len(flips) > 1:
            counted = prepared.image.shape if extras.votes else None
            agreement = TTAAgreement(len(model.labels), len(flips), counted)
        prepared.timer.start()
        with torch.inference_mode(), _reproducible(self.device, self.precision):
            padded, box = pad_to_patch(prepared.image, model.patch_size)
            slabs = self._slabs(padded.shape, box, prepared.body)
            place = self.device if prepared.plan.sums_on_device else torch.device("cpu")
            image = WindowedImage(padded, box, slabs, flips, place)
            computed = run_slabs(self._network, image, output, agreement, prepared.plan, prepared.timer)
        log.info("windows: %d computed (%s)", computed, model.inference.windows)
        scores = dict(zip(model.names[1:], agreement.scores()[1:], strict=True)) if agreement else {}
        counts = None
        if agreement and agreement.vote_count is not None:
            counts = np.empty(prepared.stored_shape, np.uint8)
            write_nearest(agreement.vote_count, turn(counts))
        soft = None
        if output.soft is not None:
            soft = np.empty(prepared.stored_shape, np.int32)
            write_nearest(output.soft, turn(soft))
        return Segmentation(labels, scores, counts, soft, len(flips), prepared.timer.seconds, computed)

    def _slabs(self, shape: Sequence[int], box: Sequence[slice], body: Body | None) -> list[WindowSlab]:
        patch_size, options = self.model.patch_size, self.model.inference
        if body is not None:
            return body_windows(shape, patch_size, options.step, body, [part.start for part in box])
        lay = center_first_windows if options.windows == "center_first" else all_windows
        return lay(shape, patch_size, options.step)


def all_flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every combination of axes, the empty one first: 8 for three axes."""
    return [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]


@contextlib.contextmanager
def _reproducible(device: torch.device, precision: str) -> Iterator[None]:
    """On a GPU, choose convolutions that repeat their result, and keep float32 from becoming TF32."""
    if device.type != "cuda":
        yield
        return
    tf32 = precision != "float32"
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
        yield
