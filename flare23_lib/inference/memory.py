"""How a case is computed within limits of memory.

Every buffer whose size depends on the image or the patch is counted before it is made. What can be smaller is made
as large as fits: windows at a time, slices resampled at a time, and, if the sums of a whole plane do not fit, tiles
of the plane, whose common windows are then computed for each (slower, the same labels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from flare23_lib.axes import Triple
from flare23_lib.errors import ConfigError, ImageError
from flare23_lib.inference.image_files import HOST_BASE, MB, NO_EXTRAS, Extras
from flare23_lib.inference.model import Model
from flare23_lib.networks.size import parameters
from flare23_lib.preprocessing.resampling import SLAB_BYTES
from flare23_lib.runtime.machine import usable_memory

GPU_BASE = 700 * MB
"""A CUDA context with its libraries, as the driver counts it."""

COMPILER = 300 * MB
"""What torch.compile keeps in the process: 100 MB were measured, on a CPU."""

LABEL_BYTES = 150 * MB
"""What making a slab of labels takes (`upsampling.CHUNK_VOXELS` voxels at a time, 8 corners each)."""

BATCHES = (8, 4, 2, 1)


@dataclass(frozen=True)
class Limits:
    """Limits of memory in MB (10^6 bytes); None for what the machine has.

    Attributes:
        gpu: of the GPU, as its driver counts.
        host: of the process on the host, of which a case may take what PyTorch and the weights leave; what else a
            program holds, as a notebook does, is not counted.
        whole_process: PyTorch refuses any memory of the process beyond the GPU's limit, that of other networks too.
    """

    gpu: int | None = None
    host: int | None = None
    whole_process: bool = False

    def __post_init__(self) -> None:
        for name, value in (("gpu-memory", self.gpu), ("memory", self.host)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} MB is not a limit")

    def gpu_bytes(self, device: torch.device) -> int:
        """Return the limit on a GPU; without one, nine tenths of what is free on it or PyTorch's, and the context."""
        if self.gpu is not None:
            return self.gpu * MB
        kept = torch.cuda.memory_reserved(device)  # by PyTorch, of earlier cases and the weights
        return int(0.9 * (torch.cuda.mem_get_info(device)[0] + kept)) + GPU_BASE

    def enforce(self, device: torch.device, weights: int) -> None:
        """Check that weights fit the GPU's limit and, for the whole process, make PyTorch refuse memory beyond it.

        What PyTorch counts is less than the driver does.

        Raises:
            ConfigError: not even the network's weights, given in bytes, fit.
        """
        if device.type != "cuda" or self.gpu is None:
            return
        if self.gpu * MB < GPU_BASE + weights:
            least = math.ceil((GPU_BASE + weights) / MB)
            raise ConfigError(f"gpu-memory {self.gpu} MB: CUDA and the weights alone take {least}")
        if not self.whole_process:
            return
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, (self.gpu * MB - GPU_BASE) / total)
        torch.cuda.set_per_process_memory_fraction(share, None if device.index is None else device)

    def host_bytes(self) -> int:
        """Return the limit on the host; without one, what is usable there."""
        return usable_memory() if self.host is None else self.host * MB


@dataclass(frozen=True)
class CaseSize:
    """What the memory for one case follows from.

    Attributes:
        image: bytes of the image as it was read.
        voxels: of the image, and so bytes of its labels.
        shape: (z, y, x) of the resampled and padded image.
        unpadded: voxels of the resampled image if it was padded, and is kept in addition to the padded one; else 0.
        passes: mirrored passes.
        extras: what is made in addition to labels; votes and soft labels are kept at the model's resolution, too.
        compiled: the network was compiled, for one window at a time.
    """

    image: int
    voxels: int
    shape: Triple
    passes: int
    unpadded: int = 0
    extras: Extras = NO_EXTRAS
    compiled: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """How one case is computed.

    Attributes:
        batch: windows at a time.
        tiles: parts that the plane is cut into along y.
        sums_on_device: the sums are kept on the device, not on the host.
        image_on_device: so is the resampled image.
        slab_bytes: for resampling.
        host: peak bytes on the host, the process included.
        gpu: bytes on the GPU; 0 if there is none.
    """

    batch: int
    tiles: int
    sums_on_device: bool
    image_on_device: bool
    slab_bytes: int
    host: int = 0
    gpu: int = 0

    def __str__(self) -> str:
        text = f"{self.batch} windows at a time, {self.tiles} tiles, host {self.host / MB:.0f} MB"
        if self.gpu:
            places = ["GPU" if there else "host" for there in (self.sums_on_device, self.image_on_device)]
            text += f", GPU {self.gpu / MB:.0f} MB (sums on the {places[0]}, image on the {places[1]})"
        return text


