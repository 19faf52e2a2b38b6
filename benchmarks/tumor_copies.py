"""Whether tumors that are copied into training cases without any help to find tumors.

    python benchmarks/tumor_copies.py --folder FOLDER [--seeds 0 1] [--output FILE]

Phantoms in which all tumors are labeled, and the organs that can have them, as one: 16 training cases, every other
one without tumors, and 24 validation cases, every third one without. Two networks differ in `copy_tumors` alone
(`tumor_copies.yaml`); a seed makes another cohort and other trainings. What a folder holds is not made again.

Measured is how many of the validation tumors are found at a fixed number of false positives per case. The probability
of a tumor (softmax of the windows' averaged logits) is cut at each of `THRESHOLDS`, on the grid of the model. A tumor
(a component of the reference) is found if one of its voxels is over the threshold; a component over it without a
voxel of the reference is a false positive. The sensitivity at a limit is the largest of all thresholds at which there
are no more false positives per case, validation cases without tumors included.

Endpoint: the mean over the seeds of the sensitivity at 1 false positive per case, with against without. It has risen
if the mean difference is above 0 and no seed's is below. Sensitivity at 0.5 and 2, and what the labels of largest
probability give, are beside it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from phantom_runs import REPOSITORY, interval, run_seeds, run_workflow

from flare23_lib.evaluation.details import tumor_components
from flare23_lib.inference.bundle import load_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.inference.network import WindowNetwork
from flare23_lib.inference.windows import all_windows, importance_map, pad_to_patch
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.nifti import header_for, read_labels, read_volume, write_volume
from flare23_lib.phantom import FLARE23_VALUES, PhantomLayout, draw_phantom
from flare23_lib.phantom.anatomy import TUMOR_HOSTS
from flare23_lib.preprocessing.resampling import resample_labels

log = logging.getLogger(__name__)

ORGAN, TUMOR = 1, 2
"""Values in label files."""

LAYOUT = PhantomLayout()
TRAINING, VALIDATION = 16, 24
ARMS = ("without", "with")
LIMITS = (0.5, 1.0, 2.0)
"""False positives per case; the endpoint is at the second."""

THRESHOLDS = (0.02, *np.round(np.arange(0.05, 1, 0.05), 2).tolist(), 0.98)
STEP = 0.75
"""Distance of windows, in patch sizes."""

CONFIGURATIONS = [REPOSITORY / "presets" / "demo.yaml", REPOSITORY / "benchmarks" / "tumor_copies.yaml"]


def make_cohort(folder: Path, seed: int) -> None:
    """Write the training and validation cases."""
    kept = np.zeros(256, np.uint8)
    kept[[FLARE23_VALUES[name] for name in TUMOR_HOSTS]] = ORGAN
    kept[FLARE23_VALUES["tumor"]] = TUMOR
    for split, (count, image, label) in enumerate(
        (
            (TRAINING, LAYOUT.images, LAYOUT.labels),
            (VALIDATION, LAYOUT.validation_images, LAYOUT.validation_labels),
        )
    ):
        for index in range(count):
            tumors = index % 3 != 2 if split else index % 2 == 0
            phantom = draw_phantom(np.random.default_rng([seed, 11, split, index]), tumors=tumors)
            for pattern, array in ((image, phantom.image), (label, kept[phantom.labels])):
                path = folder / pattern.format(number=index + 1)
                if not path.exists():
                    write_volume(path, array, header_for(array.shape, phantom.affine, array.dtype))


def probabilities(engine: Engine, network: WindowNetwork, volume: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the probability of a tumor and whether it is the largest one, (z, y, x) of the model's grid, and the
    engine's prepared image."""
    prepared = engine.prepare(volume)
    patch = engine.model.patch_size
    image, box = pad_to_patch(prepared.image, patch)
    weights = importance_map(patch)[..., None]
    sums = torch.zeros(*image.shape, len(engine.model.labels))
    total = torch.zeros(*image.shape, 1)
    with torch.inference_mode():
        for slab in all_windows(image.shape, patch, STEP):
            for window in slab.windows:
                sums[window] += weights * network(image[window][None])[0].float()
                total[window] += weights
    shares = torch.softmax(sums / total, -1)[box].numpy()
    tumor = engine.model.values.index(TUMOR)
    return shares[..., tumor], shares.argmax(-1) == tumor, prepared


