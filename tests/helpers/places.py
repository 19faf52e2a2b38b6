"""Folders that tests look into, and scripts in them."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
"""Real data beside the repository, where there is any."""

RECIPE = REPOSITORY / "config.yaml"
BASE_CONFIG = ["--base-config", str(RECIPE)]


def script(name: str) -> ModuleType:
    """Import a file of `scripts`."""
    specification = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def rules() -> dict[str, str]:
    """The text of each rule of the workflow, without its first line."""
    texts = [path.read_text() for path in (REPOSITORY / "rules").glob("*.smk")]
    parts = [rule for text in texts for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]]
    return dict(rule.split(":", 1) for rule in parts)


def benchmark(name: str) -> ModuleType:
    """A module of the benchmarks, which import each other from their own folder."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
