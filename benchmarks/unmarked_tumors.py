"""What tumors that nobody marked cost, and what a second look gives back.

    python benchmarks/unmarked_tumors.py --folder FOLDER [--seeds 0 1 2] [--output FILE]

On phantoms, a fifth of the tumors of the labeled cases is not marked: some in cases whose other tumors are, and all
of those in some cases that have organs alone. Their voxels are labeled as the organ around them where that is
annotated. Four students are compared on validation phantoms, in which every tumor is marked: the paper's way (every
case is taken as fully marked), with a second look at the annotated cases (`unmarked_tumors: if_sure`,
`tumor_inside_organs: if_sure`) by the teacher that learned from them, with a crossed one (each half of the tumor
cases by a teacher that learned from the other half), and the paper's way with all tumors marked. A tumor is missed if
no voxel of its component is predicted. `unmarked_tumors*.yaml` say what is run; a seed makes another cohort and other
trainings. What a folder holds is not made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phantom_runs import REPOSITORY, interval, run_seeds, run_workflow, scores
from scipy import ndimage

from flare23_lib.evaluation.details import tumor_components
from flare23_lib.io.atomic import link_to, read_json, write_json
from flare23_lib.io.nifti import header_for, read_labels, write_volume
from flare23_lib.io.tables import read_csv
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.phantom import FIVE_ORGANS, FLARE23_VALUES, ORGANS, Phantom, PhantomLayout, draw_phantom

log = logging.getLogger(__name__)

TUMOR = FLARE23_VALUES["tumor"]

KINDS = ("tumor_only", "tumor_and_organs") * 7 + ("all_organs", "five_organs") * 5 + ("unlabeled",) * 8
"""Kinds of the training cases: 14 with tumors, 5 with all organs, 5 with five, 8 with nothing."""

WITH_TUMORS = 2
"""The last of the ten cases with organs alone that have tumors, none of them marked."""

UNMARKED = 0.2
"""Share of the labeled cases' tumors that are not marked."""

VALIDATION = 20

ANNOTATED = {"tumor_only": (), "tumor_and_organs": FIVE_ORGANS, "all_organs": ORGANS, "five_organs": FIVE_ORGANS}

CONFIGURATIONS = [REPOSITORY / "presets" / "demo.yaml", REPOSITORY / "benchmarks" / "unmarked_tumors.yaml"]
MARKED = REPOSITORY / "benchmarks" / "unmarked_tumors_marked.yaml"

ARMS = {
    "paper": "student",
    "second_look": "student_again",
    "crossed_look": "student_crossed",
    "all_marked": "student",
}
"""Arm -> model."""

LOOKS = {"second_look": "again", "crossed_look": "crossed"}
"""Arm -> what the names of the completions that look a second time end in."""

LOOKED_AT = ("tumor_0", "tumor_1", "all_organs", "five_organs")
"""The completions that are looked at a second time."""


@dataclass(frozen=True)
class Drawn:
    """A training case: its kind, its phantom and its tumors as components (1 to `count`, 0 elsewhere)."""

    kind: str
    phantom: Phantom
    components: np.ndarray
    count: int


def draw_training(seed: int) -> list[Drawn]:
    """Draw the training cases."""
    drawn = []
    organs_alone = [index for index, kind in enumerate(KINDS) if kind in ("all_organs", "five_organs")]
    with_tumors = set(organs_alone[-WITH_TUMORS:])
    for index, kind in enumerate(KINDS):
        tumors = "tumor" in kind or kind == "unlabeled" or index in with_tumors
        rng = np.random.default_rng([seed, 7, index])
        phantom = draw_phantom(rng, tumors=tumors, flipped=index % 2 == 1)
        components, count = ndimage.label(phantom.tumors, structure=np.ones((3, 3, 3)))
        drawn.append(Drawn(kind, phantom, components, count))
    return drawn


