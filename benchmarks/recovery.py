"""How much of what full labels would give does the pipeline recover from partial ones?

    python benchmarks/recovery.py --folder FOLDER [--seeds 3 4 5]
        [--arms sets long longer exact later options soft]
        [--runs lower pipeline sets long longer exact later truth]
        [--orientation canonical|stored] [--output FILE]

On phantoms, whose whole truth is known but hidden from the pipeline, students of the same network and budget are
trained: S on the pipeline's completed labels, L (`labeled_only`) on the fully labeled cases alone, U (`full_truth`)
on the truth of all cases. Recovery is (S - L) / (U - L) of the mean organ DSC on validation phantoms; over seeds its
mean is given, and the ratio of the means (`recovery_of_means`), in which a seed with a small U - L weighs less; both
with 95 % intervals.

`--arms` chooses more of them. `sets`, the default: `student_sets` is the student of one teacher with the loss of
label sets (`presets/partial_labels.yaml`); `student_native` learns from the same completed labels at their own
resolution (`targets: native`), as `full_truth_native` from the truth; `student_sets_soft` and
`student_sets_soft_native` do so from its soft labels. `long` and `longer`: students of the soft labels of a teacher
with twice and four times the iterations. `exact`: the first two with `hidden_weight: 1`. `later`: the teacher of
`sets`, and that teacher after 24 more epochs with `hidden_weight: 1`. `options`: students with one option of
reliability each. `soft`: a student of soft pseudo-labels.

`--runs truth` runs the two students of the truth alone. Frozen before a first run of `full_truth_native` on any seed;
aim: a higher organ DSC than that of `full_truth`. `--runs lower` runs L alone, which `pipeline` has, too.

All of that was run on phantoms whose right adrenal gland lay in the liver: 62 % of what surrounds it was liver (on 16
label maps of FLARE22, 13 % within 3 mm). It had a DSC of 0 to 0.3 in most students, and moved their means by up to
0.02 from one training to the next. Today's phantoms have fat around it. Frozen before a first run on these, for
seeds 3 and 4 in a new folder: `--arms sets long --runs lower long truth`. Aim: a recovery of
`student_long_soft_native` above 0.6. Question: does U rise with `targets: native`?

`labeled_only_native`, L with `targets: native`, was added when these were known (recovery 0.95 and 0.56, U native
1.42 and 1.22). Question: the recovery between L and U that learn from native labels as well (`recovery_native`).

Seed 5 was added, with the same arms and aim, when all of that was known on seeds 3 and 4. Question: the mean of three
seeds and its interval.

`recovery*.yaml` say what is run; a seed makes another cohort and other trainings. The pseudo-labels of each
completion, as predicted and as merged, are compared with the truth too. What a folder holds is not made again.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import numpy as np
from phantom_runs import REPOSITORY, interval, ratio_of_means, run_workflow, scores
from provenance import provenance

from flare23_lib.dataset.cases import read_cases
from flare23_lib.io.atomic import link_to, write_json
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv
from flare23_lib.phantom import FLARE23_VALUES, PhantomLayout, Variation, write_cohort

log = logging.getLogger(__name__)

CASES, VALIDATION = 40, 16
"""Phantoms to learn from, 15 of them unlabeled, and those that are scored."""

FULLY_LABELED = (1, 8, 14, 20)
"""Which of the 25 labeled phantoms have all organs.

A first cohort, with teachers no better than the students, gave a recovery of 0.07. What stands here was chosen by L,
U and the first teacher alone, on seed 100, and frozen before S was run on any of `SEEDS`. With 4, 6 and 8 such cases
L reached an organ DSC of 0.703, 0.755 and 0.761 and U 0.791 (students of 6x5x5 mm, 24 epochs), so that 4 leave the
gap that a recovery needs to mean something. The first teacher reached 0.775 with them: less than that U, so the
students' voxels became coarser, as in the paper (8x7x7 mm, 30 epochs: L 0.678, U 0.745).
"""

OTHER_KINDS = ("tumor_only", "five_organs", "tumor_and_organs", "tumor_only")

KINDS = tuple("all_organs" if index in FULLY_LABELED else OTHER_KINDS[index % 4] for index in range(24))
"""The kinds in turn; the 25th labeled phantom has the first one's. Beside the fully labeled ones that makes 11 with
nothing but tumors labeled, 5 with tumors and five organs, 5 with five organs."""

VARIATION = Variation(
    plane_view=(400.0, 500.0), size=(0.75, 1.2), proportion=0.12, tilt=(8.0, 8.0, 15.0), fat=(3.0, 36.0),
    bends=((80.0, 7.0), (36.0, 2.2)), phase=(0.0, 1.0), organ_hu=18.0, noise_hu=(8.0, 30.0),
)  # fmt: skip
"""Bodies and scans that differ more than the demo's."""

