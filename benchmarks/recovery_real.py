"""What partial labels cost on real CTs, and what the loss of label sets gives back.

    nice -n 19 python benchmarks/recovery_real.py --data OPENKBP --folder FOLDER [--seeds 11] [--full 8]

OPENKBP is a folder of head-and-neck planning CTs with seven organs: `train` and `validation`, each with `images` and
`labels`, and `cases.csv`, which lists the organs that are contoured in a case (`present`). All training cases take
part. A few that have every organ stay whole; the others become those of three imagined sites, each of which keeps the
contours of other organs (`SITES`) and loses the rest. The data is naturally partial, too: an organ that is not
contoured was not annotated.

Arms (their models have the same network, seed and number of iterations: `recovery_real.yaml`):

- `lower` (L): the fully labeled cases alone.
- `upper` (U): all contours of all cases; as many cases lack an organ, by the loss of label sets.
- `background`: the partial labels under the ordinary loss, which takes what was not annotated for background.
- `chain`: the paper's: L completes the first site, a second teacher learns from that and completes all else, a
  student learns from all completed labels. Two more trainings than L.
- `sets`: the partial labels with the loss of label sets.
- `sets_student`: `sets` completes the sites, a student learns from those and the fully labeled cases.
- `sets_soft`: as `sets_student`, from soft labels (`soft: true`): where `sets` hesitates between two classes, the
  student learns both, each with its share.
- `shuffled`: as `sets`, but each site is stated to have annotated what the next one did. A control.

Endpoint: the mean over organs of the mean DSC over the validation cases that have the organ contoured, at full
resolution. Recovery of an arm S is (S - L) / (U - L); the difference to the paper's chain is paired by case. They
have 95 % intervals from 2,000 resamplings of the validation cases, so that chance in the trainings is not in them.

Frozen before the arms were run: this file, `recovery_real.yaml`, seed 11 and 8 fully labeled cases. Before that,
times and the training of L of seed 100 were looked at, with a larger network. Aims: a recovery of 0.8 for
`sets_student`, the differences of `sets` and `sets_student` to the chain above 0, and `shuffled` below `sets`.

L reached 0.645 and U 0.671: with 12 epochs (900 iterations) all cases are hardly better than 8, which leaves little
to recover. So a second run has three times as many epochs (`--epochs 36`); that was decided when L and U alone were
known, and all else of it is as frozen.

With 36 epochs, too, L is near U. So two more doses were added, `--full 4` and `--full 0`, with 36 epochs and seed 11,
when all arms of 8 cases but the last three were known. With no fully labeled case there is neither L nor the chain,
and the arms are compared with `background`.

`sets_soft` was added when `sets_student` was known for 8 and 4 cases (0.669, 0.673), with 36 epochs and seed 11, and
is run with 4 first. Question: is it above `sets_student`? (`minus_sets_student`)

The result is written after each arm; arms that are still to be run are listed under `missing`. What a folder holds is
not made again.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from phantom_runs import REPOSITORY, run_workflow
from provenance import provenance

from flare23_lib.io.atomic import link_to, read_json, write_json
from flare23_lib.io.nifti import read_labels, write_volume
from flare23_lib.io.tables import read_csv

log = logging.getLogger(__name__)

ORGANS = {"Brainstem": 1, "SpinalCord": 2, "RightParotid": 3, "LeftParotid": 4, "Esophagus": 5, "Larynx": 6,
          "Mandible": 7}  # fmt: skip
NAMES = ("brainstem", "spinal_cord", "right_parotid", "left_parotid", "esophagus", "larynx", "mandible")

SITES = {
    "site_a": ("Brainstem", "SpinalCord", "Mandible"),
    "site_b": ("RightParotid", "LeftParotid"),
    "site_c": ("Esophagus", "Larynx"),
}
"""What each imagined site keeps; a case comes to the smallest site of those whose organs it has."""

SEEDS, FULL, EPOCHS = (11,), 8, 12
RESAMPLINGS = 2000

CONFIGURATION = REPOSITORY / "benchmarks" / "recovery_real.yaml"
GROUPS = ("full", *SITES)
LABEL_SETS = {"training": {"loss": "label_sets"}}


def assign(rows: Sequence[Mapping[str, str]], full: int, seed: int) -> dict[str, str]:
    """Return the group of each training case: `full` or a site.

    Args:
        rows: of `cases.csv`.
        full: how many cases stay whole.
        seed: of the choice.
    """
    random = np.random.default_rng([seed, 23])
    present = {row["case"]: set(row["present"].split("|")) for row in rows if row["split"] == "train"}
    order = [str(case) for case in random.permutation(sorted(present))]
    groups = {case: "full" for case in [case for case in order if len(present[case]) == len(ORGANS)][:full]}
    sizes = dict.fromkeys(SITES, 0)
    for case in order:
        fitting = [site for site, organs in SITES.items() if present[case] & set(organs)]
        if case not in groups and fitting:
            groups[case] = min(fitting, key=lambda site: sizes[site])
            sizes[groups[case]] += 1
    return groups


def make_cohorts(data: Path, folder: Path, groups: Mapping[str, str]) -> tuple[Path, Path]:
    """Make the cohort of partial labels and, of the same images, that of all contours."""
    partial, whole = folder / "cohort", folder / "cohort_whole"
    if (folder / "cohorts.json").exists():
        return partial, whole
    for root in (partial, whole):
        for group in (*GROUPS, "validation"):
            for kind in ("images", "labels"):
                (root / group / kind).mkdir(parents=True, exist_ok=True)
        for file in (data / "validation").rglob("*.nii.gz"):
            link_to(root / file.relative_to(data), file.resolve())
        for case, group in groups.items():
            image = data / "train" / "images" / f"{case}_0000.nii.gz"
            link_to(root / group / "images" / image.name, image.resolve())
    for case, group in groups.items():
        label = data / "train" / "labels" / f"{case}.nii.gz"
        link_to(whole / group / "labels" / label.name, label.resolve())
        volume = read_labels(label)
        kept = [ORGANS[organ] for organ in SITES.get(group, ORGANS)]
        labels = np.where(np.isin(volume.array, kept), volume.array, 0).astype(np.uint8)
        write_volume(partial / group / "labels" / label.name, labels, volume.header)
    write_json(folder / "cohorts.json", {"groups": dict(groups)})
    return partial, whole


def names(organs: Sequence[str]) -> list[str]:
    """Return the names of organs in the configuration."""
    return [NAMES[ORGANS[organ] - 1] for organ in organs]


ALL = list(NAMES)
PRESENT: dict[str, Any] = {"full": ALL, **dict.fromkeys(SITES, "present")}
EVERYTHING: dict[str, Any] = {group: ALL for group in GROUPS}
NEXT: dict[str, Any] = {"full": ALL} | {
    site: names(SITES[other]) for site, other in zip(SITES, [*list(SITES)[1:], next(iter(SITES))], strict=True)
}
"""The annotated organs of the control: each site has those of the next one."""


def completions(teachers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return completions by group, each by its teacher; by the paper's rules."""
    return {f"{group}_by_{teacher}": {"category": group, "teacher": teacher} for group, teacher in teachers.items()}


