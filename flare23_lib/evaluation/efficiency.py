"""Time and memory of single cases: efficiency.csv with the challenge's columns, and a curve per case.

The challenge's columns hold its figures: areas are sums of polls times 0.1 s. Ours follow: the
areas under the curves, and the backends and devices. Memory is in MB of 2**20 bytes, time in
seconds, utilization in percent of all cores. RAM and CPU time are those of the command's own
processes (the challenge takes the whole machine's), GPU memory is that of the whole device, as in
the challenge. What could not be measured is an empty cell.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib import versions
from flare23_lib.cache.entries import MANIFEST, CacheFolder, Entry, Metadata
from flare23_lib.cache.results import Results
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset.cases import usable_cases
from flare23_lib.errors import EvaluationError, listed
from flare23_lib.evaluation.profiling import POLL_SLEEP, Gpu, Profile, find_gpu, profile_command
from flare23_lib.inference.segmentations import ModelUse, model_digest
from flare23_lib.io.atomic import read_json
from flare23_lib.io.locks import lock
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.runtime.devices import choose
from flare23_lib.runtime.machine import available_cores, package_version, processor_name
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

COLUMNS = (
    "Name", "Time", "MaxGPU_Mem", "AUC_GPU_Time", "MaxCPU_Utilization", "AUC_CPU_Time", "MaxRAM", "AUC_RAM_Time",
    "GPU_Area", "CPU_Area", "RAM_Area", "GPU_Before", "GPU_Backend", "RAM_Backend", "GPU", "Cores", "file",
)  # fmt: skip
"""Columns of efficiency.csv; the first eight are the challenge's."""

NO_GPU = "no GPU was measured: its columns are empty"
CURVE = ".curve.csv"
VERSIONS = [versions.EFFICIENCY, versions.SEGMENTATION]


def efficiency_row(name: str, profile: Profile, gpu: Gpu | None, cores: int) -> dict[str, Any]:
    """Return a case's row, from the number of cores that its command could use.

    The first eight columns are the challenge's, rounded as there.
    """
    utilization = profile.utilization(cores)
    return {
        "Name": name,
        "Time": round(float(profile.seconds[-1]), 2),
        "MaxGPU_Mem": _whole(profile.gpu_mb.max()),
        "AUC_GPU_Time": _whole(profile.official_area(profile.gpu_mb)),
        "MaxCPU_Utilization": round(float(utilization.max()), 2),
        "AUC_CPU_Time": round(float(utilization.sum()) * POLL_SLEEP, 2),
        "MaxRAM": round(float(profile.ram_mb.max()), 2),
        "AUC_RAM_Time": _whole(profile.official_area(profile.ram_mb)),
        "GPU_Area": _whole(profile.area(profile.gpu_mb)),
        "CPU_Area": round(100 * float(profile.cpu_seconds[-1]) / cores, 2),
        "RAM_Area": _whole(profile.area(profile.ram_mb)),
        "GPU_Before": _whole(profile.gpu_mb[0]),
        "GPU_Backend": "nvml" if gpu else None,
        "RAM_Backend": "psutil",
        "GPU": gpu.name if gpu else None,
        "Cores": cores,
    }


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else round(float(value))


def format_efficiency(row: Mapping[str, Any]) -> str:
    """Return a case's figures for the terminal."""
    gpu = NO_GPU
    if row["MaxGPU_Mem"] is not None:
        gpu = f"GPU ({row['GPU_Backend']}, whole device) peak {row['MaxGPU_Mem']} MB, area {row['GPU_Area']} MB s"
    return (
        f"{row['Name']}: {row['Time']} s; RAM peak {row['MaxRAM']} MB, area {row['RAM_Area']} MB s; "
        f"CPU area {row['CPU_Area']} % s of {row['Cores']} cores; {gpu}"
    )


def write_curve(path: Path, profile: Profile) -> None:
    """Write the curve of a command: a row per poll and one at the end."""
    columns = ("seconds", "gpu_mb", "ram_mb", "cpu_seconds")
    rows = []
    for seconds, gpu, ram, cpu in zip(*(getattr(profile, column) for column in columns), strict=True):
        cells = f"{seconds:.4f}", "" if np.isnan(gpu) else f"{gpu:.1f}", f"{ram:.1f}", f"{cpu:.2f}"
        rows.append(dict(zip(columns, cells, strict=True)))
    write_csv(path, columns, rows)