LAYOUT = PhantomLayout(kinds=KINDS, variation=VARIATION)

SEEDS = (3, 4, 5)
"""None of them was run before the freeze."""

COMPLETIONS = ("tumor", "all_organs", "five_organs", "unlabeled")

EXACT = ("student_exact", "student_exact_native")
"""Students of one teacher with the exact loss of label sets (`hidden_weight: 1`). Frozen with `recovery_sets.yaml`
before a first run on any seed; aim: a recovery above 0.6."""

SETS = ("student_sets", "student_native")
"""The same with the default `hidden_weight`, 0.01; the same aim. Added and frozen when a student of `EXACT` was
known on seed 3 (organ DSC 0.541; L had 0.679 there before), and its teacher was seen to call most organs of its
training cases tumors. A first weight, 0.1, which is more than 1 over the 11 labels that hide tumors, was given up on
seed 4 during the teacher's training: five organs that only the fully labeled cases have were tumors to it after 20 of
72 epochs."""

SETS_SOFT = ("student_sets_soft", "student_sets_soft_native")
"""Students of the same teacher's soft labels; the second at the labels' resolution. Frozen when `SETS` was known on
both seeds. Aim: a recovery above 0.6; question: are they above those of hard labels?"""

LONG = ("student_long_soft", "student_long_soft_native")
"""As `SETS_SOFT`, with twice the iterations for the teacher: twice as many as the chain's two teachers have.
Frozen with `recovery_long.yaml` before a first run on any seed, when a longer teacher had helped on real CTs and
all of `SETS_SOFT` was known. Aim: a recovery above 0.6 on seeds 3 and 4."""

LONGER = ("student_longer_soft", "student_longer_soft_native")
"""As `LONG`, with four times the iterations for the teacher. Frozen with `recovery_longer.yaml` before a first run
on any seed, when that had helped on real CTs and `LONG` was known on both seeds (0.57 each). Aim: a recovery above
0.6 on seeds 3 and 4."""

LATER = ("teacher_sets", "teacher_exact_later")
"""The teacher of `SETS`, and the same one later (`recovery_later.yaml`), themselves scored. Question: do organs stay
what they are under the exact loss? Added when the students of `SETS` were known on seed 4."""

OPTIONS = ("student_unsure", "student_specks")

SOFT = ("student_soft",)
"""A student of soft pseudo-labels by the same teachers. Frozen with `recovery_soft.yaml` before a first run on any
seed; aim: a higher organ DSC than the student's."""

CONFIGURATIONS = [REPOSITORY / "presets" / "demo.yaml", REPOSITORY / "benchmarks" / "recovery.yaml"]
PARTIAL_LABELS = REPOSITORY / "presets" / "partial_labels.yaml"

ARMS = {"options": OPTIONS, "soft": SOFT}
"""Arms of the pipeline's run: their students. The configuration that has them bears the arm's name."""

FROM_SETS = ("student", "student_native")
SETS_RUNS = {
    "sets": ((), SETS + SETS_SOFT, FROM_SETS + SETS_SOFT),
    "long": (("long",), LONG, FROM_SETS),
    "longer": (("long", "longer"), LONGER, FROM_SETS),
    "exact": (("exact",), EXACT, FROM_SETS),
    "later": (("later",), LATER, ("teacher", "later")),
}
"""The runs with one teacher of label sets, each for the arm of its name: the configurations on top of
`recovery_sets.yaml`, what is reported, and the models that it is the scores of."""

RUNS = ("lower", "pipeline", *SETS_RUNS, "truth")
"""The workflows of a seed; all but the first are the default, as far as the arms need them."""


