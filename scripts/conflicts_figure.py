"""Draw a completion's conflicts: the classes of the original labels against those that the teacher predicted.

Reads `input.confusion` (confusion.csv) and the labels' names in `params.label_names`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.report.conflicts import draw_conflicts
from flare23_lib.report.run import read_table

draw_conflicts(
    Path(snakemake.output.figure),  # noqa: F821 (Snakemake's)
    f"completion {snakemake.wildcards.completion}",  # noqa: F821
    read_table(snakemake.input.confusion),  # noqa: F821
    snakemake.params.label_names,  # noqa: F821
)
