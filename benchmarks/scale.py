"""Do planning, a run with nothing to do, and `flare23 verify` stay quick for 400, 4,000 and 40,000 cases?

For each size it writes a cohort of tiny files in FLARE23's proportions, scans it, and lays out a finished results
folder of the paper's recipe with the workflow's own functions: every record and every note, while the heavy files
hold a few bytes and the networks, whose weights `flare23 verify` reads, are tiny. That the layout is right is not
taken on trust: `flare23 status` must find nothing to do. Then it times, as a user would run them: the dry run of a
fresh start, a dry run and a run with nothing to do, `flare23 status` and `flare23 verify`.

    python benchmarks/scale.py --output benchmarks/results/scale.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from provenance import provenance
from training import TINY

from flare23_lib.cache.entries import Entry, Shard, checksum
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, read_cases
from flare23_lib.inference import segmentations
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.io import nifti
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet import train
from flare23_lib.nnunet.training_job import WEIGHTS, TrainingJob
from flare23_lib.preprocessing import preprocess_cases
from flare23_lib.pseudo_labels import complete
from flare23_lib.pseudo_labels.merge import OUTCOMES

REPOSITORY = Path(__file__).resolve().parent.parent
SHARES: dict[str, tuple[float, Sequence[int]]] = {
    "tumor": (0.374, (14,)),
    "all_organs": (0.0625, range(1, 14)),
    "five_organs": (0.113, (1, 2, 3, 4, 13)),
}
VALIDATION = 50
OWN = "tiny.yaml"
"""The file of what differs from the recipe: the networks."""


def command(*arguments: str, folder: Path) -> tuple[float, str]:
    """Run a command of the environment in a folder; return seconds and what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begun = time.perf_counter()
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return round(time.perf_counter() - begun, 2), done.stdout + done.stderr


def snakemake(folder: Path, *arguments: str, results: str = "results") -> tuple[float, str]:
    """Run snakemake on the benchmark's cohort."""
    return command(
        "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2", "--workflow-profile",
        str(REPOSITORY / "profiles" / "default"), "--quiet", "rules", "--configfile", OWN,
        "--config", "cohort=cohort", f"results={results}", *arguments, folder=folder,
    )  # fmt: skip


def flare23(folder: Path, *arguments: str) -> tuple[float, str]:
    """Run flare23 on the benchmark's cohort."""
    return command(
        "flare23", *arguments, "--base-config", str(REPOSITORY / "config.yaml"), "--configfile", OWN,
        "--config", "cohort=cohort", "results=results", folder=folder,
    )  # fmt: skip


def write_cohort(folder: Path, number: int) -> None:
    """Write images and labels of a few voxels; no two images are equal."""
    random = np.random.default_rng(0)
    image = nifti.header_for((2, 4, 4), np.diag([-2.0, -2.0, 5.0, 1.0]), np.dtype(np.int16))
    label = nifti.header_for((2, 4, 4), np.diag([-2.0, -2.0, 5.0, 1.0]), np.dtype(np.uint8))
    kinds: list[Sequence[int] | None] = [
        values for share, values in SHARES.values() for _ in range(round(share * number))
    ]
    kinds += [None] * (number - len(kinds))
    for index, values in enumerate(kinds):
        name = f"FLARE23_{index:05}"
        where = "unlabelTr1800" if values is None else "imagesTr2200"
        write(folder / where / f"{name}_0000.nii.gz", random.integers(-1000, 1000, (2, 4, 4)).astype(np.int16), image)
        if values is not None:
            array = np.zeros((2, 4, 4), np.uint8)
            array.ravel()[: len(values)] = values
            write(folder / "labelsTr2200" / f"{name}.nii.gz", array, label)
    for index in range(VALIDATION):
        array = random.integers(-1000, 1000, (2, 4, 4)).astype(np.int16)
        write(folder / "validation" / f"FLARE23Ts_{index:04}_0000.nii.gz", array, image)


