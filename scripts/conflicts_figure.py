"""Draw a completion's conflicts: the classes of the original labels against those that the teacher predicted.

Reads `input.confusion` (confusion.csv) and the labels' names in `params.label_names`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.cli import run_script
from flare23_lib.evaluation.tables import read_table
from flare23_lib.report.conflicts import draw_conflicts


def draw():
    """Read the table and draw the figure."""
    draw_conflicts(
        Path(snakemake.output.figure),
        f"completion {snakemake.wildcards.completion}",
        read_table(snakemake.input.confusion, as_text=True),
        snakemake.params.label_names,
    )


run_script(draw, snakemake.log[0])
