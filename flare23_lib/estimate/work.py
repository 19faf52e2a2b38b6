"""What a configuration asks for, stage by stage: how much of what is to be done. The figures turn it into a cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from flare23_lib.config import Config
from flare23_lib.config.settings import InferenceSettings, TrainingSettings
from flare23_lib.estimate.extents import Extent, Members, Sizes
from flare23_lib.estimate.throughputs import Figures, compute_figure, network_of
from flare23_lib.inference.windows import window_starts
from flare23_lib.networks.size import forward_macs, parameters
from flare23_lib.resampling import resampled_shape
from flare23_lib.store import fingerprint

TRAINING_CORES, SEGMENTATION_CORES = 12, 4
"""Cores that a job holds while its GPU works: `threads` of the rule `train`, and of `pseudo_label` and `predict`."""

TRAINING_PASSES = 3
"""A training iteration is three forward passes' work: forward, gradients of activations, gradients of weights."""

OPTIMIZER_NUMBERS = {"sgd": 1, "adamw": 2}
"""Numbers that a checkpoint holds for each weight beside it: momentum, or AdamW's two moments."""

WEIGHT_FILES = 3
"""Files that hold the weights of a trained model: checkpoint, store and bundle."""


@dataclass(frozen=True)
class Part:
    """An amount, and the name of the figure that gives its cost."""

    figure: str
    amount: float


@dataclass(frozen=True)
class Work:
    """A stage of the workflow for one model or completion.

    Attributes:
        stage: what is done.
        name: the model or completion; empty for the scan.
        cases: how many cases it is done for, those left out that another line has done already.
        parts: what it consists of.
        windows: windows of the network over all cases; None where there are none.
        cores_held: cores per GPU that wait while it works.
    """

    stage: str
    name: str
    cases: int
    parts: tuple[Part, ...]
    windows: float | None = None
    cores_held: float = 0


def window_count(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], patch: Sequence[int], step: float
) -> int:
    """Return how many windows the engine lays over a whole image: its grid over the resampled, padded image.

    Args:
        shape: (z, y, x) as stored.
        spacing: (z, y, x) in mm.
        target: the model's spacing (z, y, x) in mm.
        patch: (z, y, x) in voxels.
        step: largest distance of windows, in patches.
    """
    resampled = resampled_shape(shape, spacing, target)
    padded = [max(size, window) for size, window in zip(resampled, patch, strict=True)]
    return prod(map(len, window_starts(padded, patch, step)))


def window_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of a forward pass over one window."""
    network, classes = network_of(settings)
    return forward_macs(network, settings.patch_size, classes)


def epoch_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of an epoch of training: its iterations and those of its validation."""
    training = settings.training
    passes = TRAINING_PASSES * training.iterations_per_epoch + training.validation_iterations
    return passes * training.batch_size * window_macs(settings)


def image_macs(settings: TrainingSettings, inference: InferenceSettings, extent: Extent) -> int:
    """Return the multiply-accumulates of segmenting an image: windows, mirrored passes with TTA, forward passes.

    Args:
        settings: those of the model's training.
        inference: its `step` and `tta`.
        extent: of the image.
    """
    passes = mirrored_passes(settings.training.mirror_axes, inference.tta)
    windows = window_count(extent.shape, extent.spacing, settings.spacing, settings.patch_size, inference.step)
    return windows * passes * window_macs(settings)


def mirrored_passes(mirror_axes: Sequence[int], tta: bool) -> int:
    """Return how often each window is seen: once, or with TTA once per combination of the mirror axes."""
    return 2 ** len(mirror_axes) if tta else 1


def work_of(config: Config, sizes: Sizes, figures: Figures) -> list[Work]:
    """Return the work of a run that starts from nothing, in the order of the workflow.

    Args:
        config: the configuration.
        sizes: the cases.
        figures: decide which figure each part is priced by; see `throughputs.compute_figure`.
    """
    return _Worker(config, sizes, figures).run()