def detect(bundle: Path, cohort: Path) -> dict[str, Any]:
    """Return tumors, cases, and found tumors and false positives at each threshold and at the largest probability."""
    model = load_bundle(bundle)
    engine, network = Engine(model), WindowNetwork(model.build_network(), torch.device("cpu"), "float32")
    found = {key: {"found": 0, "false": 0} for key in ("largest", *THRESHOLDS)}
    tumors, dice = 0, []
    for index in range(VALIDATION):
        volume = read_volume(cohort / LAYOUT.validation_images.format(number=index + 1))
        truth = read_labels(cohort / LAYOUT.validation_labels.format(number=index + 1)).array
        share, largest, prepared = probabilities(engine, network, volume)
        turned = np.ascontiguousarray(prepared.orientation.forward(truth))
        reference = resample_labels(torch.from_numpy(turned), share.shape).numpy() == TUMOR
        for key, counts in found.items():
            predicted = largest if key == "largest" else share >= key
            rows = tumor_components(reference, predicted, engine.model.spacing)
            counts["found"] += sum(row["outcome"] == "found" for row in rows)
            counts["false"] += sum(row["outcome"] == "false" for row in rows)
            tumors += key == "largest" and sum(row["side"] == "reference" for row in rows)
        if reference.any():
            dice.append(2 * float((reference & largest).sum()) / float(reference.sum() + largest.sum()))
    return {
        "tumors": tumors,
        "cases": VALIDATION,
        "dice_of_cases_with_tumors": round(float(np.mean(dice)), 4),
        "thresholds": {str(key): counts for key, counts in found.items()},
    }


def sensitivities(figures: dict[str, Any]) -> dict[str, float]:
    """Return the sensitivity at each limit of false positives per case; 0 if no threshold keeps it."""
    cut = [counts for key, counts in figures["thresholds"].items() if key != "largest"]
    return {
        str(limit): max(
            (one["found"] / figures["tumors"] for one in cut if one["false"] / figures["cases"] <= limit), default=0.0
        )
        for limit in LIMITS
    }


def run_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Train the arms of a seed, and find the tumors of its validation cases."""
    cohort = (folder / "cohort").absolute()
    make_cohort(cohort, seed)
    overrides = {"model_defaults": {"training": {"seed": seed}}, "cohort": str(cohort), "results": "results"}
    log.info("seed %d", seed)
    run_workflow(folder, CONFIGURATIONS, overrides, [f"results/models/{arm}/model.json" for arm in ARMS])
    figures = {}
    for arm in ARMS:
        kept = folder / f"{arm}.json"
        if not kept.exists():
            record = read_json(folder / "results" / "training" / arm / "training.json")
            found = detect(folder / "results" / "models" / arm, cohort)
            write_json(kept, {**found, "training_seconds": record["seconds"]})
        figures[arm] = read_json(kept)
        figures[arm]["sensitivity"] = sensitivities(figures[arm])
    return figures


def summarize(runs: dict[int, dict]) -> dict[str, Any]:
    """Return the mean sensitivities of the arms over the seeds, and their paired differences."""
    summary: dict[str, Any] = {}
    for arm in ARMS:
        largest = [run[arm]["thresholds"]["largest"] for run in runs.values()]
        tumors, cases = (sum(run[arm][name] for run in runs.values()) for name in ("tumors", "cases"))
        summary[arm] = {
            "sensitivity": {
                str(limit): interval([run[arm]["sensitivity"][str(limit)] for run in runs.values()])
                for limit in LIMITS
            },
            "tumors": tumors,
            "largest": {
                "sensitivity": round(sum(one["found"] for one in largest) / tumors, 4),
                "false_per_case": round(sum(one["false"] for one in largest) / cases, 3),
                "dice": round(float(np.mean([run[arm]["dice_of_cases_with_tumors"] for run in runs.values()])), 4),
            },
        }
    paired = {
        str(limit): [
            round(run["with"]["sensitivity"][str(limit)] - run["without"]["sensitivity"][str(limit)], 4)
            for run in runs.values()
        ]
        for limit in LIMITS
    }
    endpoint = paired[str(LIMITS[1])]
    return {"arms": summary, "difference": paired, "risen": float(np.mean(endpoint)) > 0 <= min(endpoint)}


def format_table(summary: dict[str, Any]) -> str:
    """Return the summary for the terminal."""
    lines = [f"{'arm':<9}" + "".join(f"{f'at {limit:g}':>8}" for limit in LIMITS) + "   largest: found, false, DSC"]
    for arm, row in summary["arms"].items():
        at = "".join(f"{row['sensitivity'][str(limit)]['mean']:>8.3f}" for limit in LIMITS)
        largest = row["largest"]
        lines.append(
            f"{arm:<9}{at}{largest['sensitivity']:>17.3f}{largest['false_per_case']:>7.2f}{largest['dice']:>7.3f}"
        )
    lines.append(f"differences by seed: {summary['difference']}; risen: {summary['risen']}")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds and summarize them."""
    run_seeds(__doc__, (0, 1), run_seed, summarize, format_table)


if __name__ == "__main__":
    main()