def learner(labels: Mapping[str, Sequence[str]], evaluate: bool = True, **options: Any) -> dict[str, Any]:
    """Return a model's row."""
    return {"train_on": dict(labels), "evaluate": evaluate, **options}


def arms(full: int) -> dict[str, dict[str, Any]]:
    """Return arm -> what its configuration holds beside `recovery_real.yaml`, in the order in which they are run.

    Args:
        full: number of fully labeled cases. With none there is no L, and no chain, which begins with it.
    """
    groups = GROUPS if full else tuple(SITES)
    whole = ["full"] if full else []

    def categories(annotated: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"name": group, "folders": [f"{group}/images"], "annotated": annotated[group]} for group in groups]

    by_chain = completions({"site_a": "lower", "full": "chain_teacher", "site_b": "chain_teacher",
                            "site_c": "chain_teacher"})  # fmt: skip
    by_sets = completions(dict.fromkeys(SITES, "sets"))
    by_sets_soft = {f"{name}_soft": {**row, "soft": True} for name, row in by_sets.items()}
    lower = {"lower": learner({"manual_labels": ["full"]})}
    sets = {"sets": learner({"manual_labels": groups}, **LABEL_SETS)}
    found = {
        "lower": {"categories": categories(PRESENT), "models": lower},
        "upper": {"categories": categories(PRESENT),
                  "models": {"upper": learner({"manual_labels": groups}, **LABEL_SETS)}},
        "sets": {"categories": categories(PRESENT), "models": sets},
        "chain": {
            "categories": categories(PRESENT),
            "completions": by_chain,
            "models": {
                **lower,
                "chain_teacher": learner({"label_completions": ["site_a_by_lower"]}, evaluate=False),
                "chain": learner({"label_completions": list(by_chain)}),
            },
        },
        "sets_student": {
            "categories": categories(PRESENT),
            "completions": by_sets,
            "models": {
                **sets,
                "sets_student": learner({"manual_labels": whole, "label_completions": list(by_sets)}),
            },
        },
        "sets_soft": {
            "categories": categories(PRESENT),
            "completions": by_sets_soft,
            "models": {
                **sets,
                "sets_soft": learner({"manual_labels": whole, "label_completions": list(by_sets_soft)}),
            },
        },
        "background": {"categories": categories(EVERYTHING),
                       "models": {"background": learner({"manual_labels": groups})}},
        "shuffled": {"categories": categories(NEXT),
                     "models": {"shuffled": learner({"manual_labels": groups}, **LABEL_SETS)}},
    }  # fmt: skip
    return found if full else {arm: row for arm, row in found.items() if arm not in ("lower", "chain")}


ARMS = tuple(arms(FULL))


