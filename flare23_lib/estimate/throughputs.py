"""What a GPU, a core and a byte do: the figures that an estimate rests on, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flare23_lib.config import Config
from flare23_lib.config.settings import TrainingSettings
from flare23_lib.networks import Architecture
from flare23_lib.networks.size import parameters

GPU, CORE, DISK = "gpu", "core", "disk"
"""What a figure says the use of: seconds of a GPU, seconds of a core, or bytes."""

SMALL_PARAMETERS = 60_000_000
"""Networks with at most as many parameters work as fast as STU-Net-B (58 million), larger ones as STU-Net-L."""


@dataclass(frozen=True)
class Figure:
    """A throughput or a size.

    Attributes:
        name: as `FIGURES` and the parts of a stage refer to it.
        value: in its unit.
        unit: "TMAC/s", "Mvoxel/s" (of a GPU, or of one core), or "byte/voxel", "byte/label", "byte/number".
        resource: "gpu", "core" or "disk".
        source: where it comes from, in words.
        measured: whether an earlier run gave it; otherwise it is assumed.
    """

    name: str
    value: float
    unit: str
    resource: str
    source: str
    measured: bool = False

    def use(self, amount: float) -> float:
        """Return the seconds or bytes for an amount: multiply-accumulates, voxels, labels or numbers."""
        return amount * self.value if self.resource == DISK else amount / (self.value * _SCALES[self.unit])

    def replaced(self, value: float, source: str) -> Figure:
        """Return the figure with a measured value."""
        return replace(self, value=value, source=source, measured=True)


Figures = Mapping[str, Figure]

_SCALES = {"TMAC/s": 1e12, "Mvoxel/s": 1e6}
_BENCHMARK = "benchmarks/results/throughput.json"
_CT = f"{_BENCHMARK}: one synthetic CT of 512x512x100"
_REAL = f"{_BENCHMARK}: seven small real CTs"
_CPU = f"{_BENCHMARK}: STU-Net-S, patch 48x96x96, on a core with AVX-512"
_B = "authors' log: 26.9 s for 250 + 50 iterations of STU-Net-B, batch 2, on an A100"
_L = "paper: 48 h for 2,000 epochs of STU-Net-L (250 + 50 iterations, batch 2) on an A100 80G"
_SAME = "taken to be as in training"
_FP32 = "half of an A100's 9.75 TMAC/s without TF32 (data sheet: 19.5 TFLOP/s), whatever the network"

_TABLE = (
    ("gpu_training_16bit_small", 20.7, "TMAC/s", GPU, _B),
    ("gpu_training_16bit_large", 88.3, "TMAC/s", GPU, _L),
    ("gpu_training_float32_small", 4.9, "TMAC/s", GPU, _FP32),
    ("gpu_training_float32_large", 4.9, "TMAC/s", GPU, _FP32),
    ("gpu_inference_16bit_small", 20.7, "TMAC/s", GPU, f"{_B}; {_SAME}"),
    ("gpu_inference_16bit_large", 88.3, "TMAC/s", GPU, f"{_L}; {_SAME}"),
    ("gpu_inference_float32_small", 4.9, "TMAC/s", GPU, _FP32),
    ("gpu_inference_float32_large", 4.9, "TMAC/s", GPU, _FP32),
    ("cpu_training_float32", 0.0257, "TMAC/s", CORE, _CPU),
    ("cpu_training_16bit", 0.0529, "TMAC/s", CORE, _CPU),
    ("cpu_inference_float32", 0.0262, "TMAC/s", CORE, _CPU),
    ("cpu_inference_16bit", 0.0531, "TMAC/s", CORE, _CPU),
    ("scan_images", 216.0, "Mvoxel/s", CORE, _CT),
    ("scan_labels", 1150.0, "Mvoxel/s", CORE, _CT),
    ("preprocess_images_stored", 114.0, "Mvoxel/s", CORE, _CT),
    ("preprocess_images_resampled", 17.1, "Mvoxel/s", CORE, _CT),
    ("preprocess_labels_stored", 45.7, "Mvoxel/s", CORE, f"{_CT}, all 14 labels"),
    ("preprocess_labels_resampled", 20.3, "Mvoxel/s", CORE, f"{_CT}, all 14 labels"),
    ("segment_files", 175.0, "Mvoxel/s", CORE, f"{_CT}, read and its labels written"),
    ("complete", 102.0, "Mvoxel/s", CORE, f"{_CT}: two label maps read, merged, written"),
    ("evaluate", 123.0, "Mvoxel/s", CORE, f"{_CT}: two label maps read and compared"),
    ("preprocessed_images", 2.5, "byte/voxel", DISK, f"{_REAL} (2.4 to 2.5)"),
    ("preprocessed_labels", 0.02, "byte/voxel", DISK, _REAL),
    ("locations", 160_000, "byte/label", DISK, "16 bytes for each of 10,000 voxels, from which patches are drawn"),
    ("written_labels", 0.009, "byte/voxel", DISK, f"{_REAL} (.nii.gz)"),
    ("weights", 4.0, "byte/number", DISK, "float32; final checkpoint with optimizer, weights in the store, bundle"),
)  # fmt: skip

FIGURES: Figures = {row[0]: Figure(*row) for row in _TABLE}
"""What is assumed where no earlier run says better."""


def own_figure(phase: str, model: str) -> str:
    """Return the name of a figure that was measured on a model itself; `phase` is "training" or "inference"."""
    return f"{phase} of {model}"


def compute_figure(figures: Figures, config: Config, phase: str, model: str) -> str:
    """Return the name of the figure that says how fast a model works: its own if there is one, else that of its kind.

    The kind is the device (`device: cpu`, otherwise a GPU), the precision and, on a GPU, the size of the network.
    "mixed" is float32 on a processor and 16 bit on a GPU.
    """
    if (own := own_figure(phase, model)) in figures:
        return own
    on_cpu = config.device == "cpu"
    table = config.model(model)
    precision = (table.training if phase == "training" else table.inference).precision
    bits = "float32" if precision == "float32" or (precision == "mixed" and on_cpu) else "16bit"
    if on_cpu:
        return f"cpu_{phase}_{bits}"
    network, classes = network_of(config.training_settings(model))
    size = "small" if parameters(network, classes) <= SMALL_PARAMETERS else "large"
    return f"gpu_{phase}_{bits}_{size}"


def network_of(settings: TrainingSettings) -> tuple[Architecture, int]:
    """Return the network that is trained and its classes, background included."""
    return settings.network, len(settings.label_values) + 1
