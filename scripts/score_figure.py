"""Draw the evaluated models' DSC and NSD by class.

Reads `input.summaries` (summary.csv of each model) and the models' names in `params.models`; writes `output.figure`
(SVG).
"""

from pathlib import Path

from flare23_lib.io.tables import read_csv
from flare23_lib.report.scores import draw_scores

summaries = dict(zip(snakemake.params.models, map(read_csv, snakemake.input.summaries), strict=True))  # noqa: F821
draw_scores(Path(snakemake.output.figure), summaries)  # noqa: F821