def plan(model: Model, precision: str, device: torch.device, task: CaseSize, limits: Limits) -> MemoryPlan:
    """Return the fastest plan that stays within the limits.

    Raises:
        ImageError: no plan does; the message states how much is needed.
    """
    gpu_limit = limits.gpu_bytes(device) if device.type == "cuda" else 0
    host_limit = limits.host_bytes()
    candidates = _candidates(model, precision, device, task)
    for candidate in candidates:
        if candidate.gpu <= gpu_limit and candidate.host <= host_limit:
            return candidate
    least = min(candidates, key=lambda candidate: (candidate.host, candidate.gpu))
    if least.host > host_limit:
        where = "--memory" if limits.host is not None else "nine tenths of what machine, job or container has"
        raise ImageError(f"needs {least.host / MB:.0f} MB of memory, the limit is {host_limit / MB:.0f} ({where})")
    where = "--gpu-memory" if limits.gpu is not None else "nine tenths of what is free on it"
    raise ImageError(f"needs {least.gpu / MB:.0f} MB on the GPU, the limit is {gpu_limit / MB:.0f} ({where})")


def _candidates(model: Model, precision: str, device: torch.device, task: CaseSize) -> list[MemoryPlan]:
    """List plans from fast to slow."""
    on_gpu = device.type == "cuda"
    places = [(True, True), (True, False), (False, False)] if on_gpu else [(device.type == "cpu",) * 2]
    most = math.ceil(task.shape[1] / 16)
    tiles = sorted({min(most, 2**power) for power in range(8)})
    return [
        _with_cost(MemoryPlan(batch, count, sums, image, slab), model, precision, on_gpu, task)
        for slab in (SLAB_BYTES, SLAB_BYTES // 8)
        for count in tiles
        for sums, image in places
        for batch in (BATCHES if on_gpu and not task.compiled else (1,))
    ]


def _with_cost(plan: MemoryPlan, model: Model, precision: str, on_gpu: bool, task: CaseSize) -> MemoryPlan:
    """Return a plan with the bytes that it takes."""
    resampled = 4 * (math.prod(task.shape) + task.unpadded)
    sums = sums_bytes(model.patch_size, task.shape, plan.tiles, len(model.labels), task.passes) + LABEL_BYTES
    network = _network_bytes(model, precision, plan.batch, task.passes)
    parts = [(network, True), (resampled, plan.image_on_device), (sums, plan.sums_on_device)]
    gpu = sum(size for size, on_device in parts if on_gpu and on_device)
    working = sum(size for size, _ in parts) - gpu
    if on_gpu:
        gpu += GPU_BASE + plan.slab_bytes
    # The image is held while it is resampled, its labels afterwards; the last one is copied to be written.
    extras = task.extras
    labels = extras.voxel_bytes * task.voxels + (extras.votes + 4 * extras.soft) * math.prod(task.shape)
    writing = extras.writing_bytes * task.voxels
    host = HOST_BASE + weight_bytes(model, 4) + (COMPILER if task.compiled else 0)
    host += max(task.image + plan.slab_bytes + resampled, labels + working, labels + writing)
    return replace(plan, host=host, gpu=gpu)


def sums_bytes(patch: Sequence[int], shape: Sequence[int], tiles: int, classes: int, passes: int) -> int:
    """Return what `LogitAccumulator` takes for a tile of the plane, with the copy it makes when it moves on."""
    rows = min(shape[1], math.ceil(shape[1] / tiles) + 2)
    voxels = (patch[0] + 2) * rows * shape[2]
    kept = voxels * (4 + 4 * classes + (2 * classes * passes if passes > 1 else 0))
    return kept + voxels * 4 * classes


def weight_bytes(model: Model, bytes_each: int) -> int:
    """Return the size of the weights."""
    return bytes_each * parameters(model.network, len(model.labels))


def _network_bytes(model: Model, precision: str, batch: int, passes: int) -> int:
    """Return what the network takes in addition to the loaded weights: its own weights, activations, logits."""
    bytes_each = 4 if precision == "float32" else 2
    voxels = batch * math.prod(model.patch_size)
    activations = voxels * model.network.activations * bytes_each
    logits = voxels * len(model.labels) * (bytes_each * (passes + 1) + 8)
    return int(weight_bytes(model, bytes_each) + activations + logits)
