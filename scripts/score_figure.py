"""Draw the evaluated models' DSC and NSD by class.

Reads `input.summaries` and `input.metrics` (summary.csv and metrics.csv of each model) and the models' names in
`params.models`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.cli import run_script
from flare23_lib.evaluation.tables import read_table
from flare23_lib.report.scores import draw_scores


def draw():
    """Read the tables and draw the figure."""
    summaries, metrics = (
        dict(zip(snakemake.params.models, [read_table(file, as_text=True) for file in files], strict=True))
        for files in (snakemake.input.summaries, snakemake.input.metrics)
    )
    draw_scores(Path(snakemake.output.figure), summaries, metrics)


run_script(draw, snakemake.log[0])
