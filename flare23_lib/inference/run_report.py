"""What a run of `flare23 predict` was: versions, device, model, and of each case its seconds and warnings."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch

from flare23_lib import __version__
from flare23_lib.io.atomic import write_json

if TYPE_CHECKING:
    from flare23_lib.inference.engine import Engine


@dataclass(frozen=True)
class CaseReport:
    """What became of a case.

    Attributes:
        case: its name.
        image: its file or series.
        labels: the label file.
        seconds: by phase (`timing.PHASES`); empty if the labels were there already.
        warnings: what makes the image no sound CT, or unlike those the model learned from.
        error: why it failed; None if it did not.
    """

    case: str
    image: str
    labels: str
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None


def write_run_report(path: Path, engine: Engine, options: dict[str, Any], cases: Sequence[CaseReport]) -> None:
    """Write the report of a run as JSON.

    Args:
        path: of the file.
        engine: that segmented the cases.
        options: of the command.
        cases: in the order in which they were finished.
    """
    weights = engine.model.weights
    write_json(
        path,
        {
            "versions": {
                "flare23": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "nibabel": nib.__version__,
            },
            "device": _device_name(engine.device),
            "precision": engine.precision,
            "step": engine.model.inference.step,
            "windows": engine.model.inference.windows,
            "tta": len(engine.flips) > 1,
            "model": {"name": engine.model.name, "weights_sha256": weights.sha256 if weights else None},
            "options": options,
            "cases": [asdict(case) for case in cases],
        },
    )


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