def write(path: Path, array: np.ndarray, header) -> None:
    """Write a volume without the care (and the time) of an atomic write."""
    header["vox_offset"] = 352
    raw = header.binaryblock.ljust(352, b"\0") + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti.igzip.compress(raw, compresslevel=1, mtime=0))


class Finished:
    """Lays out what a finished run leaves, case by case, with the workflow's own names and records."""

    def __init__(self, config: Config, results: Results) -> None:
        self.config = config
        self.results = results
        self.cases = read_cases(results.cases)
        if not all(case.usable for case in self.cases):
            raise SystemExit("a case is in quarantine")
        self.digests: dict[str, str] = {}
        self.files = 0

    def lay_out(self) -> None:
        """Write everything, in the order of the workflow."""
        for table, name in self.config.order():
            if table == "models":
                self._model(name)
            else:
                self._completion(name)

    def _entry(self, entry: Entry, suffixes: Sequence[str], results: Mapping) -> None:
        entry.folder.create()
        for suffix in suffixes:
            entry.file(suffix).write_bytes(b"as heavy as it need be")
        checksums = {suffix: checksum(entry.file(suffix)) for suffix in suffixes}
        metadata = {"inputs": dict(entry.inputs), "files": checksums, "results": results}
        entry.metadata_path.write_text(json.dumps(metadata, indent=2))
        self.files += len(suffixes)

    def _records(self, stage: str, name: str, columns: Sequence[str], rows: Sequence[Mapping], shards: int) -> None:
        for index in range(shards):
            chosen = [row for row in rows if row["case"] in Shard(index, shards)]
            write_record(self.results.shard(stage, name, Shard(index, shards)), columns, chosen)

    def _model(self, name: str) -> None:
        settings = self.config.preprocessing_settings(name)
        rows = []
        for case in preprocess_cases.training_set(self.results, settings):
            image = preprocess_cases.image_entry(self.results, settings, case.case)
            self._entry(image, [".b2nd"], {})
            label = preprocess_cases.label_entry(self.results, settings, case)
            self._entry(label, [".b2nd", ".pkl"], {"labels_present": [1, 14]})
            row = preprocess_cases.record_row(self.results, settings, case)
            rows.append({**row, "labels_present": "1 14"})
        self._records("preprocessed", name, preprocess_cases.COLUMNS, rows, self.config.shards.preprocessing)
        self._train(name, rows)
        if name in self.config.evaluated:
            cases = [case for case in self.cases if case.split == "validation"]
            self._segment("predictions", name, name, cases)
            output = self.results.collected("predictions", name)
            segmentations.collect_predictions(self.results, name, self.config.shards.predictions, output)

    def _train(self, name: str, rows: Sequence[Mapping]) -> None:
        settings, labels = self.config.training_settings(name), self.config.label_map.labels
        entry = TrainingJob(self.results, name, settings, self.config.label_map.names, rows).weights
        described = train.describe(name, settings, self.config.inference_settings(name), labels, "")
        network = STUNet(1, len(described.labels), **settings.network.to_json())
        write_bundle(self.results.bundle(name), described, network.state_dict())
        model = read_json(self.results.bundle(name) / "model.json")
        self._entry(entry, [WEIGHTS], {"weights_sha256": model["weights"]["sha256"]})
        record = {"model": name, "weights": self.results.relative(entry.file(WEIGHTS)), "labels_unseen": []}
        write_json(self.results.training(name), record)
        self.digests[name] = segmentations.model_digest(model)

    def _segment(self, stage: str, name: str, model: str, cases: Sequence[Case]) -> None:
        folder = segmentations.segmentation_folder(
            self.results, self.digests[model], self.config.inference_settings(model)
        )
        self.made = []
        for case in cases:
            entry = segmentations.segmentation_entry(folder, case)
            self._entry(entry, [segmentations.LABELS], {"agreement": {}, "timings": {"windows": 1.0}})
            self.made.append(self.results.relative(entry.file(segmentations.LABELS)))
        rows = [{"case": case.case, "file": file} for case, file in zip(cases, self.made, strict=True)]
        shards = self.config.shards.predictions if stage == "predictions" else self.config.shards.pseudo_labels
        self._records(stage, name, ["case", "file"], rows, shards)

    def _completion(self, name: str) -> None:
        settings = self.config.completion_settings(name)
        cases = [case for case in self.cases if case.usable and case.category == settings.category]
        self._segment("pseudo_labels", name, self.config.completions[name].teacher, cases)
        folder = complete.completion_folder(self.results, settings)
        columns = complete.columns_of(self.config.label_map.names)
        counts = {outcome: {"1": 1, "14": 1} for outcome in OUTCOMES}
        rows = []
        for case, prediction in zip(cases, self.made, strict=True):
            entry = complete.completed_entry(folder, case, prediction, {})
            measures = {
                "voxels": 32, "background": 30, "counts": counts, "pairs": [[0, 0, 30], [0, 1, 1], [14, 14, 1]],
                "specks": {}, "labels_present": [1, 14],
            }  # fmt: skip
            self._entry(entry, [complete.LABELS], measures)
            file = self.results.relative(entry.file(complete.LABELS))
            row = dict.fromkeys(columns, 0) | {"case": case.case, "file": file, "labels_present": "1 14"}
            rows.append(row)
        shards, output = self.config.shards.pseudo_labels, self.results.collected("completed_labels", name)
        self._records("completed_labels", name, columns, rows, shards)
        job = complete.CompletionJob(self.results, name, None, settings, self.config.label_map.names)
        complete.collect_completed(job, shards, output, output.with_name("confusion.csv"))