class _Worker:
    """Walks through models and completions and remembers which preprocessed cases are there already."""

    def __init__(self, config: Config, sizes: Sizes, figures: Figures) -> None:
        self.config = config
        self.sizes = sizes
        self.figures = figures
        self.without_labels = {category.name for category in config.categories if category.no_labels}
        self.there: set[tuple[str, str]] = set()
        self.work: list[Work] = []

    def run(self) -> list[Work]:
        self._scan()
        for table, name in self.config.order():
            if table == "completions":
                self._completion(name)
                continue
            self._preprocessing(name)
            self._training(name)
            if name in self.config.evaluated:
                self._segmentation("predictions", name, name, self.sizes.validation)
                cases = self.sizes.labeled_validation
                parts = (Part("evaluate", cases.total(_stored)),)
                self.work.append(Work("evaluation", name, cases.cases, parts))
        return self.work

    def _scan(self) -> None:
        categories = self.sizes.categories
        images = [*categories.values(), self.sizes.validation]
        labels = [members for name, members in categories.items() if name not in self.without_labels]
        labels.append(self.sizes.labeled_validation)
        read = _total(images, _stored) if self.config.scan.check_images == "full" else 0
        parts = (Part("scan_images", read), Part("scan_labels", _total(labels, _stored)))
        self.work.append(Work("scan", "", _cases(images), parts))

    def _preprocessing(self, model: str) -> None:
        settings = self.config.preprocessing_settings(model)
        sources = [("originals", name, name) for name in settings.originals]
        sources += [("completions", name, self.config.completion(name).category) for name in settings.completions]
        measured = settings.intensity == "measure"
        intensity = self.config.intensity_settings(model) if measured else settings.intensity
        image_key = fingerprint("images", settings.spacing, settings.orientation, intensity.to_json())
        label_key = fingerprint("labels", settings.spacing, settings.orientation)
        images = [self.sizes.categories[category] for *_, category in sources if self._is_new(image_key, category)]
        labels = [
            self.sizes.categories[category]
            for kind, name, category in sources
            if self._is_new(label_key, f"{kind} {name}")
        ]

        def resampled(extent: Extent) -> int:
            return prod(resampled_shape(extent.shape, extent.spacing, settings.spacing))

        parts = (
            Part("preprocess_images_stored", _total(images, _stored)),
            Part("preprocess_images_resampled", _total(images, resampled)),
            Part("preprocessed_images", _total(images, resampled)),
        )
        self.work.append(Work("preprocessed images", model, _cases(images), parts))
        voxels, cases = _total(labels, resampled), _cases(labels)
        parts = (
            Part("preprocess_labels_stored", _total(labels, _stored)),
            Part("preprocess_labels_resampled", voxels),
            Part("preprocessed_labels", voxels),
            Part("locations", cases * (len(settings.label_values) + 1)),  # the one: all voxels together
        )
        self.work.append(Work("preprocessed labels", model, cases, parts))

    def _is_new(self, key: str, what: str) -> bool:
        fresh = (key, what) not in self.there
        self.there.add((key, what))
        return fresh

    def _training(self, model: str) -> None:
        table, settings = self.config.model(model), self.config.training_settings(model)
        network, classes = network_of(settings)
        per_weight = WEIGHT_FILES + OPTIMIZER_NUMBERS[table.training.optimizer]
        parts = (
            Part(
                compute_figure(self.figures, self.config, "training", model),
                table.training.epochs * epoch_macs(settings),
            ),
            Part("weights", parameters(network, classes) * per_weight),
        )
        names = [*table.train_on.originals]
        names += [self.config.completion(name).category for name in table.train_on.completions]
        cases = _cases(self.sizes.categories[name] for name in names)
        self.work.append(Work("training", model, cases, parts, cores_held=self._held(TRAINING_CORES) / table.gpus))

    def _completion(self, name: str) -> None:
        row = self.config.completion(name)
        cases = self.sizes.categories[row.category]
        files = 1 + (row.dropped_to == "next_class") + row.need_votes
        self._segmentation("pseudo-labels", name, row.teacher, cases, files)
        voxels = cases.total(_stored)
        parts = (Part("complete", voxels), Part("written_labels", voxels))
        self.work.append(Work("completed labels", name, cases.cases, parts))

    def _segmentation(self, stage: str, name: str, model: str, cases: Members, files: int = 1) -> None:
        settings, inference = self.config.training_settings(model), self.config.inference_settings(model)
        patch, step = settings.patch_size, inference.step
        windows = cases.total(
            lambda extent: window_count(extent.shape, extent.spacing, settings.spacing, patch, step)
        )
        passes = mirrored_passes(settings.training.mirror_axes, inference.tta)
        macs = windows * passes * window_macs(settings)
        voxels = cases.total(_stored)
        parts = (
            Part(compute_figure(self.figures, self.config, "inference", model), macs),
            Part("segment_files", voxels),
            Part("written_labels", files * voxels),
        )
        held = self._held(SEGMENTATION_CORES)
        self.work.append(Work(stage, name, cases.cases, parts, windows, held))

    def _held(self, cores: int) -> int:
        return 0 if self.config.device == "cpu" else cores


def _stored(extent: Extent) -> int:
    return extent.voxels


def _total(groups: Iterable[Members], amount: Callable[[Extent], float]) -> float:
    return sum(members.total(amount) for members in groups)


def _cases(groups: Iterable[Members]) -> int:
    return sum(members.cases for members in groups)
