"""Does a cohort in five sources with numbers of their own cost more to find, scan and plan than one in one source?

It writes as many tiny cases twice: in FLARE23's layout, and in five folders, of which one has masks and one sides.
It times, in CPU seconds of one process, finding the files, a first scan and a second one that reads nothing; and the
dry run of a fresh start, as a user would run it.

    python benchmarks/sources.py --cases 40000 --output benchmarks/results/sources.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provenance import provenance
from scale import REPOSITORY, command, write, write_cohort

from flare23_lib.config import Config
from flare23_lib.config.load import merge, read_yaml
from flare23_lib.dataset.discover import find
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.io import nifti
from flare23_lib.io.atomic import write_json

SHAPE = (2, 4, 4)
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])
VALUES: dict[str, dict[str, str | dict[str, list[str]]]] = {
    "a": {"1": "liver", "2": "spleen"},
    "b": {"5": "liver", "7": "spleen"},
    "c": {"1": "liver", "2": {"sides": ["right_kidney", "left_kidney"]}},
    "d": {"liver": "liver", "spleen": "spleen"},
    "e": {"3": "liver", "4": "tumor", "9": "ignore"},
}


def write_five(folder: Path, number: int) -> dict[str, Any]:
    """Write the cases of five sources, no two images equal, and return a configuration for them."""
    random = np.random.default_rng(1)
    headers = {kind: nifti.header_for(SHAPE, AFFINE, np.dtype(kind)) for kind in (np.int16, np.uint8)}
    sources: dict[str, Any] = {}
    for name, values in VALUES.items():
        keys = list(values)
        for index in range(number // len(VALUES)):
            image = random.integers(-1000, 1000, SHAPE).astype(np.int16)
            write(folder / name / f"images/{index:05}.nii.gz", image, headers[np.int16])
            for place, value in enumerate(keys):
                array = np.zeros(SHAPE, np.uint8)
                array[:, 0, place] = 1 if name == "d" else int(value)
                if name == "d":
                    write(folder / name / f"masks/{index:05}/{value}.nii.gz", array, headers[np.uint8])
                elif place == 1:
                    array[:, 1, 0] = int(keys[0])
                    write(folder / name / f"labels/{index:05}.nii.gz", array, headers[np.uint8])
        labels = {"masks": f"{name}/masks/{{case}}/{{mask}}.nii.gz"} if name == "d" else {
            "labels": f"{name}/labels/{{case}}.nii.gz"
        }  # fmt: skip
        sources[name] = {"images": f"{name}/images/{{case}}.nii.gz", "values": values, **labels}
    names = ["liver", "spleen", "right_kidney", "left_kidney", "tumor"]
    recipe = read_yaml(REPOSITORY / "config.yaml")
    student = merge(recipe["model_defaults"], recipe["models"]["student"])
    return {
        "recipe": "none",
        "cohort": "cohort",
        "labels": [{"name": name, "value": value, "tolerance_mm": 2} for value, name in enumerate(names, start=1)],
        "sources": sources,
        "validation": {"share": 0.05},
        "categories": [{"name": name, "sources": [name]} for name in VALUES],
        "models": {
            "student": merge(
                student,
                {
                    "train_on": {"label_completions": [], "manual_labels": list(VALUES)},
                    "training": {"loss": "label_sets"},
                },
            )
        },
    }


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a function, and its result."""
    begun = time.process_time()
    result = run()
    return round(time.process_time() - begun, 2), result


def measure(folder: Path, own: Path | None) -> dict[str, Any]:
    """Return the figures of a cohort in a folder."""
    files = [REPOSITORY / "config.yaml", *([own] if own else [])]
    config = Config.load(files, {"cohort": str(folder / "cohort")})
    found, files_found = cpu_seconds(lambda: find(Path(config.cohort), config.sources))
    scans = [cpu_seconds(lambda: scan_cohort(Path(config.cohort), config.cohort_settings(), folder / "memory"))
             for _ in range(2)]  # fmt: skip
    scan = scans[0][1]
    options = ["--configfile", str(own)] if own else []
    planned, _ = command(
        "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2", "--workflow-profile",
        str(REPOSITORY / "profiles" / "default"), "--quiet", "rules", "--dry-run", *options, "--config",
        "cohort=cohort", "results=fresh", folder=folder,
    )  # fmt: skip
    return {
        "cases": len(scan.cases),
        "files": len(files_found.files()),
        "quarantined": sum(not case.usable for case in scan.cases),
        "find_cpu_s": found,
        "first_scan_cpu_s": scans[0][0],
        "second_scan_cpu_s": scans[1][0],
        "plan_of_a_fresh_run_s": planned,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        one, five = Path(root) / "one", Path(root) / "five"
        write_cohort(one / "cohort", args.cases)
        own = five / "own.yaml"
        own.parent.mkdir()
        own.write_text(yaml.safe_dump(write_five(five / "cohort", args.cases), sort_keys=False), encoding="utf-8")
        found = {**provenance(), "one_source": measure(one, None), "five_sources": measure(five, own)}
        print(json.dumps(found, indent=2), flush=True)  # removing 150,000 files takes longer than reading them
        if args.output:
            write_json(args.output, found)


if __name__ == "__main__":
    main()