NATIVE_BOUNDS = {"lower": "labeled_only_native", "truth": "full_truth_native"}
"""Run -> its model with `targets: native`, which the arm `sets` alone has."""


def configurations(*names: str) -> list[Path]:
    """Return the files of parts of the benchmark."""
    return [REPOSITORY / "benchmarks" / f"recovery_{name}.yaml" for name in names]


def make_cohorts(folder: Path, seed: int) -> tuple[Path, Path]:
    """Make a seed's cohort with partial labels and, of the same images, one with all of the truth."""
    partial, whole = folder / "cohort", folder / "cohort_truth"
    if not (whole / "done").exists():
        processes = len(os.sched_getaffinity(0))
        write_cohort(partial, CASES, VALIDATION, seed, layout=LAYOUT, processes=processes)
        images = [*(partial / Path(LAYOUT.images).parent).iterdir()]
        images += (partial / Path(LAYOUT.unlabeled_images).parent).iterdir()
        for part, files in (
            (Path(LAYOUT.images).parent, images),
            (Path(LAYOUT.labels).parent, (partial / "truth").iterdir()),
            (Path(LAYOUT.validation_images).parent, (partial / "validation").iterdir()),
            (Path(LAYOUT.validation_labels).parent, (partial / "validation-gt").iterdir()),
        ):
            (whole / part).mkdir(parents=True, exist_ok=True)
            for file in files:
                link_to(whole / part / file.name, file)
        (whole / "done").touch()
    return partial, whole


