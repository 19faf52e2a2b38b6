"""What a run costs, before it starts: the amount of work in each stage divided by a throughput. No image is read.

Amounts follow from the configuration and from the cases' shapes and spacings. Throughputs of CPUs and sizes on disk
are those of `benchmarks/results/throughput.json`, those of GPUs follow from published training times, and an earlier
run can replace those of its networks. docs/estimate.md lists sources and assumptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd

from flare23_lib.cache.entries import CacheFolder, Entry, Metadata
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset import flare23
from flare23_lib.dataset.cases import SHAPE, SPACING, Case, read_cases
from flare23_lib.errors import CohortError, ConfigError
from flare23_lib.inference.segmentations import model_digest, segmentation_folder
from flare23_lib.io import atomic
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

SIZES = ["group", "labeled", "number", *SHAPE, *SPACING]
"""Columns of a table of sizes: category or "validation", number of cases of this size, voxels, mm."""

NOTES = """\
windows: over whole images, an upper bound where only windows over the body are computed; with TTA each is computed
once per mirrored pass. gpu_hours: of an A100 where assumed, with device auto or mps too. core_hours: with the cores
that a GPU job holds. disk_gb: 10^9 bytes, without the cohort."""


@dataclass(frozen=True)
class Stage:
    """A row of the estimate, before it is turned into costs."""

    name: str
    of: str  # the model or completion
    cases: pd.DataFrame  # their sizes (`SIZES`)
    amounts: Mapping[str, float]  # by name in the figures
    windows: int = 0
    held: float = 0.0  # cores that each GPU needs while it works

    def cost(self, figures: Figures) -> dict[str, object]:
        """Return the row: the amounts divided by throughputs, or multiplied by sizes on disk."""
        costs, speed = {DISK: 0.0, GPU: 0.0, CORE: 0.0}, ""
        for key, amount in self.amounts.items():
            resource, figure = figures[key]
            costs[resource] += amount * figure / 1e9 if resource == DISK else amount / figure / 3600
            if key not in FIGURES or key.startswith(("cpu", "gpu")):
                speed = f"{figure / 1e12:.3g} TMAC/s {'assumed' if key in FIGURES else 'measured'}"
        costs[CORE] += costs[GPU] * self.held
        cases = round(self.cases["number"].sum())
        return {"stage": self.name, "of": self.of, "cases": cases, "windows": self.windows, **costs, "speed": speed}


def sizes_of_cases(cases: Iterable[Case]) -> pd.DataFrame:
    """Return the sizes (`SIZES`) of cases.csv's cases, without those that are quarantined."""
    rows = [
        (case.category or case.split, bool(case.label), 1, *(case.shape or ()), *(case.spacing or ()))
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
        config: the configuration; ConfigError if it does not have the category of a case.
        sizes: `sizes_of_cases` or `flare23_sizes`.
        figures: `FIGURES`, or with those of `measured_figures`.

    Raises:
        CohortError: there is no usable case.

    Returns:
        A table with stage, of (model or completion), cases, windows, disk_gb, gpu_hours, core_hours, and speed: that
        of the stage's network, assumed or measured.
    """
    if sizes.empty:
        raise CohortError("there is no usable case to estimate the cost of; cohort/quarantine.csv has the reasons")
    names = [*(category.name for category in config.categories), VALIDATION]
    if unknown := set(sizes["group"]) - set(names):
        there = f"there are cases of {', '.join(sorted(unknown))}, but only {', '.join(names)}"
        raise ConfigError(f"categories: {there}; run the target `cohort` with this configuration")
    table = pd.DataFrame([stage.cost(figures) for stage in _stages(config, sizes, figures)])
    total = {"stage": "total", "of": "", "speed": "", **table[["windows", DISK, GPU, CORE]].sum()}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return table.astype({"cases": "Int64", "windows": "int64"})


def _stages(config: Config, sizes: pd.DataFrame, figures: Figures) -> Iterator[Stage]:
    """Yield the stages in the order of the workflow."""
    labeled, validation = sizes[sizes["labeled"]], sizes[sizes["group"] == VALIDATION]
    images = sizes if config.scan.check_images == "full" else sizes[:0]
    yield Stage("scan", "", sizes, {"scan_images": _voxels(images), "scan_labels": _voxels(labeled)})
    preprocessed: set[tuple] = set()
    segmented: set[tuple] = set()
    for table, name in config.order():
        if table == "completions":
            completion = config.completions[name]
            cases = sizes[sizes["group"] == completion.category]
            key = (completion.teacher, config.pseudo_label_settings(name))
            shared = key in segmented
            segmented.add(key)
            yield _segmentation("pseudo-labels", name, completion.teacher, cases, config, figures, shared)
            continue
        yield _preprocessing(config, name, sizes, preprocessed)
        yield _training(config, name, sizes, figures)
        if name in config.evaluated:
            yield _segmentation("predictions", name, name, validation, config, figures)
            scored = validation[validation["labeled"]]
            yield Stage("evaluation", name, scored, {"evaluate": _voxels(scored)})


def _sources(config: Config, model: str) -> dict[tuple[str, str], str]:
    """Return what a model learns from: kind and name of the labels -> category."""
    sources = config.models[model].train_on
    completed = {("completed", name): config.completions[name].category for name in sources.label_completions}
    return {("original", name): name for name in sources.manual_labels} | completed


def _preprocessing(config: Config, model: str, sizes: pd.DataFrame, preprocessed: set[tuple]) -> Stage:
    """Count an image once per spacing, orientation and intensity, labels once per spacing and orientation.

    What a model before it has preprocessed is in `preprocessed`, to which this model's images and labels are added.
    """
    settings, sources = config.preprocessing_settings(model), _sources(config, model)
    grid = (*settings.spacing, settings.orientation)
    factor = settings.label_factor or (1, 1, 1)
    label_spacing = np.divide(settings.spacing, factor)
    measured = settings.intensity == "measure"
    intensity = str(config.intensity_settings(model) if measured else settings.intensity)
    image_keys = {(*grid, intensity, category): category for category in sources.values()}
    label_keys = {(*grid, *factor, *source): category for source, category in sources.items()}
    images, labels = (
        sizes[sizes["group"].isin([category for key, category in keys.items() if key not in preprocessed])]
        for keys in (image_keys, label_keys)
    )
    preprocessed |= image_keys.keys() | label_keys.keys()
    amounts = {
        "preprocess_images_stored": _voxels(images),
        "preprocess_images_resampled": _voxels(images, settings.spacing),
        "preprocess_labels_stored": _voxels(labels),
        "preprocess_labels_resampled": _voxels(labels, label_spacing),
        "preprocessed_images": _voxels(images, settings.spacing),
        "preprocessed_labels": _voxels(labels, label_spacing),
        "locations": labels["number"].sum() * (len(settings.label_values) + 1),  # one more for all together
    }
    return Stage("preprocessing", model, sizes.loc[images.index.union(labels.index)], amounts)


def _training(config: Config, model: str, sizes: pd.DataFrame, figures: Figures) -> Stage:
    """Train a model; without a case there is nothing to count."""
    settings = config.training_settings(model)
    training = settings.training
    cases = sizes[sizes["group"].isin(_sources(config, model).values())]
    amounts: dict[str, float] = {}
    if not cases.empty:
        amounts = {
            network_figure(figures, config, "training", model): training.epochs * epoch_macs(settings),
            "weights": _parameters(settings) * NUMBERS_PER_WEIGHT[training.optimizer],
        }
    return Stage("training", model, cases, amounts, held=TRAINING_CORES / config.models[model].gpus)


def _segmentation(
    stage: str, name: str, model: str, cases: pd.DataFrame, config: Config, figures: Figures, shared: bool = False
) -> Stage:
    """Segment cases, unless an earlier stage did (`shared`); pseudo-labels are also merged with the originals, and
    written a second time."""
    settings, inference = config.training_settings(model), config.inference_settings(model)
    voxels, merged = _voxels(cases), stage == "pseudo-labels"
    windows = 0 if shared else window_count(cases, settings, inference)
    amounts = {
        network_figure(figures, config, "inference", model): windows * window_macs(settings, inference),
        "segment_files": voxels * (not shared),
        "complete": voxels * merged,
        "written_labels": voxels * (merged + (not shared)),
    }
    return Stage(stage, name, cases, amounts, windows, SEGMENTATION_CORES)


# Amounts


def _voxels(cases: pd.DataFrame, spacing: Sequence[float] | np.ndarray | None = None) -> float:
    """Return the voxels of all images, as stored or at a spacing (z, y, x) in mm."""
    shapes = cases[SHAPE].to_numpy() if spacing is None else _resampled(cases, spacing)
    return float(shapes.prod(axis=1) @ cases["number"])


def _resampled(cases: pd.DataFrame, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the shapes (n, 3) at a spacing (z, y, x) in mm, as `resampling.resampled_shape` rounds them."""
    return np.maximum(1, np.round(cases[SHAPE].to_numpy() * cases[SPACING].to_numpy() / spacing))


def window_count(cases: pd.DataFrame, settings: TrainingSettings, inference: InferenceSettings) -> int:
    """Return how many windows the engine lays over whole images: its grid over the resampled, padded images."""
    patch = np.array(settings.patch_size)
    rest = np.maximum(_resampled(cases, settings.spacing) - patch, 0)
    return round((np.ceil(rest / (patch * inference.tile_step_size)) + 1).prod(axis=1) @ cases["number"])


def window_macs(settings: TrainingSettings, inference: InferenceSettings) -> int:
    """Return the multiply-accumulates of a window, with TTA of all its mirrored passes."""
    return patch_macs(settings) * (2 ** len(settings.training.mirror_axes) if inference.tta else 1)


def epoch_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of an epoch, validation iterations included."""
    training = settings.training
    passes = TRAINING_PASSES * training.iterations_per_epoch + training.validation_iterations
    return passes * training.batch_size * patch_macs(settings)


def patch_macs(settings: TrainingSettings) -> int:
    """Return the multiply-accumulates of a forward pass over one patch."""
    return forward_macs(settings.network, settings.patch_size, len(settings.label_values) + 1)


def _parameters(settings: TrainingSettings) -> int:
    return parameters(settings.network, len(settings.label_values) + 1)


# How fast networks are


def network_figure(figures: Figures, config: Config, phase: str, model: str) -> str:
    """Return the name of the figure of a model's speed in "training" or "inference".

    It is the model's own if it was measured, else that of its device, precision and, on a GPU, size.
    """
    if (own := f"{phase} of {model}") in figures:
        return own
    on_cpu, table = config.device == "cpu", config.models[model]
    precision = (table.training if phase == "training" else table.inference).precision
    float32 = precision == "float32" or (on_cpu and precision in ("mixed", "auto"))
    if on_cpu:
        return f"cpu_{phase}_{'float32' if float32 else '16bit'}"
    small = _parameters(config.training_settings(model)) <= SMALL_PARAMETERS
    return "gpu_float32" if float32 else "gpu_16bit_small" if small else "gpu_16bit_large"


_speed_key = attrgetter("network", "patch_size", "label_values", "training.batch_size", "training.precision")
"""What of a model's settings shapes its speed."""


def measured_figures(root: Path, config: Config) -> Figures:
    """Return the figures, with the speeds of networks that an earlier run measured.

    A model counts if the earlier run trained one of its name with the same network, patch, batch and precision on the
    same kind of device. Training is measured by its median epoch, inference by the cases that were segmented with the
    configuration's inference settings. Models whose record has another form stay assumed. StoreError if the earlier
    run's results have no cohort/cases.csv.
    """
    results, figures = Results(root), dict(FIGURES)
    cases = [case for case in read_cases(results.cases) if case.usable]
    for model in filter(lambda model: results.model_file(model).exists(), config.models):
        record = atomic.read_json(results.training(model))
        settings, inference = config.training_settings(model), config.inference_settings(model)
        try:
            on_cpu, then = record["device"].startswith("cpu"), TrainingSettings.from_json(record["settings"])
            epoch_seconds, threads, gpus = (record[key] for key in ("epoch_seconds", "threads", "gpus"))
        except (AttributeError, ConfigError, KeyError, TypeError, ValueError):  # another version's
            continue
        if on_cpu != (config.device == "cpu") or _speed_key(then) != _speed_key(settings):
            continue
        resource, workers = (CORE, threads) if on_cpu else (GPU, gpus)
        speed = epoch_macs(then) / (epoch_seconds * workers)
        figures[f"training of {model}"] = resource, speed
        folder = segmentation_folder(results, model_digest(atomic.read_json(results.model_file(model))), inference)
        if notes := _segmented(folder, cases):
            windows = window_count(sizes_of_cases([case for case, _ in notes]), settings, inference)
            seconds = sum(sum(note["results"]["timings"].values()) for _, note in notes)
            workers = min(SEGMENTATION_CORES, threads) if on_cpu else 1
            speed = windows * window_macs(settings, inference) / seconds / workers
            figures[f"inference of {model}"] = resource, speed
    return figures


def _segmented(folder: CacheFolder, cases: Iterable[Case]) -> list[tuple[Case, Metadata]]:
    """Return cases with the metadata of their segmentations, several if they were made with different extras."""
    known = {case.case: case for case in cases}
    found = []
    for path in sorted(folder.path.glob("*.json")):
        case = known.get(path.stem.rpartition(".")[0])
        metadata = Entry(folder, path.stem).load() if case else None
        if case and metadata and metadata["inputs"].get("image") == case.image_id:
            found.append((case, metadata))
    return found


def format_estimate(table: pd.DataFrame) -> str:
    """Return the table as text, with notes below."""
    table = table.assign(cases=table["cases"].astype("string").fillna(""), windows=table["windows"].replace(0, ""))
    text = table.set_index(["stage", "of"]).to_string(sparsify=False, float_format="{:.2f}".format)
    return "\n".join([*map(str.rstrip, text.splitlines()), "", NOTES])
