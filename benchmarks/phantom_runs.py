"""What the benchmarks that run the whole workflow on phantoms have in common."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provenance import provenance
from scipy import stats

from flare23_lib.io.atomic import write_json
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
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": round(mean, 4), "interval": None, "seeds": len(values)}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)], "seeds": len(values)}


def ratio_of_means(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of the means of two figures over the same seeds, and its 95 % interval by Fieller (1954).

    The interval holds the ratios r for which the mean of `above - r * below` does not differ from 0 by Student's t.
    It is None where these are no interval: with one seed, or where the mean of `below` does not differ from 0 itself.
    """
    numerator, denominator = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    mean, other, seeds = float(numerator.mean()), float(denominator.mean()), len(numerator)
    ratio: dict[str, Any] = {"mean": round(mean / other, 4), "interval": None, "seeds": seeds}
    if seeds < 2:
        return ratio
    (of_mean, shared), (_, of_other) = np.cov(numerator, denominator) * stats.t.ppf(0.975, seeds - 1) ** 2 / seeds
    leading, linear, constant = other**2 - of_other, mean * other - shared, mean**2 - of_mean
    if leading > 0:
        half = max(0.0, linear**2 - leading * constant) ** 0.5
        ratio["interval"] = [round(float((linear + sign * half) / leading), 4) for sign in (-1, 1)]
    return ratio


def run_seeds(
    description: str | None,
    seeds: Sequence[int],
    run_seed: Callable[[Path, int], dict],
    summarize: Callable[[dict[int, dict]], dict],
    format_table: Callable[[dict], str],
) -> None:
    """Run a benchmark's seeds as its command line asks for, and print and keep the summary after each.

    Args:
        description: of the command.
        seeds: that are run by default.
        run_seed: makes the result of a seed in a folder.
        summarize: of the results by seed.
        format_table: of the summary, for the terminal.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where cohorts and runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs = {}
    for seed in args.seeds:
        runs[seed] = run_seed(args.folder / f"seed{seed}", seed)
        summary = summarize(runs)
        print(format_table(summary), flush=True)
        if args.output:
            write_json(args.output, {**provenance(), "summary": summary, "seeds": runs})
