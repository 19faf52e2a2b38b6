"""What a run costs, before it starts: the amount of work in each stage divided by a throughput. No image is read.

Amounts follow from the configuration and from the cases' shapes and spacings. Figures of CPU and disk are those of
`benchmarks/results/throughput.json`, figures of GPUs follow from published training times, and an earlier run can
replace those of its networks. docs/estimate.md lists sources and assumptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.settings import InferenceSettings, TrainingSettings
from flare23_lib.dataset import flare23
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.errors import ConfigError
from flare23_lib.inference.segmentations import model_digest, segmentation_entry, segmentation_folder
from flare23_lib.io import atomic
from flare23_lib.networks import Architecture
from flare23_lib.networks.size import forward_macs, parameters

CORE, GPU, DISK = "core_hours", "gpu_hours", "disk_gb"
VALIDATION = "validation"

Figures = Mapping[str, tuple[str, float]]

FIGURES: Figures = {
    "scan_images": (CORE, 216e6),
    "scan_labels": (CORE, 1150e6),
    "preprocess_images_stored": (CORE, 114e6),
    "preprocess_images_resampled": (CORE, 17.1e6),
    "preprocess_labels_stored": (CORE, 45.7e6),
    "preprocess_labels_resampled": (CORE, 20.3e6),
    "segment_files": (CORE, 175e6),
    "complete": (CORE, 102e6),
    "evaluate": (CORE, 123e6),
    "cpu_training_float32": (CORE, 0.0257e12),
    "cpu_training_16bit": (CORE, 0.0529e12),
    "cpu_inference_float32": (CORE, 0.0262e12),
    "cpu_inference_16bit": (CORE, 0.0531e12),
    "gpu_float32": (GPU, 4.9e12),
    "gpu_16bit_small": (GPU, 20.7e12),
    "gpu_16bit_large": (GPU, 88.3e12),
    "preprocessed_images": (DISK, 2.5),
    "preprocessed_labels": (DISK, 0.02),
    "written_labels": (DISK, 0.009),
    "locations": (DISK, 160_000),
    "weights": (DISK, 4),
}
"""What is assumed: voxels or multiply-accumulates per second of a core or GPU; bytes per voxel, label or number."""

SMALL_PARAMETERS = 60_000_000
"""A network with at most as many parameters is as fast as STU-Net-B (58 million), a larger one as STU-Net-L."""

TRAINING_CORES, SEGMENTATION_CORES = 12, 4
"""Cores that a job holds while its GPU works: `threads` of the rule `train`, and of `pseudo_label` and `predict`."""

TRAINING_PASSES = 3
"""A training iteration is the work of three forward passes: forward, gradients of activations and of weights."""

NUMBERS_PER_WEIGHT = {"sgd": 4, "adamw": 5}
"""Numbers on disk: a weight in checkpoint, store and bundle, and the optimizer's one or two moments."""

SHAPE, SPACING = ["slices", "rows", "columns"], ["spacing_z", "spacing_y", "spacing_x"]
SIZES = ["group", "labeled", "number", *SHAPE, *SPACING]
"""Columns of a table of sizes: category or "validation", number of cases of this size, voxels, mm."""

NOTES = """\
windows: over whole images, an upper bound where only windows over the body are computed; with TTA each is computed
once per mirrored pass. core_hours: with the cores that a GPU job holds. disk_gb: 10^9 bytes, without the cohort."""


def sizes_of_cases(cases: Sequence[Case]) -> pd.DataFrame:
    """Return the sizes (`SIZES`) of cases.csv's cases, without those that are quarantined."""
    rows = [
        (case.category or case.split, bool(case.label), 1, *case.shape, *case.spacing)
        for case in cases
        if case.usable and case.shape and case.spacing
    ]
    return pd.DataFrame(rows, columns=SIZES)


