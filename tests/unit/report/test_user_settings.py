"""Figures are drawn with matplotlib's own settings, whatever a user's matplotlibrc or notebook asks for."""

import os
import subprocess
import sys

import pytest
from places import REPOSITORY

DRAW = """
import sys
from pathlib import Path
from flare23_lib.report.style import new_figure
with new_figure(Path(sys.argv[1]), 6.4, 4.8) as figure:
    figure.subplots().set_title("a_b")
"""


def drawn(folder, name, settings, **environment):
    """Draw in a process whose matplotlibrc has some settings; returns the bytes of the SVG."""
    (folder / name).mkdir()
    (folder / name / "matplotlibrc").write_text(settings)
    variables = {**os.environ, "MPLCONFIGDIR": str(folder / name), "PYTHONPATH": str(REPOSITORY), **environment}
    command = [sys.executable, "-W", "ignore", "-c", DRAW, str(folder / f"{name}.svg")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / f"{name}.svg").read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        "font.size: 40\naxes.facecolor: black\nsvg.fonttype: path\n"
        "figure.figsize: 1, 1\nsavefig.dpi: 9\nsavefig.bbox: tight\nsavefig.transparent: True",
        pytest.param("text.usetex: True", marks=pytest.mark.slow),
        pytest.param("backend: TkAgg", marks=pytest.mark.slow),
    ],
)
def test_a_users_matplotlibrc_changes_no_figure(tmp_path, settings):
    assert drawn(tmp_path, "own", settings) == drawn(tmp_path, "plain", "")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "nonsense"])
def test_commands_and_jobs_draw_without_a_notebooks_backend(backend):
    code = (
        "import os, sys; from flare23_lib.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "import matplotlib; print(matplotlib.get_backend())"
    )
    variables = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "agg"
    # The Snakefile does the same for scripts.
    assert 'environ["MPLBACKEND"] = "agg"' in (REPOSITORY / "rules" / "common.smk").read_text()
