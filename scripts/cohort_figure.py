"""Draw the categories of the cohort: how many cases each has and which labels are present in them.

Reads `input.categories` (categories.csv) and the label map in `input.settings`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.report.cohort import draw_cohort
from flare23_lib.store import read_csv, read_kept

labels = read_kept(snakemake.input.settings)["labels"]  # noqa: F821 (Snakemake's)
draw_cohort(Path(snakemake.output.figure), read_csv(snakemake.input.categories), labels)  # noqa: F821