def flare23_sizes(config: Config) -> pd.DataFrame:
    """Return the sizes (`SIZES`) of FLARE23's cases; ConfigError if the categories are not FLARE23's."""
    labeled = {category.name: not category.no_labels for category in config.categories} | {VALIDATION: True}
    if labeled.keys() != flare23.CASES.keys():
        raise ConfigError("categories: are not FLARE23's, so numbers of cases are not known; run the target `cohort`")
    rows = [
        (name, labeled[name], number / len(flare23.SIZES), *shape, *spacing)
        for name, number in flare23.CASES.items()
        for shape, spacing in flare23.SIZES
    ]
    return pd.DataFrame(rows, columns=SIZES)


def estimate(config: Config, sizes: pd.DataFrame, figures: Figures = FIGURES) -> pd.DataFrame:
    """Return what a run costs that starts from nothing: a row per stage in the order of the workflow, the total last.

    Args:
        config: the configuration.
        sizes: `sizes_of_cases` or `flare23_sizes`.
        figures: `FIGURES`, or with those of `measured_figures`.

    Returns:
        A table with stage, of (model or completion), cases, windows, disk_gb, gpu_hours, core_hours, and speed: that
        of the stage's network, assumed or measured.

    Raises:
        ConfigError: a case is of a category that the configuration does not have.
    """
    names = [*(category.name for category in config.categories), VALIDATION]
    if unknown := set(sizes["group"]) - set(names):
        raise ConfigError(f"categories: there are cases of {', '.join(sorted(unknown))}, but only {', '.join(names)}")
    table = pd.DataFrame(_Estimate(config, sizes, figures).rows())
    total = {"stage": "total", "of": "", "speed": "", **table[["windows", DISK, GPU, CORE]].sum()}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return table.astype({"cases": "Int64", "windows": "int64"})


