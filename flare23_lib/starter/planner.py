"""Patch, spacing and strides from nnU-Net's planner, for a GPU of a stated size."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np

from flare23_lib.axes import Spacing, Triple, as_triple

NAME = "Dataset001_init"

WIDTHS = (32, 64, 128, 256, 512)
"""Channels of STU-Net's base network, stage by stage; further ones have as many as the last."""


@dataclass(frozen=True)
class NetworkPlan:
    """What a model needs of a plan: patch size and strides in voxels, spacing in mm, each (z, y, x); and the memory
    in GB of the GPU that it is made for."""

    patch_size: Triple
    spacing: Spacing
    strides: tuple[Triple, ...]
    batch_size: int
    gpu_gb: float

    @property
    def network(self) -> dict[str, list[int]] | str:
        """STU-Net's base network, of as many stages as the plan has."""
        count = len(self.strides)
        widths = [WIDTHS[min(stage, len(WIDTHS) - 1)] for stage in range(count)]
        return "stunet_base" if count == 6 else {"depth": [1] * count, "widths": widths}


def plan_network(shapes: Sequence[Triple], spacings: Sequence[Spacing], labels: int, gpu_gb: float) -> NetworkPlan:
    """Ask nnU-Net's planner; it plans its own U-Net, whose size STU-Net's base network is close to.

    Shapes in voxels and spacings in mm are those of the images, (z, y, x), as the network sees their axes.
    """
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planning
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"label_{index}": index for index in range(1, labels + 1)}},
        "numTraining": len(shapes),
        "file_ending": ".nii.gz",
        "dataset": {},
    }
    fingerprint = {
        "spacings": [list(map(float, spacing)) for spacing in spacings],
        "shapes_after_crop": [list(map(int, shape)) for shape in shapes],
        "median_relative_size_after_cropping": 1.0,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("dataset.json", dataset), ("dataset_fingerprint.json", fingerprint)):
            path = Path(folder) / NAME / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        places = [patch.object(planning, name, folder) for name in ("nnUNet_raw", "nnUNet_preprocessed")]
        with places[0], places[1], redirect_stdout(StringIO()):
            planner = planning.ExperimentPlanner(NAME, gpu_memory_target_in_gb=gpu_gb, suppress_transpose=True)
            spacing = planner.determine_fullres_target_spacing()
            resampled = [compute_new_shape(shape, old, spacing) for shape, old in zip(shapes, spacings, strict=True)]
            median = np.median(np.vstack(resampled), 0)
            voxels = float(np.prod(median)) * len(shapes)
            plan = planner.get_plans_for_configuration(spacing, median, "3d_fullres", voxels, {})
    return NetworkPlan(
        patch_size=as_triple(map(int, plan["patch_size"])),
        spacing=as_triple(round(float(size), 4) for size in spacing),
        strides=tuple(as_triple(map(int, stride)) for stride in plan["architecture"]["arch_kwargs"]["strides"]),
        batch_size=int(plan["batch_size"]),
        gpu_gb=gpu_gb,
    )
