"""What partial labels cost on real CTs, and what the loss of label sets gives back.

    nice -n 19 python benchmarks/recovery_real.py --data OPENKBP --folder FOLDER [--seeds 11] [--full 8]
    nice -n 19 python benchmarks/recovery_real.py --study btcv --data BTCV --folder FOLDER --full 1

OPENKBP is a folder of head-and-neck planning CTs with seven organs: `train` and `validation`, each with `images` and
`labels`, and `cases.csv`, which lists the organs that are contoured in a case (`present`). All training cases take
part. A few that have every organ stay whole; the others become those of three imagined sites, each of which keeps the
contours of other organs (`Study.sites`) and loses the rest. The data is naturally partial, too: an organ that is not
contoured was not annotated.

BTCV is a folder of 14 abdominal CTs, `images` and `labels`, with eight of FLARE's organs. Halves of them are trained
on in turn, and the other half scored: each arm is trained twice, and has the scores of all cases. So few cases can
show the sign of a difference, and no more.

Arms (their models have the same network, seed and, but for the long ones, iterations: `recovery_real.yaml`):

- `lower` (L): the fully labeled cases alone.
- `upper` (U): all contours of all cases; as many cases lack an organ, by the loss of label sets.
- `background`: the partial labels under the ordinary loss, which takes what was not annotated for background.
- `chain`: the paper's: L completes the first site, a second teacher learns from that and completes all else, a
  student learns from all completed labels. Two more trainings than L.
- `sets`: the partial labels with the loss of label sets.
- `sets_student`: `sets` completes the sites, a student learns from those and the fully labeled cases.
- `sets_soft`: as `sets_student`, from soft labels (`soft: true`): where `sets` hesitates between two classes, the
  student learns both, each with its share.
- `sets_soft_again`: `sets_soft` completes the sites once more, with soft labels, and another student learns from
  these.
- `sets_long`, `sets_long_soft`: as `sets` and `sets_soft`, with twice the iterations for the teacher: as many as the
  chain's two teachers have. The student has those of all arms.
- `sets_longer`, `sets_longer_soft`: the same with four times the iterations for the teacher.
- `upper_long`: U with twice the iterations.
- `chain_long`: the chain, with twice the iterations for each of its teachers: in all as many as `sets_longer_soft`.
- `shuffled`: as `sets`, but each site is stated to have annotated what the next one did. A control.
- `shuffled_longer`: the same with four times the iterations.
- `lower_native`, `upper_native`, `sets_native`, `sets_student_native`, `sets_soft_native`: as those without
  `_native`, with the loss at labels about as fine as the files' own (`targets: native`).

Endpoint: the mean over organs of the mean DSC over the validation cases that have the organ contoured, at full
resolution. Recovery of an arm S is (S - L) / (U - L); the difference to the paper's chain is paired by case. They
have 95 % intervals from 2,000 resamplings of the validation cases, so that chance in the trainings is not in them.
Over seeds each figure has its mean and an interval by Student's t; chance in the validation cases is not in that one.

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

Decided when all arms of 4 cases were known, also with 36 epochs and seed 11: 16 fully labeled cases, and `sets_soft`
with 0 and 8. For btcv, frozen before any arm was run: `recovery_btcv.yaml`, the sites, seed 11, 1 fully labeled case
of 7, 12 epochs, all arms. Question: the signs of `sets` and `sets_student` minus the chain.

The arms with `_native` were added when all arms of 4 cases, and those of btcv but `sets_soft` and `shuffled`, were
known; they are run with 4 cases and 36 epochs, and on btcv, with seed 11. Questions: the signs of
`sets_student_native` minus `sets_student` and of `upper_native` minus `upper`; the recovery of `sets_student_native`
between L and U, and between the two that learn from native labels as well (`recovery_native`).

`sets_soft_native` was added, with the same questions, before any of these was known.

Seed 12 (groups, weights and patches) with 4 cases and 36 epochs was added when `lower` and `sets` of 16 cases were
known: `sets` was 0.657 there, and 0.673 with 4, so chance in a training is as large as what is compared. Arms: all up
to `sets_soft`, in that order.

Seeds 13 and 14 with 4 cases and 36 epochs (arms `lower`, `upper`, `sets`, `chain`, `sets_soft`) and `sets_soft_again`
with 4 cases and seeds 11 to 14 were added when what stands above was known. Questions: over the four seeds, the
recovery of `sets_soft` and `sets_soft_again`, and the signs of `sets` and `sets_soft` minus the chain and of
`sets_soft_again` minus `sets_soft`. Seed 12 with 16 cases (`sets`, `shuffled`) was added with them. Question: does
the control lose, in the mean of seeds 11 and 12?

`sets_long` and `sets_long_soft`, with 4 cases, 36 epochs and seeds 11 to 14, were added when the teacher alone had
been looked at on seed 100 (L 0.646, U 0.683, `sets` 0.661): with twice the channels it reached 0.658, with twice the
iterations 0.680. So the teacher, which sees each organ in a third of the cases, was trained too briefly. Questions:
over the four seeds, is the recovery of `sets_long_soft` 0.8, and is its difference to the chain, which has as many
iterations in all, above 0 in each? `upper_long`, U with twice the iterations, is run on seed 11 for comparison.

Seeds 15 and 16, with the same arms (`lower`, `upper`, `sets_long`, `sets_long_soft`, then `chain`), were added when
the recovery of `sets_long_soft` was known to be 0.79 in the mean of four. Questions: what is it in the mean of six,
and in that of the two new ones alone, and is each difference to the chain above 0?

`sets_longer` and `sets_longer_soft` of seeds 11 to 16 and, last, `chain_long` of seeds 15 and 16, all with 4 cases
and 36 epochs, were added when the recovery of `sets_long_soft` was known to be 0.798 over six seeds, and that it ends
where its teacher does (0.682 and 0.679). Questions: does the teacher gain again from twice the iterations, what is
the recovery of `sets_longer_soft` in the mean of six seeds and its interval, is each difference to the chain above 0,
and that to the chain of as many iterations?

`sets_longer`, `sets_longer_soft` and `shuffled_longer` of seed 11 with 16 cases and 36 epochs were added when all of
the above was known: with 16 cases `sets` is at the chain (-0.001) and below its control (-0.009) on that seed.
Questions: with four times the iterations, is the control below `sets_longer`, and are the differences of
`sets_longer` and `sets_longer_soft` to the chain above 0?

`sets_longer` and `sets_longer_soft` of seed 11 with 8 cases, then `chain_long` with 16, then the first two with none
were added when those of 16 were known (0.691 and 0.689, the control 0.669). Questions: with 8, the recovery and the
signs of the differences to the chain; with 16, the signs of the differences to the chain of as many iterations.

`shuffled_longer` of seed 11 with 8, 4 and 0 cases was added when all of that but the two arms with none was known.
Question: is the control below `sets_longer` with each?

Seeds 12 and 13 with 8 and 16 cases and 36 epochs (arms `lower`, `sets_longer`, `sets_longer_soft`, `chain`) were
added when all of the above was known. Questions: over the three seeds, the recovery of `sets_longer` and
`sets_longer_soft` with 8 and with 16, and are their differences to the chain above 0 in each?

`shuffled_longer` of seeds 12 and 13 with 8 and 16 cases and 36 epochs was added when all of the above was known.
Question: is the control below `sets_longer` with each seed and dose?

U of 16 cases is that of 8, and with seeds 12 and 13 both are that of 4, not trained again: the same 170 cases, seed
and iterations (with 8 and 4 cases of seed 11 it was trained twice, and its scores agreed in every case).

The result is written after each arm; arms that are still to be run are listed under `missing`. What a folder holds is
not made again.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from phantom_runs import REPOSITORY, interval, run_workflow
from provenance import provenance

from flare23_lib.io.atomic import link_to, read_json, write_json
from flare23_lib.io.nifti import read_labels, write_volume
from flare23_lib.io.tables import read_csv

log = logging.getLogger(__name__)

GROUPS = ("full", "site_a", "site_b", "site_c")


@dataclass(frozen=True)
class Study:
    """Data that the arms are run on.

    Attributes:
        organs: name in the configuration -> value in the files.
        sites: what each imagined site keeps. A case comes to the smallest site of those whose organs it has.
        halves: whether the cases are split in two halves that take turns in training.
        native: voxels (z, y, x) of native labels in a voxel of the training's grid.
        configuration: files of what the workflow runs, on top of the recipe; the last one wins.
    """

    organs: Mapping[str, int]
    sites: Mapping[str, Sequence[str]]
    halves: bool
    native: tuple[int, int, int]
    configuration: tuple[str, ...]

    @property
    def folds(self) -> int:
        """How often each arm is trained."""
        return 2 if self.halves else 1

    def cases(self, data: Path, fold: int, seed: int) -> list[Case]:
        """Return all cases of the data."""
        if not self.halves:
            return [
                Case(row["case"], row["split"], data / row["split"],
                     {name for name, column in zip(self.organs, OPENKBP_ORGANS, strict=True)
                      if column in row["present"].split("|")})
                for row in read_csv(data / "cases.csv")
            ]  # fmt: skip
        cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labels").glob("*.nii.gz"))
        order = np.random.default_rng([seed, 7]).permutation(cases)
        training = set(order[fold * len(cases) // 2 : (fold + 1) * len(cases) // 2])
        found = []
        for case in cases:
            values = np.unique(read_labels(data / "labels" / f"{case}.nii.gz").array)
            present = {name for name, value in self.organs.items() if value in values}
            found.append(Case(case, "train" if case in training else "validation", data, present))
        return found


@dataclass(frozen=True)
class Case:
    """A case of a study: its name, `train` or `validation`, the folder of its files, the organs in its label."""

    name: str
    split: str
    folder: Path
    present: set[str]

    @property
    def image(self) -> Path:
        """The CT."""
        return self.folder / "images" / f"{self.name}_0000.nii.gz"

    @property
    def label(self) -> Path:
        """The whole label."""
        return self.folder / "labels" / f"{self.name}.nii.gz"


OPENKBP_ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
"""Names in `cases.csv`, by value."""

STUDIES = {
    "openkbp": Study(
        {"brainstem": 1, "spinal_cord": 2, "right_parotid": 3, "left_parotid": 4, "esophagus": 5, "larynx": 6,
         "mandible": 7},
        {"site_a": ("brainstem", "spinal_cord", "mandible"), "site_b": ("right_parotid", "left_parotid"),
         "site_c": ("esophagus", "larynx")},
        halves=False,
        native=(2, 1, 1),
        configuration=("recovery_real.yaml",),
    ),
    "btcv": Study(
        {"liver": 1, "right_kidney": 2, "spleen": 3, "pancreas": 4, "aorta": 5, "gallbladder": 9, "stomach": 11,
         "left_kidney": 13},
        {"site_a": ("liver", "spleen", "stomach"), "site_b": ("right_kidney", "left_kidney", "aorta"),
         "site_c": ("pancreas", "gallbladder")},
        halves=True,
        native=(2, 2, 2),
        configuration=("recovery_real.yaml", "recovery_btcv.yaml"),
    ),
}  # fmt: skip

SEEDS, FULL, EPOCHS = (11,), 8, 12
RESAMPLINGS = 2000

LABEL_SETS = {"loss": "label_sets"}


def assign(study: Study, cases: Sequence[Case], full: int, seed: int) -> dict[str, str]:
    """Return the group of each training case: `full` or a site.

    Args:
        study: what the sites keep.
        cases: all cases.
        full: how many cases stay whole.
        seed: of the choice.
    """
    random = np.random.default_rng([seed, 23])
    present = {case.name: case.present for case in cases if case.split == "train"}
    order = [str(case) for case in random.permutation(sorted(present))]
    groups = {case: "full" for case in [case for case in order if len(present[case]) == len(study.organs)][:full]}
    sizes = dict.fromkeys(study.sites, 0)
    for case in order:
        fitting = [site for site, organs in study.sites.items() if present[case] & set(organs)]
        if case not in groups and fitting:
            groups[case] = min(fitting, key=lambda site: sizes[site])
            sizes[groups[case]] += 1
    return groups


def make_cohorts(study: Study, cases: Sequence[Case], folder: Path, groups: Mapping[str, str]) -> tuple[Path, Path]:
    """Make the cohort of partial labels and, of the same images, that of all contours."""
    partial, whole = folder / "cohort", folder / "cohort_whole"
    if (folder / "cohorts.json").exists():
        return partial, whole
    for root in (partial, whole):
        for case in cases:
            group = groups.get(case.name, case.split)
            for kind in ("images", "labels"):
                (root / group / kind).mkdir(parents=True, exist_ok=True)
            link_to(root / group / "images" / case.image.name, case.image.resolve())
            if root is whole or group == "validation":
                link_to(root / group / "labels" / case.label.name, case.label.resolve())
                continue
            volume = read_labels(case.label)
            kept = [study.organs[organ] for organ in study.sites.get(group, study.organs)]
            labels = np.where(np.isin(volume.array, kept), volume.array, 0).astype(np.uint8)
            write_volume(root / group / "labels" / case.label.name, labels, volume.header)
    write_json(folder / "cohorts.json", {"groups": dict(groups)})
    return partial, whole


def completions(teachers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return completions by group, each by its teacher; by the paper's rules."""
    return {f"{group}_by_{teacher}": {"category": group, "teacher": teacher} for group, teacher in teachers.items()}


