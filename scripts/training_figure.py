"""Draw the course of a training.

Reads `input.history` (training.csv of the model `wildcards.model`); writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.cli import run_script
from flare23_lib.evaluation.tables import read_table
from flare23_lib.report.training import draw_training


def draw():
    """Read the table and draw the figure."""
    rows = read_table(snakemake.input.history, as_text=True)
    draw_training(Path(snakemake.output.figure), snakemake.wildcards.model, rows)


run_script(draw, snakemake.log[0])