def choose_unmarked(cases: Sequence[Drawn], seed: int) -> set[tuple[int, int]]:
    """Choose the (case, component) that are not marked; a case with tumors marked keeps one at least."""
    labeled = [(index, case) for index, case in enumerate(cases) if case.kind != "unlabeled"]
    chosen = {(i, n) for i, case in labeled if "tumor" not in case.kind for n in range(1, case.count + 1)}
    wanted = round(UNMARKED * sum(case.count for _, case in labeled))
    others = [(i, n) for i, case in labeled if "tumor" in case.kind for n in range(1, case.count + 1)]
    for i, n in np.random.default_rng([seed, 8]).permutation(others).tolist():
        kept = sum((i, other) not in chosen for other in range(1, cases[i].count + 1))
        if len(chosen) < wanted and kept > 1:
            chosen.add((i, n))
    return chosen


def label(case: Drawn, marked: np.ndarray) -> np.ndarray:
    """Return a label file's voxels: the organs of the case's kind, and the marked tumors (bool) on top of them."""
    names = ANNOTATED[case.kind]
    table = np.zeros(256, np.uint8)
    for name in names:
        table[FLARE23_VALUES[name]] = FLARE23_VALUES[name]
    return np.where(marked, np.uint8(TUMOR), table[case.phantom.organs])


def make_cohorts(folder: Path, seed: int) -> None:
    """Write the cohort with some tumors unmarked, and the same images with all of them marked."""
    if (folder / "cohorts.json").exists():
        return
    layout = PhantomLayout()
    partial, whole = folder / "cohort", folder / "cohort_marked"
    cases = draw_training(seed)
    unmarked = choose_unmarked(cases, seed)
    for index, case in enumerate(cases):
        header = header_for(case.phantom.image.shape, case.phantom.affine, np.dtype(np.int16))
        labels = header_for(case.phantom.image.shape, case.phantom.affine, np.dtype(np.uint8))
        pattern = layout.unlabeled_images if case.kind == "unlabeled" else layout.images
        image = partial / pattern.format(number=index + 1)
        write_volume(image, case.phantom.image, header)
        link_to(whole / image.relative_to(partial), image)
        if case.kind == "unlabeled":
            continue
        seen = np.isin(case.components, [n for n in range(1, case.count + 1) if (index, n) not in unmarked])
        name = layout.labels.format(number=index + 1)
        write_volume(partial / name, label(case, seen & case.phantom.tumors), labels)
        write_volume(whole / name, label(case, case.phantom.tumors), labels)
    for index in range(VALIDATION):
        phantom = draw_phantom(np.random.default_rng([seed, 9, index]), tumors=True, flipped=index % 2 == 1)
        image = partial / layout.validation_images.format(number=index + 1)
        truth = partial / layout.validation_labels.format(number=index + 1)
        write_volume(image, phantom.image, header_for(phantom.image.shape, phantom.affine, np.dtype(np.int16)))
        write_volume(truth, phantom.labels, header_for(phantom.image.shape, phantom.affine, np.dtype(np.uint8)))
        for file in (image, truth):
            link_to(whole / file.relative_to(partial), file)
    counts = {
        "tumors": sum(case.count for case in cases if case.kind != "unlabeled"),
        "unmarked": len(unmarked),
        "unmarked_in_cases_with_organs_alone": sum("tumor" not in cases[index].kind for index, _ in unmarked),
    }
    write_json(folder / "cohorts.json", counts)


def detection(results: Path, model: str, references: Path) -> dict[str, int]:
    """Return how many tumors of the validation cases there are, and how many of them a model missed."""
    found = {"tumors": 0, "missed": 0, "false": 0}
    for row in read_csv(results / "predictions" / model / "predictions.csv"):
        truth = read_labels(references / f"{row['case']}.nii.gz")
        predicted = read_labels(results / row["file"]).array
        for component in tumor_components(truth.array == TUMOR, predicted == TUMOR, truth.geometry.spacing):
            found["tumors"] += component["outcome"] in ("found", "missed")
            for outcome in ("missed", "false"):
                found[outcome] += component["outcome"] == outcome
    return found