def learner(
    labels: Mapping[str, Sequence[str]], *, evaluate: bool = True, training: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a model's row."""
    row: dict[str, Any] = {"train_on": dict(labels), "evaluate": evaluate}
    return row | ({"training": training} if training else {})


def arms(study: Study, full: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Return arm -> what its configuration holds beside the study's file, in the order in which they are run.

    Args:
        study: the organs, and what the sites keep.
        full: number of fully labeled cases. With none there is no L, and no chain, which begins with it.
        epochs: of each training but the long ones.
    """
    groups = GROUPS if full else GROUPS[1:]
    whole = ["full"] if full else []
    organs, sites = list(study.organs), list(study.sites)
    present = {"full": organs, **dict.fromkeys(sites, "present")}
    everything = dict.fromkeys(GROUPS, organs)
    # The control: each site is said to have annotated what the next one has.
    following: dict[str, Sequence[str]] = {"full": organs}
    following |= {site: study.sites[after] for site, after in zip(sites, [*sites[1:], sites[0]], strict=True)}

    def categories(annotated: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"name": group, "folders": [f"{group}/images"], "annotated": annotated[group]} for group in groups]

    def trained(models: Mapping[str, Any], completed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {"categories": categories(present), "completions": dict(completed or {}), "models": dict(models)}

    def student(completed: Mapping[str, Any], manual_labels: Sequence[str] = ()) -> dict[str, Any]:
        return learner({"manual_labels": manual_labels, "label_completions": list(completed)})

    def longer(model: Mapping[str, Any], times: int) -> dict[str, Any]:
        return {**model, "training": {**model.get("training", {}), "epochs": times * epochs}}

    def chain(name: str, first: str, second: str, times: int) -> dict[str, Any]:
        completed = completions({"site_a": first, **dict.fromkeys(("full", "site_b", "site_c"), second)})
        teachers = {
            first: longer(lower, times),
            second: longer(learner({"label_completions": [f"site_a_by_{first}"]}, evaluate=False), times),
        }
        return trained({**teachers, name: student(completed)}, completed)

    def soft_labels(teacher: str) -> dict[str, dict[str, Any]]:
        return {f"{site}_by_{teacher}_soft": {"category": site, "teacher": teacher, "soft": True} for site in sites}

    sets = {"sets": learner({"manual_labels": groups}, training=LABEL_SETS)}
    sets_long = {"sets_long": longer(sets["sets"], 2)}
    sets_longer = {"sets_longer": longer(sets["sets"], 4)}
    lower = learner({"manual_labels": ["full"]})
    by_sets = completions(dict.fromkeys(sites, "sets"))
    by_sets_soft, by_long_soft, by_longer_soft = map(soft_labels, ("sets", "sets_long", "sets_longer"))
    by_student = soft_labels("sets_soft")
    sets_soft = {**sets, "sets_soft": student(by_sets_soft, whole)}
    found = {
        "lower": trained({"lower": lower}),
        "upper": trained({"upper": sets["sets"]}),
        "sets": trained(sets),
        "chain": chain("chain", "lower", "chain_teacher", 1),
        "sets_student": trained({**sets, "sets_student": student(by_sets, whole)}, by_sets),
        "sets_soft": trained(sets_soft, by_sets_soft),
        "sets_long": trained(sets_long),
        "upper_long": trained({"upper_long": sets_long["sets_long"]}),
        "sets_long_soft": trained({**sets_long, "sets_long_soft": student(by_long_soft, whole)}, by_long_soft),
        "sets_longer": trained(sets_longer),
        "sets_longer_soft": trained(
            {**sets_longer, "sets_longer_soft": student(by_longer_soft, whole)}, by_longer_soft
        ),
        "chain_long": chain("chain_long", "lower_long", "chain_teacher_long", 2),
        "sets_soft_again": trained(
            {**sets_soft, "sets_soft_again": student(by_student, whole)}, by_sets_soft | by_student
        ),
        "background": {"categories": categories(everything),
                       "models": {"background": learner({"manual_labels": groups})}},
        "shuffled": {"categories": categories(following), "models": {"shuffled": sets["sets"]}},
        "shuffled_longer": {"categories": categories(following),
                            "models": {"shuffled_longer": sets_longer["sets_longer"]}},
    }  # fmt: skip
    for arm in ("lower", "upper", "sets", "sets_student", "sets_soft"):
        models = dict(found[arm]["models"])
        model = models.pop(arm)
        native = {**model.get("training", {}), "targets": "native", "target_factor": study.native}
        found[f"{arm}_native"] = found[arm] | {"models": {**models, f"{arm}_native": {**model, "training": native}}}
    impossible = () if full else ("lower", "lower_native", "chain", "chain_long")
    return {arm: row for arm, row in found.items() if arm not in impossible}


ARMS = tuple(arms(STUDIES["openkbp"], FULL, EPOCHS))


def plain(value: Any) -> Any:
    """Return tables, lists and values as YAML writes them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def run_arm(
    study: Study, folder: Path, arm: str, full: int, cohort: Path, training: Mapping[str, int]
) -> dict[str, Any]:
    """Run an arm's workflow; returns the DSC of each validation case and organ, and what it took."""
    started = time.monotonic()
    results = f"results_{cohort.name}"
    overrides = plain(arms(study, full, training["epochs"])[arm]) | {
        "cohort": str(cohort.absolute()), "results": results, "model_defaults": {"training": dict(training)},
    }  # fmt: skip
    files = [REPOSITORY / "benchmarks" / name for name in study.configuration]
    run_workflow(folder, files, overrides, ["evaluation"], cores=1)
    rows = read_csv(folder / results / "evaluation" / arm / "metrics.csv")
    record = read_json(folder / results / "training" / arm / "training.json")
    return {
        "cases": record["cases"],
        "training_seconds": record["seconds"],
        "run_seconds": round(time.monotonic() - started, 1),
        "dsc": {row["Name"]: {name: _number(row[f"{name}_DSC"]) for name in study.organs} for row in rows},
    }


def _number(text: str) -> float | None:
    return float(text) if text not in ("", "nan") else None


def table(run: Mapping[str, Any]) -> np.ndarray:
    """Return (cases, organs) DSC of an arm, NaN where an organ is not contoured."""
    return np.array([list(row.values()) for _, row in sorted(run["dsc"].items())], float)


def endpoint(scores: np.ndarray) -> float:
    """Return the mean over organs of the mean over cases."""
    return float(np.nanmean(scores, axis=0).mean())


def resampled(figure: Callable[..., float], *scores: np.ndarray) -> dict[str, Any]:
    """Return a figure of arms' scores and its 95 % interval over resamplings of the cases, the same for all arms."""
    random = np.random.default_rng(0)
    values: list[float] = []
    while len(values) < RESAMPLINGS:
        chosen = random.integers(len(scores[0]), size=len(scores[0]))
        picked = [one[chosen] for one in scores]
        if not np.isnan(picked[0]).all(axis=0).any():  # an organ that no drawn case has
            values.append(figure(*picked))
    middle = [round(float(value), 4) for value in np.percentile(values, [2.5, 97.5])]
    return {"value": round(figure(*scores), 4), "interval": middle}


def recovery(arm: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Return how much of U - L an arm reaches."""
    return (endpoint(arm) - endpoint(lower)) / (endpoint(upper) - endpoint(lower))


def summarize(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return by arm the endpoint, the DSC by organ, recovery and the difference to the paper's chain."""
    tables = {arm: table(run) for arm, run in runs.items()}
    summary: dict[str, Any] = {}
    for arm, scores in tables.items():
        names, means = next(iter(runs[arm]["dsc"].values())), np.nanmean(scores, axis=0)
        row: dict[str, Any] = {
            "dsc": resampled(endpoint, scores),
            "organs": {name: round(float(mean), 4) for name, mean in zip(names, means, strict=True)},
        }
        if {"lower", "upper"} <= tables.keys() - {arm}:
            row["recovery"] = resampled(recovery, scores, tables["lower"], tables["upper"])
        if arm.endswith("_native") and {"lower_native", "upper_native"} <= tables.keys() - {arm}:
            row["recovery_native"] = resampled(recovery, scores, tables["lower_native"], tables["upper_native"])
        compared = {"background", "chain", "chain_long", "sets_student", "sets_soft", "shuffled", "shuffled_longer"}
        compared.add(arm.removesuffix("_native"))
        for other in sorted((compared - {arm}) & tables.keys()):
            row[f"minus_{other}"] = resampled(lambda a, b: endpoint(a) - endpoint(b), scores, tables[other])
        summary[arm] = row
    return summary


def over_seeds(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, for runs that differ in the seed alone, the mean of each figure of an arm and its interval."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for run in runs.values():
        dose = f"{run['full']} fully labeled, {run.get('epochs', EPOCHS)} epochs"
        for arm, row in run["summary"].items():
            for name, figure in row.items():
                if name != "organs":
                    values.setdefault((dose, arm, name), []).append(figure["value"])
    found: dict[str, Any] = {}
    for (dose, arm, name), each in values.items():
        if len(each) > 1:
            found.setdefault(dose, {}).setdefault(arm, {})[name] = interval(each)
    return found


def run_folds(study: Study, args: argparse.Namespace, seed: int, full: int, arm: str) -> dict[str, Any]:
    """Run an arm of a seed in all folds; returns what `run_arm` does, and the groups' sizes."""
    runs = []
    for fold in range(study.folds):
        folder = args.folder / (f"seed{seed}_full{full}" + (f"_fold{fold}" if study.halves else ""))
        cases = study.cases(args.data, fold, seed)
        groups = assign(study, cases, full, seed)
        partial, whole = make_cohorts(study, cases, folder, groups)
        training = {"seed": seed, "epochs": args.epochs}
        runs.append(run_arm(study, folder, arm, full, whole if arm.startswith("upper") else partial, training))
        sizes = {group: list(groups.values()).count(group) for group in GROUPS}
    return {
        "groups": sizes,
        "cases": runs[0]["cases"],
        **{key: round(sum(run[key] for run in runs), 1) for key in ("training_seconds", "run_seconds")},
        "dsc": {case: row for run in runs for case, row in run["dsc"].items()},
    }


def main() -> None:
    """Run the arms of the seeds, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, default="openkbp")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the study's data")
    parser.add_argument("--folder", type=Path, required=True, help="where cohorts and runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--full", type=int, nargs="+", default=[FULL], help="fully labeled cases (the dose)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--output", type=Path, help="JSON with the figures; runs that it holds are kept")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    study = STUDIES[args.study]
    kept = read_json(args.output)["runs"] if args.output and args.output.exists() else {}
    for run in kept.values():
        run["summary"] = summarize(run["arms"])
    wanted = [
        (seed, full, arm)
        for seed in args.seeds
        for full in args.full
        for arm in arms(study, full, args.epochs)
        if arm in args.arms
    ]
    for seed, full, arm in wanted:
        name = f"seed {seed}, {full} fully labeled" + (f", {args.epochs} epochs" if args.epochs != EPOCHS else "")
        run = kept.setdefault(name, {"seed": seed, "full": full, "epochs": args.epochs, "arms": {}})
        if arm not in run["arms"]:
            log.info("%s: %s", name, arm)
            found = run_folds(study, args, seed, full, arm)
            run["groups"] = found.pop("groups")
            run["arms"][arm] = found
        run["summary"] = summarize(run["arms"])
        run["missing"] = [other for other in arms(study, full, args.epochs) if other not in run["arms"]]
        print(format_table(name, run), flush=True)
        if args.output:
            write_json(args.output, {**provenance(), "seeds": over_seeds(kept), "runs": kept})


def format_table(name: str, run: Mapping[str, Any]) -> str:
    """Return the summary of a run for the terminal."""
    lines = [f"{name}: {run['groups']}; missing: {', '.join(run['missing']) or 'nothing'}"]
    for arm, row in run["summary"].items():
        figures = [f"{key} {cell['value']:.3f} {cell['interval']}" for key, cell in row.items() if key != "organs"]
        lines.append(f"{arm:<20}{', '.join(figures)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