class _Estimate:
    """Goes through models and completions and remembers what is preprocessed already."""

    def __init__(self, config: Config, sizes: pd.DataFrame, figures: Figures) -> None:
        self.config = config
        self.sizes = sizes
        self.figures = figures
        self.validation = sizes[sizes["group"] == VALIDATION]
        self.preprocessed: set[tuple] = set()

    def rows(self) -> Iterator[dict[str, Any]]:
        images = self.sizes if self.config.scan.check_images == "full" else self.sizes[:0]
        labels = self.sizes[self.sizes["labeled"]]
        yield self._row("scan", "", self.sizes, {"scan_images": _voxels(images), "scan_labels": _voxels(labels)})
        for table, name in self.config.order():
            if table == "completions":
                row = self.config.completion(name)
                yield self._segmentation("pseudo-labels", name, row.teacher, self._of([row.category]))
                continue
            yield self._preprocessing(name)
            yield self._training(name)
            if name in self.config.evaluated:
                yield self._segmentation("predictions", name, name, self.validation)
                scored = self.validation[self.validation["labeled"]]
                yield self._row("evaluation", name, scored, {"evaluate": _voxels(scored)})

    def _of(self, categories: Sequence[str]) -> pd.DataFrame:
        return self.sizes[self.sizes["group"].isin(categories)]

    def _sources(self, model: str) -> dict[tuple[str, str], str]:
        """Return what a model learns from: kind and name of the labels -> category."""
        sources = self.config.model(model).train_on
        completed = {("completed", name): self.config.completion(name).category for name in sources.label_completions}
        return {("original", name): name for name in sources.manual_labels} | completed

    def _preprocessing(self, model: str) -> dict[str, Any]:
        """Count an image once per spacing, orientation and intensity, labels once per spacing and orientation."""
        settings, sources = self.config.preprocessing_settings(model), self._sources(model)
        spacing, grid = settings.spacing, (*settings.spacing, settings.orientation)
        factor = settings.label_factor or (1, 1, 1)
        label_spacing = tuple(size / one for size, one in zip(spacing, factor, strict=True))
        given = settings.intensity
        intensity = str(self.config.intensity_settings(model) if given == "measure" else given)
        image_keys = {(*grid, intensity, category): category for category in sources.values()}
        label_keys = {(*grid, *factor, *source): category for source, category in sources.items()}
        images, labels = (
            self._of([category for key, category in keys.items() if key not in self.preprocessed])
            for keys in (image_keys, label_keys)
        )
        self.preprocessed |= image_keys.keys() | label_keys.keys()
        amounts = {
            "preprocess_images_stored": _voxels(images),
            "preprocess_images_resampled": _voxels(images, spacing),
            "preprocess_labels_stored": _voxels(labels),
            "preprocess_labels_resampled": _voxels(labels, label_spacing),
            "preprocessed_images": _voxels(images, spacing),
            "preprocessed_labels": _voxels(labels, label_spacing),
            "locations": labels["number"].sum() * (len(settings.label_values) + 1),  # one more for all together
        }
        return self._row("preprocessing", model, self.sizes.loc[images.index.union(labels.index)], amounts)

    def _training(self, model: str) -> dict[str, Any]:
        settings, gpus = self.config.training_settings(model), self.config.model(model).gpus
        training = settings.training
        amounts = {
            network_figure(self.figures, self.config, "training", model): training.epochs * epoch_macs(settings),
            "weights": parameters(*_network(settings)) * NUMBERS_PER_WEIGHT[training.optimizer],
        }
        return self._row(
            "training", model, self._of([*self._sources(model).values()]), amounts, TRAINING_CORES / gpus
        )

    def _segmentation(self, stage: str, name: str, model: str, cases: pd.DataFrame) -> dict[str, Any]:
        """Segment cases; pseudo-labels are also merged with the originals, and written a second time."""
        settings, inference = self.config.training_settings(model), self.config.inference_settings(model)
        voxels, merged = _voxels(cases), stage == "pseudo-labels"
        windows = window_count(cases, settings, inference)
        amounts = {
            network_figure(self.figures, self.config, "inference", model): windows * window_macs(settings, inference),
            "segment_files": voxels,
            "complete": voxels * merged,
            "written_labels": voxels * (1 + merged),
        }
        return self._row(stage, name, cases, amounts, SEGMENTATION_CORES) | {"windows": windows}

    def _row(
        self, stage: str, name: str, cases: pd.DataFrame, amounts: Mapping[str, float], held: float = 0
    ) -> dict[str, Any]:
        """Return a row: amounts by name in the figures, turned into costs; `held` cores wait for each GPU."""
        costs, speed = {DISK: 0.0, GPU: 0.0, CORE: 0.0}, ""
        for key, amount in amounts.items():
            resource, figure = self.figures[key]
            costs[resource] += amount * figure / 1e9 if resource == DISK else amount / figure / 3600
            if key not in FIGURES or key.startswith(("cpu", "gpu")):
                speed = f"{figure / 1e12:.3g} TMAC/s {'assumed' if key in FIGURES else 'measured'}"
        costs[CORE] += costs[GPU] * held
        cases = round(cases["number"].sum())
        return {"stage": stage, "of": name, "cases": cases, "windows": 0, **costs, "speed": speed}


# Amounts


def _voxels(cases: pd.DataFrame, spacing: Sequence[float] | None = None) -> float:
    """Return the voxels of all images, as stored or at a spacing (z, y, x) in mm."""
    shapes = cases[SHAPE].to_numpy() if spacing is None else _resampled(cases, spacing)
    return float(shapes.prod(axis=1) @ cases["number"])


def _resampled(cases: pd.DataFrame, spacing: Sequence[float]) -> np.ndarray:
    """Return the shapes (n, 3) at a spacing (z, y, x) in mm, as `resampling.resampled_shape` rounds them."""
    return np.maximum(1, np.round(cases[SHAPE].to_numpy() * cases[SPACING].to_numpy() / spacing))


def window_count(cases: pd.DataFrame, settings: TrainingSettings, inference: InferenceSettings) -> int:
    """Return how many windows the engine lays over whole images: its grid over the resampled, padded images.

    Args:
        cases: sizes.
        settings: those of the model's training.
        inference: how it is used.
    """
    patch = np.array(settings.patch_size)
    rest = np.maximum(_resampled(cases, settings.spacing) - patch, 0)
    return round((np.ceil(rest / (patch * inference.tile_step_size)) + 1).prod(axis=1) @ cases["number"])


def window_macs(settings: TrainingSettings, inference: InferenceSettings) -> int:
    """Return the multiply-accumulates of a window, with TTA of all its mirrored passes; arguments as above."""
    passes = 2 ** len(settings.training.mirror_axes) if inference.tta else 1
    return passes * patch_macs(settings)


