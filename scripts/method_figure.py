"""Draw the configured method: who learns from what, who completes what, with the numbers of cases.

Reads `input.categories` (categories.csv) and the tables in `params.settings`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.cli import run_script
from flare23_lib.config.settings import MethodSettings
from flare23_lib.evaluation.tables import read_table
from flare23_lib.report.method import draw_method, method_graph


def draw():
    """Count the cases of each category and draw the figure."""
    table = read_table(snakemake.input.categories, as_text=True)
    table = table[(table["split"] == "training") & (table["labels_present"] == "all")]
    cases = dict(zip(table["category"], table["cases"].astype(int) - table["quarantined"].astype(int), strict=True))
    settings = MethodSettings.from_json(snakemake.params.settings)
    draw_method(Path(snakemake.output.figure), method_graph(settings, cases))


run_script(draw, snakemake.log[0])
