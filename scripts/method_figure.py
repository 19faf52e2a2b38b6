"""Draw the method as it was configured: who learns from what, who completes what, with the numbers of cases.

Reads `input.categories` (categories.csv) and the tables in `input.settings`; writes `output.figure` (SVG).
"""

from pathlib import Path

from flare23_lib.report.method import draw_method
from flare23_lib.store import read_csv, read_kept

counts = {
    row["category"]: int(row["cases"]) - int(row["quarantined"])
    for row in read_csv(snakemake.input.categories)  # noqa: F821 (Snakemake's)
    if row["split"] == "training" and row["labels_present"] == "all"
}
draw_method(
    Path(snakemake.output.figure),  # noqa: F821
    **read_kept(snakemake.input.settings),  # noqa: F821
    counts=counts,
)