def plain(value: Any) -> Any:
    """Return tables, lists and values as YAML writes them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def run_arm(folder: Path, arm: str, full: int, cohort: Path, training: Mapping[str, int]) -> dict[str, Any]:
    """Run an arm's workflow; returns the DSC of each validation case and organ, and what it took."""
    started = time.monotonic()
    results = f"results_{cohort.name}"
    overrides = plain(arms(full)[arm]) | {
        "cohort": str(cohort.absolute()), "results": results, "model_defaults": {"training": dict(training)},
    }  # fmt: skip
    run_workflow(folder, [CONFIGURATION], overrides, ["evaluation"], cores=1)
    rows = read_csv(folder / results / "evaluation" / arm / "metrics.csv")
    record = read_json(folder / results / "training" / arm / "training.json")
    return {
        "cases": record["cases"],
        "training_seconds": record["seconds"],
        "run_seconds": round(time.monotonic() - started, 1),
        "dsc": {row["Name"]: {name: _number(row[f"{name}_DSC"]) for name in NAMES} for row in rows},
    }


def _number(text: str) -> float | None:
    return float(text) if text not in ("", "nan") else None


def table(run: Mapping[str, Any]) -> np.ndarray:
    """Return (cases, organs) DSC of an arm, NaN where an organ is not contoured."""
    rows = [[np.nan if row[name] is None else row[name] for name in NAMES] for _, row in sorted(run["dsc"].items())]
    return np.array(rows, float)


def endpoint(scores: np.ndarray) -> float:
    """Return the mean over organs of the mean over cases."""
    return float(np.nanmean(scores, axis=0).mean())


def resampled(figure: Callable[..., float], *scores: np.ndarray) -> dict[str, Any]:
    """Return a figure of arms' scores and its 95 % interval over resamplings of the cases, the same for all arms."""
    random = np.random.default_rng(0)
    values = []
    while len(values) < RESAMPLINGS:
        chosen = random.integers(len(scores[0]), size=len(scores[0]))
        picked = [one[chosen] for one in scores]
        if not np.isnan(picked[0]).all(axis=0).any():  # an organ that no drawn case has
            values.append(figure(*picked))
    interval = [round(float(value), 4) for value in np.percentile(values, [2.5, 97.5])]
    return {"value": round(figure(*scores), 4), "interval": interval}


def recovery(arm: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Return how much of U - L an arm reaches."""
    return (endpoint(arm) - endpoint(lower)) / (endpoint(upper) - endpoint(lower))


def summarize(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return by arm the endpoint, the DSC by organ, recovery and the difference to the paper's chain."""
    tables = {arm: table(run) for arm, run in runs.items()}
    summary: dict[str, Any] = {}
    for arm, scores in tables.items():
        means = np.nanmean(scores, axis=0)
        row: dict[str, Any] = {
            "dsc": resampled(endpoint, scores),
            "organs": {name: round(float(mean), 4) for name, mean in zip(NAMES, means, strict=True)},
        }
        if {"lower", "upper"} <= tables.keys() - {arm}:
            row["recovery"] = resampled(recovery, scores, tables["lower"], tables["upper"])
        for other in [one for one in ("chain", "background", "sets_student") if one in tables and one != arm]:
            row[f"minus_{other}"] = resampled(lambda a, b: endpoint(a) - endpoint(b), scores, tables[other])
        summary[arm] = row
    return summary


def main() -> None:
    """Run the arms of the seeds, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of openkbp")
    parser.add_argument("--folder", type=Path, required=True, help="where cohorts and runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--full", type=int, nargs="+", default=[FULL], help="fully labeled cases (the dose)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--output", type=Path, help="JSON with the figures; runs that it holds are kept")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    kept = read_json(args.output)["runs"] if args.output and args.output.exists() else {}
    cases = read_csv(args.data / "cases.csv")
    wanted = [
        (seed, full, arm) for seed in args.seeds for full in args.full for arm in arms(full) if arm in args.arms
    ]
    for seed, full, arm in wanted:
        name = f"seed {seed}, {full} fully labeled" + (f", {args.epochs} epochs" if args.epochs != EPOCHS else "")
        run = kept.setdefault(name, {"seed": seed, "full": full, "epochs": args.epochs, "arms": {}})
        if arm not in run["arms"]:
            folder = args.folder / f"seed{seed}_full{full}"
            groups = assign(cases, full, seed)
            partial, whole = make_cohorts(args.data, folder, groups)
            run["groups"] = {group: list(groups.values()).count(group) for group in GROUPS}
            log.info("%s: %s", name, arm)
            training = {"seed": seed, "epochs": args.epochs}
            run["arms"][arm] = run_arm(folder, arm, full, whole if arm == "upper" else partial, training)
        run["summary"] = summarize(run["arms"])
        run["missing"] = [other for other in arms(full) if other not in run["arms"]]
        print(format_table(name, run), flush=True)
        if args.output:
            write_json(args.output, {**provenance(), "runs": kept})


def format_table(name: str, run: Mapping[str, Any]) -> str:
    """Return the summary of a run for the terminal."""
    lines = [f"{name}: {run['groups']}; missing: {', '.join(run['missing']) or 'nothing'}"]
    for arm, row in run["summary"].items():
        keys = ("dsc", "recovery", "minus_chain", "minus_background", "minus_sets_student")
        figures = [f"{key} {row[key]['value']:.3f} {row[key]['interval']}" for key in keys if key in row]
        lines.append(f"{arm:<14}{', '.join(figures)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