def measure(folder: Path, number: int) -> dict:
    """Return the figures for a number of cases."""
    write_cohort(folder / "cohort", number)
    recipe = REPOSITORY / "config.yaml"
    tiny = {"models": dict.fromkeys(Config.load([recipe]).models, TINY)}
    (folder / OWN).write_text(yaml.safe_dump(tiny), encoding="utf-8")
    planned, said = snakemake(folder, "--dry-run", results="fresh")
    jobs = next(int(line.split()[-1]) for line in said.splitlines() if line.startswith("total"))
    config = Config.load([recipe, folder / OWN], {"cohort": "cohort", "results": str(folder / "results")})
    scanned, _ = snakemake(folder, "--", "results/cohort/cases.csv")
    finished = Finished(config, Results(folder / "results"))
    finished.lay_out()
    for line in snakemake(folder, "--summary")[1].splitlines():
        output = folder / line.split("\t")[0]
        if line.startswith("results/") and not output.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
    snakemake(folder, "--touch")
    status, said = flare23(folder, "status")
    if "computes nothing" not in said:
        raise SystemExit(f"the layout is not a finished run's:\n{said}")
    dry, said = snakemake(folder, "--dry-run")
    noop, said = snakemake(folder)
    if "Nothing to be done" not in said:
        raise SystemExit(f"the layout is not a finished run's:\n{said}")
    verified, said = flare23(folder, "verify")
    return {
        "cases": number,
        "jobs": jobs,
        "files_in_store": finished.files,
        "plan_of_a_fresh_run_s": planned,
        "scan_of_tiny_files_s": scanned,
        "dry_run_with_nothing_to_do_s": dry,
        "run_with_nothing_to_do_s": noop,
        "status_s": status,
        "verify_s": verified,
        "verify_said": said.strip().splitlines()[-1],
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[400, 4000, 40000])
    parser.add_argument("--folder", type=Path, help="work here and leave everything (default: a temporary folder)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = {**provenance(), "sizes": []}
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in args.cases:
            folder = root.absolute() / str(number)
            folder.mkdir(parents=True)
            found["sizes"].append(measure(folder, number))
            print(json.dumps(found["sizes"][-1], indent=2), flush=True)
    first, last = found["sizes"][0], found["sizes"][-1]
    ratio = last["plan_of_a_fresh_run_s"] / first["plan_of_a_fresh_run_s"]
    print(f"planning {last['cases']} cases / planning {first['cases']} cases = {ratio:.2f}")
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
