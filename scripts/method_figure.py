"""Draw the configured method: who learns from what, who completes what, with the numbers of cases.

Reads `input.categories` (categories.csv) and the tables in `params.settings`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.config.settings import MethodSettings
from flare23_lib.io.tables import read_csv
from flare23_lib.report.method import draw_method, method_graph

cases = {
    row["category"]: int(row["cases"]) - int(row["quarantined"])
    for row in read_csv(snakemake.input.categories)  # noqa: F821 (Snakemake's)
    if row["split"] == "training" and row["labels_present"] == "all"
}
settings = MethodSettings.from_json(snakemake.params.settings)  # noqa: F821
graph = method_graph(settings, cases)
draw_method(Path(snakemake.output.figure), graph)  # noqa: F821
