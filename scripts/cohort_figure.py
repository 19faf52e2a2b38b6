"""Draw the categories of the cohort: how many cases each has and which labels are present in them.

Reads `input.categories` (categories.csv) and the label map in `params.labels`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.cli import run_script
from flare23_lib.evaluation.tables import read_table
from flare23_lib.report.cohort import draw_cohort


def draw():
    """Read the table and draw the figure."""
    draw_cohort(
        Path(snakemake.output.figure),
        read_table(snakemake.input.categories, as_text=True),
        snakemake.params.labels,
    )


run_script(draw, snakemake.log[0])
