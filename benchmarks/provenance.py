"""What a kept benchmark result says beside its figures: when, on what, with which versions."""

from __future__ import annotations

import datetime
import platform
from typing import Any

import numpy as np
import torch

from flare23_lib import __version__
from flare23_lib.evaluation.profiling import find_gpu
from flare23_lib.runtime.machine import available_cores, processor_name


def provenance() -> dict[str, Any]:
    """Return date, machine and versions as plain data; nothing of it takes memory on a GPU."""
    gpu = find_gpu()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor_name(),
            "cores": available_cores(),
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
