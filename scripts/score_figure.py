"""Draw the evaluated models' DSC and NSD by class.

Reads `input.summaries` (summary.csv of each model) and the models' names in `input.settings`; writes `output.figure`
(SVG).
"""

from pathlib import Path

from flare23_lib.report.scores import draw_scores
from flare23_lib.store import read_csv, read_kept

models = read_kept(snakemake.input.settings)["models"]  # noqa: F821 (Snakemake's)
summaries = dict(zip(models, map(read_csv, snakemake.input.summaries), strict=True))  # noqa: F821
draw_scores(Path(snakemake.output.figure), summaries)  # noqa: F821