def write_efficiency(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write efficiency.csv, sorted by name.

    `file`, the last column, is the case's curve, relative to the results folder (in the workflow)
    or to the table's.
    """
    write_csv(path, COLUMNS, sorted(rows, key=lambda row: row["Name"]))


def read_measurements(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a folder's efficiency.csv, none without one.

    Raises:
        EvaluationError: it has other columns.
        StoreError: it cannot be read.
    """
    table = folder / "efficiency.csv"
    rows = read_csv(table) if table.exists() else []
    if rows and set(rows[0]) != set(COLUMNS):
        raise EvaluationError(f"{table}: has other columns than those measured here; give another folder")
    return rows


def add_measurement(folder: Path, row: Mapping[str, Any], profile: Profile) -> Path:
    """Add a case to a folder's efficiency.csv, in place of one of the same name, and its curve; return the table.

    Raises EvaluationError and StoreError as `read_measurements`.
    """
    table, file = folder / "efficiency.csv", f"curves/{row['Name']}.csv"
    with lock(folder / ".lock"):
        others = [other for other in read_measurements(folder) if other["Name"] != row["Name"]]
        write_curve(folder / file, profile)
        write_efficiency(table, [{**row, "file": file}, *others])
    return table


# The stage


def measured_folders(results: Results, digest: str | None, inference: InferenceSettings) -> list[Path]:
    """Return the folders of a model's measurements with these settings, under all conditions."""
    wanted = _key(digest, inference).items()
    manifests = (results.root / "store" / "efficiency").glob(f"*/{MANIFEST}")
    keys = {manifest.parent: CacheFolder(manifest.parent).read_key() for manifest in manifests}
    return [folder for folder, key in keys.items() if key is not None and key.items() >= wanted]


def _key(digest: str | None, inference: InferenceSettings) -> dict[str, Any]:
    return {"version": VERSIONS, "model": digest, "inference": inference.to_json()}


def _conditions(device: str, threads: int, gpu: Gpu | None) -> dict[str, Any]:
    """Return what beside model and case determines a measurement: device, machine, threads, versions of packages."""
    return {
        "device": device,
        "gpu": gpu.name if gpu else None,
        "machine": {"processor": processor_name(), "cores": available_cores()},
        "threads": threads,
        "versions": {package: package_version(package) for package in ("flare23_lib", "torch", "numpy")},
    }


def measure(results: Results, model: ModelUse, cases: int, output: Path) -> None:
    """Measure the inference of a model on the first validation cases by name, each in a fresh process.

    Earlier measurements with the same model, device and machine are kept. The column `file` of the table `output`
    has the curves' paths, relative to the results.

    Raises:
        EvaluationError: there is no validation case, or predictions failed.
        ConfigError: there is no such device (see `devices.choose`).
    """
    chosen = usable_cases(results.cases, "validation")[:cases]
    if not chosen:
        raise EvaluationError(f"{results.cases}: no validation case to measure; set evaluation.efficiency_cases: 0")
    used = choose(model.device, claimed=1)
    gpu = find_gpu(position=used.index or 0) if used.type == "cuda" else None  # an idle GPU would mislead
    if gpu is None:
        log.info(NO_GPU)
    key = _key(model_digest(read_json(results.model_file(model.name))), model.inference)
    folder = results.cache("efficiency", {**key, "conditions": _conditions(used.type, model.threads, gpu)}).create()
    rows, failed = [], []
    with folder.lock("cases"):
        for case in progress(chosen):
            entry = folder.entry(case.case, {"image": case.image_id})
            metadata = entry.load()
            if metadata is None:
                command = predict_command(results.bundle(model.name), Path(case.image), model)
                try:
                    metadata = _measure_case(case.case, command, gpu, entry)
                except EvaluationError as error:
                    log.error("%s", error)
                    failed.append(case.case)
                    continue
            rows.append({**metadata["results"], "file": results.relative(entry.file(CURVE))})
    if failed:
        raise EvaluationError(f"{len(failed)} predictions of {model.name} failed: {listed(failed)}; see the log")
    write_efficiency(output, rows)


def predict_command(bundle: Path, image: Path, model: ModelUse) -> list[str]:
    """Return the command that segments one image, without its `--output`."""
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", str(bundle), "--input", str(image)]
    options = ["--device", model.device, "--threads", str(model.threads), "--precision", model.inference.precision]
    return [*command, *options]


def _measure_case(name: str, command: Sequence[str], gpu: Gpu | None, entry: Entry) -> Metadata:
    """Run one prediction and save its curve and row; EvaluationError if it failed."""
    with tempfile.TemporaryDirectory(prefix="flare23-") as temporary:
        messages, labels = Path(temporary) / "messages.txt", Path(temporary) / "labels"
        with messages.open("wb") as handle:
            profile, code = profile_command([*command, "--output", str(labels)], gpu, handle)
        if code or not any(labels.glob("*.nii.gz")):
            lines = messages.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise EvaluationError(f"{name}: the prediction failed: {lines[-1] if lines else f'exit code {code}'}")
    row = efficiency_row(name, profile, gpu, available_cores())
    write_curve(entry.file(CURVE), profile)
    log.info("%s", format_efficiency(row))
    return entry.save([CURVE], row)
