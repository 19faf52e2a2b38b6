"""What a kept benchmark result says beside its figures: when, on what, with which versions."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare23_lib import __version__
from flare23_lib.evaluation.profiling import find_gpu


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def provenance() -> dict[str, Any]:
    """Return date, machine and versions as plain data; nothing of it takes memory on a GPU."""
    gpu = find_gpu()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "gpu": torch.cuda.is_available(),
            **({"gpu_name": gpu.name} if gpu else {}),
        },
        "versions": {
            "flare23_lib": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            **({"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if gpu else {}),
        },
    }