def rediscovered(folder: Path, look: str) -> dict[str, int]:
    """Return what a second look made of the tumors that nobody marked, and what it added or ignored beside them."""
    results = folder / "unmarked" / "results"
    counts = dict.fromkeys(("added", "ignored", "not_predicted", "false_added", "false_ignored"), 0)
    around = np.ones((3, 3, 3))
    for completion in LOOKED_AT:
        for row in read_csv(results / "completed_labels" / f"{completion}_{look}" / "conflicts.csv"):
            name = Path(PhantomLayout().labels).parent / f"{row['case']}.nii.gz"
            marked, truth = (
                read_labels(folder / cohort / name).array == TUMOR for cohort in ("cohort", "cohort_marked")
            )
            made = read_labels(results / row["file"]).array
            unmarked, count = ndimage.label(truth & ~marked, around)
            for number in range(1, count + 1):
                values = made[unmarked == number]
                outcome = (
                    "added" if (values == TUMOR).any() else "ignored" if (values == IGNORE_VALUE).any() else None
                )
                counts[outcome or "not_predicted"] += 1
            for outcome, value in (("false_added", TUMOR), ("false_ignored", IGNORE_VALUE)):
                found, count = ndimage.label((made == value) & ~marked, around)
                counts[outcome] += count - len(set(np.unique(found[truth])) - {0})
    return counts


def run_seed(folder: Path, seed: int) -> dict:
    """Run the arms of a seed."""
    make_cohorts(folder, seed)
    figures: dict = {"cohort": read_json(folder / "cohorts.json")}
    for run, cohort, files in (
        ("unmarked", "cohort", CONFIGURATIONS),
        ("marked", "cohort_marked", [*CONFIGURATIONS, MARKED]),
    ):
        log.info("seed %d: %s", seed, run)
        overrides = {"model_defaults": {"training": {"seed": seed}}, "cohort": str((folder / cohort).absolute())}
        run_workflow(folder / run, files, overrides | {"results": "results"}, ["evaluation"])
    for arm, model in ARMS.items():
        results = folder / ("marked" if arm == "all_marked" else "unmarked") / "results"
        dsc = scores(results, model)
        figures[arm] = {"organs": dsc["organs"], "tumor": dsc.get("tumor", 0.0)}
        figures[arm] |= detection(results, model, folder / "cohort" / "validation-gt")
    figures["rediscovered"] = {arm: rediscovered(folder, look) for arm, look in LOOKS.items()}
    return figures


def summarize(runs: dict[int, dict]) -> dict:
    """Return the arms' figures over the seeds, and the share of the caused misses that each look took away."""
    summary: dict = {}
    for arm in ARMS:
        summary[arm] = {score: interval([run[arm][score] for run in runs.values()]) for score in ("organs", "tumor")}
        summary[arm] |= {name: sum(run[arm][name] for run in runs.values()) for name in ("tumors", "missed", "false")}
    caused = summary["paper"]["missed"] - summary["all_marked"]["missed"]
    looks = {}
    for arm in LOOKS:
        gone = summary["paper"]["missed"] - summary[arm]["missed"]
        found = [run["rediscovered"][arm] for run in runs.values()]
        looks[arm] = {
            "gone": gone,
            "share_gone": round(gone / caused, 3) if caused > 0 else None,
            "rediscovered": {name: sum(row[name] for row in found) for name in found[0]},
        }
    return {"arms": summary, "caused": caused, "looks": looks}


def format_table(summary: dict) -> str:
    """Return the summary for the terminal."""
    lines = [f"{'arm':<14}{'organ DSC':>10}{'tumor DSC':>11}{'missed':>8}{'of':>6}{'false':>7}"]
    for arm, row in summary["arms"].items():
        lines.append(
            f"{arm:<14}{row['organs']['mean']:>10.3f}{row['tumor']['mean']:>11.3f}{row['missed']:>8}{row['tumors']:>6}"
            f"{row['false']:>7}"
        )
    lines.append(f"misses caused by missing marks: {summary['caused']}")
    for arm, look in summary["looks"].items():
        lines.append(f"{arm}: gone {look['gone']}; what became of unmarked tumors: {look['rediscovered']}")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds and summarize them."""
    run_seeds(__doc__, (0, 1, 2), run_seed, summarize, format_table)


if __name__ == "__main__":
    main()
