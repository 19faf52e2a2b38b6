"""The benchmarks take hours and are run by hand; here only that what they import is still there."""

import subprocess
import sys

import pytest
from places import REPOSITORY


@pytest.mark.slow  # imports everything
def test_every_benchmark_finds_what_it_imports():
    folder = REPOSITORY / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py"))
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(names) > 20
