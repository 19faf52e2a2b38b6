"""Does the student learn from the pseudo-labels, or would any labels do?

Trains the student of a finished run once more, in the same way, on pseudo-labels that were dealt to the wrong cases
(turned by one within each completion, fitted to the image's size by nearest neighbor, merged under the original
annotations by the same rules), and prints both students' scores.

    flare23 phantoms --output demo/cohort && snakemake --cores 2 --configfile presets/demo.yaml
    python benchmarks/shuffled_labels.py --configfile presets/demo.yaml --output FILE
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from pathlib import Path

import numpy as np
from provenance import provenance

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import read_cases
from flare23_lib.evaluation.evaluate import evaluate
from flare23_lib.evaluation.tables import format_summary
from flare23_lib.inference.segmentations import ModelUse, collect_predictions, predict_validation
from flare23_lib.io.atomic import write_json
from flare23_lib.io.nifti import read_labels, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.nnunet.train import TrainingRuntime, export, train
from flare23_lib.nnunet.training_job import training_job
from flare23_lib.preprocessing.preprocess_cases import preprocess
from flare23_lib.pseudo_labels.merge import MergeRules, merge
from flare23_lib.pseudo_labels.pseudo_label import annotated_labels

ALL = Shard(0, 1)


def fitted(labels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Stretch a label map to a shape by nearest neighbor."""
    index = [np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
             for old, new in zip(labels.shape, shape, strict=True)]  # fmt: skip
    return labels[np.ix_(*index)]


def shuffle(config: Config, real: Results, other: Results, completion: str) -> None:
    """Write a completion's labels again, each case's merged with another case's pseudo-label."""
    settings = config.completion_settings(completion)
    cases = {case.case: case for case in read_cases(real.cases)}
    pseudo = [
        row for path in sorted((real.root / "pseudo_labels" / completion).glob("*.csv")) for row in read_csv(path)
    ]
    rows = []
    for row, wrong in zip(pseudo, pseudo[1:] + pseudo[:1], strict=True):
        case = cases[row["case"]]
        own = read_labels(real.root / row["file"])
        predicted = fitted(read_labels(real.root / wrong["file"]).array, own.array.shape)
        original = read_labels(case.label).array if case.label else np.zeros_like(own.array)
        annotated = annotated_labels(settings.annotated, case, {})
        merged = merge(original, predicted, annotated, MergeRules.of(settings, tumors=settings.tumor_values))
        file = f"store/shuffled/{completion}/{case.case}.nii.gz"
        write_volume(other.root / file, merged.labels, own.header)
        present = sorted({*np.unique(merged.labels).tolist()} - {0, IGNORE_VALUE})
        rows.append({"case": case.case, "file": file, "labels_present": " ".join(map(str, present))})
    write_csv(other.collected("completed_labels", completion), ["case", "file", "labels_present"], rows)


def main() -> None:
    """Train the student on shuffled labels and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, required=True, help="of the finished run")
    parser.add_argument("--model", default="student")
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = Config.load([Path("config.yaml"), args.configfile])
    threads = len(os.sched_getaffinity(0))
    real = Results(Path(config.results))
    other = Results(real.root.with_name(real.root.name + "_shuffled"))
    shutil.rmtree(other.root, ignore_errors=True)
    other.cases.parent.mkdir(parents=True)
    shutil.copy(real.cases, other.cases)
    model, names = args.model, config.label_map.names
    for completion in config.models[model].train_on.label_completions:
        shuffle(config, real, other, completion)
    record = other.shard("preprocessed", model, ALL)
    preprocess(other, config.preprocessing_settings(model), config.models[model].patch_size, ALL, record)
    job = training_job(other, model, config.training_settings(model), names, 1)
    history = other.training(model).with_name("training.csv")
    train(job, TrainingRuntime(config.device, threads), None, other.training(model), history)
    inference = config.inference_settings(model)
    export(other, model, inference, config.label_map.labels, other.bundle(model))
    use = ModelUse(model, inference, config.device, threads)
    predict_validation(other, use, ALL, other.shard("predictions", model, ALL))
    collect_predictions(other, model, 1, other.collected("predictions", model))
    summary = other.summary(model)
    evaluate(other, model, config.evaluation_settings(), summary.parent, threads)

    scores = {}
    for name, path in (("pseudo-labels", real.root / "evaluation" / model / "summary.csv"), ("shuffled", summary)):
        scores[name] = {row["class"]: float(row["DSC_mean"] or "nan") for row in read_csv(path)}
        print(f"{name}\n{format_summary(path)}\n")
    ratio = scores["shuffled"]["organs"] / scores["pseudo-labels"]["organs"]
    print(f"shuffled pseudo-labels leave {ratio:.2f} of the organs' mean DSC")
    if args.output:
        write_json(
            args.output,
            {
                **provenance(),
                "configuration": str(args.configfile),
                "DSC": scores,
                "ratio": round(ratio, 4),
            },
        )


if __name__ == "__main__":
    main()
