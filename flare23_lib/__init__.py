"""CT segmentation from partial labels: the library under the FLARE23 workflow.

Arrays are in (z, y, x) order everywhere, spacings too, in millimeters.
"""

import importlib
import time
from typing import Any

__version__ = "0.2.0"

IMPORTED = time.perf_counter()
"""When this process imported the library, by `time.perf_counter`."""


__all__ = ["Predictor"]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Import `Predictor`, and torch with it, when it is first asked for."""
    if name == "Predictor":
        return importlib.import_module("flare23_lib.inference.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