def quality(results: Path, truth: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by completion, "predicted" or "completed" and class, the mean Dice with the truth where it holds it."""
    found: dict = {}
    cases = {case.case: case for case in read_cases(results / "cohort" / "cases.csv")}
    for completion in COMPLETIONS:
        rows = {
            "predicted": read_csv(results / "pseudo_labels" / completion / "0-of-1.csv"),
            "completed": read_csv(results / "completed_labels" / completion / "conflicts.csv"),
        }
        for kind, listed in rows.items():
            dice = defaultdict(list)
            for row in listed:
                made = read_labels(results / row["file"]).array
                true = read_labels(truth / f"{cases[row['case']].case}.nii.gz").array
                for name, value in FLARE23_VALUES.items():
                    size = (true == value).sum()
                    if size:
                        both = ((true == value) & (made == value)).sum()
                        dice[name].append(2 * both / (size + (made == value).sum()))
            means = {name: round(float(np.mean(values)), 4) for name, values in dice.items()}
            means["organs"] = round(float(np.mean([mean for name, mean in means.items() if name != "tumor"])), 4)
            found.setdefault(completion, {})[kind] = means
    return found


def run_seed(
    folder: Path, seed: int, orientation: str, chosen: Collection[str], wanted: Collection[str] = RUNS[1:]
) -> dict:
    """Run the chosen arms of a seed, as far as they are in wanted runs.

    Returns:
        Their scores and the quality of the pseudo-labels.
    """
    partial, whole = make_cohorts(folder, seed)
    common = {"model_defaults": {"orientation": orientation, "training": {"seed": seed}}}
    added = [arm for arm in ARMS if arm in chosen]
    students = ["student", "labeled_only", *(model for arm in added for model in ARMS[arm])]
    lowers, truths = ["labeled_only"], ["full_truth"]
    if "sets" in chosen:
        lowers.append(NATIVE_BOUNDS["lower"])
        truths.append(NATIVE_BOUNDS["truth"])
    runs = {
        "lower": (partial, [*CONFIGURATIONS, *configurations("lower")], {name: name for name in lowers}),
        "pipeline": (partial, [*CONFIGURATIONS, *configurations(*added)], {name: name for name in students}),
        "truth": (whole, [*CONFIGURATIONS, *configurations("truth")], {name: name for name in truths}),
    }
    for name, (more, reported, models) in SETS_RUNS.items():
        files = [*CONFIGURATIONS, PARTIAL_LABELS, *configurations("sets", *more)]
        runs[name] = (partial, files, dict(zip(reported, models, strict=True)))
    figures: dict = {}
    for name in RUNS:
        if name not in wanted or (name in SETS_RUNS and name not in chosen):
            continue
        cohort, files, arms = runs[name]
        log.info("seed %d, %s: %s", seed, orientation, name)
        run = folder / f"{orientation}_{name}"
        overrides: dict = {**common, "cohort": str(cohort.absolute()), "results": "results"}
        if name in NATIVE_BOUNDS and "sets" not in chosen:
            overrides["models"] = {NATIVE_BOUNDS[name]: None}
        run_workflow(run, files, overrides, ["evaluation"])
        figures |= {arm: scores(run / "results", model) for arm, model in arms.items()}
        if cohort == partial and name not in ("lower", "later"):
            key = "pseudo_labels" if name == "pipeline" else f"pseudo_labels_{name}"
            figures[key] = quality(run / "results", partial / "truth")
    return figures


def recovery(figures: dict, model: str, targets: str = "") -> float:
    """Return (S - L) / (U - L) of the organ DSC, with a model in the place of S; L and U with `targets`."""
    low, high = figures[f"labeled_only{targets}"]["organs"], figures[f"full_truth{targets}"]["organs"]
    return (figures[model]["organs"] - low) / (high - low)


def main() -> None:
    """Run the seeds and summarize them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where cohorts and runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--orientation", choices=["canonical", "stored"], default="canonical")
    parser.add_argument(
        "--arms",
        choices=[*SETS_RUNS, *ARMS],
        nargs="*",
        default=["sets"],
        help="in addition to L, S and U",
    )
    parser.add_argument("--runs", choices=RUNS, nargs="+", default=RUNS[1:], help="as far as the arms need them")
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs = {}
    for seed in args.seeds:
        runs[seed] = run_seed(args.folder / f"seed{seed}", seed, args.orientation, args.arms, args.runs)
        summary = summarize(runs)
        print(format_table(summary), flush=True)
        if args.output:
            settings = {"orientation": args.orientation, "cases": CASES, "validation": VALIDATION}
            write_json(args.output, {**provenance(), **settings, "summary": summary, "seeds": runs})


def summarize(runs: dict[int, dict]) -> dict:
    """Return, per arm, the organs' and tumors' DSC and the recovery, over the seeds."""
    students = ("student", *EXACT, *SETS, *SETS_SOFT, *LONG, *LONGER, *OPTIONS, *SOFT, *LATER)
    known = ("labeled_only", "labeled_only_native", *students, "full_truth", "full_truth_native")
    arms = [arm for arm in known if all(arm in run for run in runs.values())]
    table = {
        arm: {
            "organs": interval([run[arm]["organs"] for run in runs.values()]),
            "tumor": interval([run[arm].get("tumor", 0.0) for run in runs.values()]),
        }
        for arm in arms
    }
    if not {"labeled_only", "full_truth"} <= set(arms):
        return {"arms": table}
    organs = {arm: np.array([run[arm]["organs"] for run in runs.values()]) for arm in arms}
    gaps = organs["full_truth"] - organs["labeled_only"]
    for arm in set(arms) - {"labeled_only", "full_truth"}:
        table[arm]["recovery"] = interval([recovery(run, arm) for run in runs.values()])
        table[arm]["recovery_of_means"] = ratio_of_means(organs[arm] - organs["labeled_only"], gaps)
        if arm.endswith("_native") and {"labeled_only_native", "full_truth_native"} <= set(arms) - {arm}:
            table[arm]["recovery_native"] = interval([recovery(run, arm, "_native") for run in runs.values()])
    return {"gap": interval(gaps), "arms": table}


def format_table(summary: dict) -> str:
    """Return the summary for the terminal."""
    lines = [f"{'arm':<26}{'organ DSC':>10}{'tumor DSC':>11}{'recovery':>10}  {'95 % interval':<18}{'of means':>10}"]
    for arm, row in summary["arms"].items():
        line = f"{arm:<26}{row['organs']['mean']:>10.3f}{row['tumor']['mean']:>11.3f}"
        if "recovery" in row:
            for one in (row["recovery"], row["recovery_of_means"]):
                ends = "{:.2f} to {:.2f}".format(*one["interval"]) if one["interval"] else ""
                line += f"{one['mean']:>10.2f}  {ends:<18}"
        lines.append(line)
    if "gap" in summary:
        lines.append(f"full_truth - labeled_only: {summary['gap']['mean']:.3f} of organ DSC")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
