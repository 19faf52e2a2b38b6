"""How long the report of many validation cases takes to make, and how large it is.

    OMP_NUM_THREADS=1 python benchmarks/report.py [--cases 50] [--folder DIR] [--output FILE]

A results folder is made by hand out of one phantom of 512x512 pixels a slice, its labels moved a little further from
case to case in the predictions; every case goes into the viewer. All cases share one CT and one reference, so a slow
disk is not part of the figure. The page is made without the workflow's own figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import provenance

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.dataset.summary import ALL
from flare23_lib.evaluation.cases import Pair, Scoring
from flare23_lib.evaluation.evaluate import evaluate_cases
from flare23_lib.io.atomic import write_json, write_text
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.phantom import draw_phantom
from flare23_lib.report.page import write_report

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPE, SPACING = (110, 512, 512), (2.5, 0.8, 0.8)


def enlarged(array: np.ndarray) -> np.ndarray:
    """Stretch a volume to the shape by nearest neighbor."""
    index = [np.arange(new) * old // new for new, old in zip(SHAPE, array.shape, strict=True)]
    return array[np.ix_(*index)]


def make_run(folder: Path, config: Config, number: int) -> Results:
    """Write the results folder of a run with so many validation cases."""
    results = Results(folder / "results")
    rng = np.random.default_rng(0)
    phantom = draw_phantom(rng, tumors=True)
    image, labels = enlarged(phantom.image), enlarged(phantom.labels)
    image = (image + rng.normal(0, 12, image.shape)).astype(np.int16)
    affine = np.diag([*SPACING[::-1], 1.0])
    paths = {"image": folder / "image.nii.gz", "label": folder / "label.nii.gz"}
    for path, array in zip(paths.values(), (image, labels), strict=True):
        write_volume(path, array, header_for(array.shape, affine, array.dtype))
    cases, predictions, pairs = [], [], []
    for place in range(number):
        name = f"Case_{place:04d}"
        prediction = results.root / f"store/segmentations/made/{name}.{place:012x}.nii.gz"
        moved = np.roll(labels, place // 2, axis=2)
        prediction.parent.mkdir(parents=True, exist_ok=True)
        write_volume(prediction, moved, header_for(moved.shape, affine, moved.dtype))
        voxels = {int(value): 1 for value in np.unique(labels) if value}
        case = Case(
            name, str(paths["image"]), str(paths["label"]), "validation", voxels, shape=SHAPE, spacing=SPACING
        )
        cases.append(case)
        predictions.append({"case": name, "file": results.relative(prediction)})
        pairs.append(Pair(name, paths["label"], prediction))
    write_cases(results.cases, cases)
    row = {
        "split": "validation",
        "category": "",
        "labels_present": ALL,
        "cases": number,
        "quarantined": 0,
        "voxels": 1,
    }
    write_csv(results.cases.with_name("categories.csv"), list(row), [row])
    for model in config.evaluated:
        write_csv(results.collected("predictions", model), ["case", "file"], predictions)
        evaluate_cases(pairs, Scoring(config.label_map, "plain"), results.root / "evaluation" / model)
        write_json(results.training(model), {"cases": 1, "epochs": 1, "seconds": 1.0, "device": "cpu"})
    return results


def main() -> None:
    """Make the run and its report, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the run goes; a temporary folder without it")
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    changes = {
        "models": {"student_2200": None},
        "evaluation": {"compare": []},
        "report": {"viewer_cases": args.cases},
    }
    config = Config.load([REPOSITORY / "config.yaml"], changes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        results = make_run(folder, config, args.cases)
        library = folder / "niivue"
        library.mkdir(exist_ok=True)
        write_text(library / "niivue.js", " " * 2_300_000)
        write_text(library / "LICENSE.txt", "a stand-in of the library's size\n")
        page = results.root / "report" / "index.html"
        started, cpu = time.perf_counter(), time.process_time()
        write_report(results, config, library, page)
        seconds, processor = time.perf_counter() - started, time.process_time() - cpu
        files = [path for path in page.parent.rglob("*") if path.is_file()]
        figures = {
            "cases": args.cases,
            "shape": SHAPE,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(processor, 1),
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "megabytes_a_case": round(max(path.stat().st_size for path in page.parent.rglob("cases/*.js")) / 1e6, 2),
        }
    print(figures)
    if args.output:
        write_json(args.output, {**provenance(), **figures})


if __name__ == "__main__":
    main()
