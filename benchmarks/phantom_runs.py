"""What the benchmarks that run the whole workflow on phantoms have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from flare23_lib.io.tables import read_csv

REPOSITORY = Path(__file__).resolve().parent.parent


def run_workflow(
    folder: Path,
    configfiles: Sequence[Path],
    overrides: Mapping[str, Any],
    targets: Sequence[str],
    cores: int | None = None,
) -> None:
    """Run the workflow in a folder until some targets are there; what it says goes to `snakemake.log`.

    Args:
        folder: where it runs.
        configfiles: what differs from `config.yaml`.
        overrides: what differs from those.
        targets: rules or files.
        cores: how many to use; None for all.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "overrides.yaml"
    last.write_text(yaml.safe_dump(dict(overrides)), encoding="utf-8")
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder),
        "--cores", str(cores or len(os.sched_getaffinity(0))),
        "--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--quiet", "rules",
        "--configfile", *map(str, [*configfiles, last]), "--", *targets,
    ]  # fmt: skip
    log = folder / "snakemake.log"
    with log.open("w") as handle:
        done = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{log}:\n{log.read_text(encoding='utf-8')[-3000:]}")


def scores(results: Path, model: str) -> dict[str, float]:
    """Return the mean DSC of an evaluated model: `organs`, `tumor` and each class."""
    rows = read_csv(results / "evaluation" / model / "summary.csv")
    return {row["class"]: float(row["DSC_mean"]) for row in rows if row["DSC_mean"]}


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of a figure over seeds and its 95 % interval by Student's t."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": round(mean, 4), "interval": None, "seeds": len(values)}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)], "seeds": len(values)}