def epoch_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of an epoch, validation iterations included."""
    training = settings.training
    passes = TRAINING_PASSES * training.iterations_per_epoch + training.validation_iterations
    return passes * training.batch_size * patch_macs(settings)


def patch_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of a forward pass over one patch."""
    network, classes = _network(settings)
    return forward_macs(network, settings.patch_size, classes)


def _network(settings: TrainingSettings) -> tuple[Architecture, int]:
    """Return the network and its classes, background included."""
    return settings.network, len(settings.label_values) + 1


# How fast networks are


def network_figure(figures: Figures, config: Config, phase: str, model: str) -> str:
    """Return the name of the figure of a model's speed in "training" or "inference".

    It is the model's own if it was measured, else that of its device, precision and, on a GPU, size.
    """
    if (own := f"{phase} of {model}") in figures:
        return own
    on_cpu, table = config.device == "cpu", config.model(model)
    precision = (table.training if phase == "training" else table.inference).precision
    float32 = precision == "float32" or (on_cpu and precision in ("mixed", "auto"))
    if on_cpu:
        return f"cpu_{phase}_{'float32' if float32 else '16bit'}"
    small = parameters(*_network(config.training_settings(model))) <= SMALL_PARAMETERS
    return "gpu_float32" if float32 else "gpu_16bit_small" if small else "gpu_16bit_large"


def measured_figures(root: Path, config: Config) -> Figures:
    """Return the figures, with the speeds of networks that an earlier run measured.

    A model counts if the earlier run trained one of its name with the same network, patch, batch and precision on the
    same kind of device. Training is measured by its median epoch, inference by the cases that were segmented with the
    configuration's inference settings.

    Args:
        root: results folder of the earlier run.
        config: the configuration of the estimate.

    Raises:
        StoreError: the folder holds no cohort/cases.csv.
    """
    results, figures = Results(root), dict(FIGURES)
    cases = [case for case in read_cases(results.cases) if case.usable]
    for model in filter(lambda model: results.model_file(model).exists(), config.models):
        record = atomic.read_json(results.training(model))
        settings, inference = config.training_settings(model), config.inference_settings(model)
        on_cpu, then = record["device"].startswith("cpu"), TrainingSettings.from_json(record["settings"])
        if on_cpu != (config.device == "cpu") or not _alike(then, settings):
            continue
        resource, workers = (CORE, record["threads"]) if on_cpu else (GPU, record["gpus"])
        speed = epoch_macs(then) / (record["epoch_seconds"] * workers)
        figures[f"training of {model}"] = resource, speed
        folder = segmentation_folder(results, model_digest(atomic.read_json(results.model_file(model))), inference)
        notes = [(case, note) for case in cases if (note := segmentation_entry(folder, case).load())]
        if notes:
            windows = window_count(sizes_of_cases([case for case, _ in notes]), settings, inference)
            seconds = sum(sum(note["results"]["timings"].values()) for _, note in notes)
            workers = min(SEGMENTATION_CORES, record["threads"]) if on_cpu else 1
            figures[f"inference of {model}"] = (
                resource,
                windows * window_macs(settings, inference) / seconds / workers,
            )
    return figures


def _alike(one: TrainingSettings, other: TrainingSettings) -> bool:
    compared = [
        (settings.network, settings.patch_size, settings.label_values, settings.training.batch_size,
         settings.training.precision)
        for settings in (one, other)
    ]  # fmt: skip
    return compared[0] == compared[1]


# Output


def write_estimate(path: Path, table: pd.DataFrame) -> None:
    """Write the table as CSV."""
    with atomic.atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def format_estimate(table: pd.DataFrame) -> str:
    """Return the table as text, with notes below."""
    table = table.assign(cases=table["cases"].astype("string").fillna(""), windows=table["windows"].replace(0, ""))
    text = table.set_index(["stage", "of"]).to_string(sparsify=False, float_format="{:.2f}".format)
    return "\n".join([*map(str.rstrip, text.splitlines()), "", NOTES])
