"""Stage: what a model takes for one validation case at a time, each in a fresh process, as in the challenge."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flare23_lib import versions
from flare23_lib.cache.entries import MANIFEST, Entry, Metadata
from flare23_lib.cache.results import Results
from flare23_lib.config.models import InferenceSettings
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.efficiency import (
    CURVES,
    NO_GPU,
    efficiency_row,
    format_efficiency,
    write_curve,
    write_efficiency,
)
from flare23_lib.evaluation.profiling import Gpu, find_gpu, profile_command
from flare23_lib.inference.segment_cases import model_digest
from flare23_lib.io.atomic import link_to, read_json
from flare23_lib.runtime.devices import choose
from flare23_lib.runtime.machine import available_cores, processor_name
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

CURVE = ".curve.csv"
VERSIONS = [versions.EFFICIENCY, versions.SEGMENTATION]


def measured_on(device: str, threads: int, gpu: Gpu | None) -> dict[str, Any]:
    """Return what beside model and case shapes a measurement: device, machine, threads, and the versions that ran."""
    versions = {}
    for package in ("flare23_lib", "torch", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "device": device,
        "gpu": gpu.name if gpu else None,
        "machine": {"processor": processor_name(), "cores": available_cores()},
        "threads": threads,
        "versions": versions,
    }


def measured_folders(results: Results, digest: str | None, inference: InferenceSettings) -> list[Path]:
    """Return the folders of what a model took with these settings, under whatever conditions it was measured."""
    wanted = {"version": VERSIONS, "model": digest, "inference": inference.to_json()}
    return [
        manifest.parent
        for manifest in (results.root / "store" / "efficiency").glob(f"*/{MANIFEST}")
        if read_json(manifest)["key"].items() >= wanted.items()
    ]


def measured_cases(results: Results, number: int) -> list[Case]:
    """Return the validation cases that are measured: the first ones by name."""
    return usable_cases(results.cases, "validation")[:number]


def measure(
    results: Results,
    model: str,
    inference: InferenceSettings,
    cases: int,
    device: str,
    threads: int,
    output: Path,
) -> None:
    """Measure the inference of a model on its validation cases, one after the other.

    Measurements that were taken before with the same model, device and machine are kept.

    Args:
        results: the results folder.
        model: its name.
        inference: how the model is used (its bundle's default).
        cases: how many cases are measured.
        device: as `devices.choose`.
        threads: threads that a prediction may use.
        output: the table; the curves are linked into a folder beside it.

    Raises:
        EvaluationError: there is no validation case, or predictions failed.
        ConfigError: there is no such device.
    """
    chosen = measured_cases(results, cases)
    if not chosen:
        raise EvaluationError(f"{results.cases}: no validation case to measure; set evaluation.efficiency_cases: 0")
    used = choose(device, claimed=1)
    gpu = find_gpu(position=used.index or 0) if used.type == "cuda" else None  # an idle one would only confuse
    if gpu is None:
        log.info(NO_GPU)
    digest = model_digest(read_json(results.model_file(model)))
    conditions = measured_on(used.type, threads, gpu)
    key = {
        "version": VERSIONS,
        "model": digest,
        "inference": inference.to_json(),
        "conditions": conditions,
    }
    folder = results.cache("efficiency", key).create()
    rows, faults, curves = [], [], {}
    with folder.lock("cases"):
        for case in progress(chosen):
            entry = folder.entry(case.case, {"image": case.image_id})
            metadata = entry.load()
            if metadata is None:
                command = predict_command(
                    results.bundle(model), Path(case.image), device, threads, inference.precision
                )
                try:
                    metadata = _measure_case(case, command, gpu, entry)
                except EvaluationError as error:
                    log.error("%s", error)
                    faults.append(case.case)
                    continue
            curves[f"{case.case}.csv"] = entry.file(CURVE)
            rows.append({**metadata["results"], "file": results.relative(entry.file(CURVE))})
    if faults:
        raise EvaluationError(f"{len(faults)} predictions of {model} failed: {', '.join(faults[:5])}; see the log")
    _link_curves(output.parent / CURVES, curves)
    write_efficiency(output, rows)


def _link_curves(folder: Path, curves: Mapping[str, Path]) -> None:
    """Link the curves by plain names, and remove the links of cases that are no longer measured."""
    for path in folder.glob("*.csv"):
        if path.is_symlink() and path.name not in curves:
            path.unlink()
    for name, target in curves.items():
        link_to(folder / name, target)


def predict_command(bundle: Path, image: Path, device: str, threads: int, precision: str) -> list[str]:
    """Return the command that segments one image; it still wants its `--output`."""
    command = [sys.executable, "-m", "flare23_lib.cli", "predict", "--model", str(bundle), "--input", str(image)]
    return [*command, "--device", device, "--threads", str(threads), "--precision", precision]


def _measure_case(case: Case, command: Sequence[str], gpu: Gpu | None, entry: Entry) -> Metadata:
    """Run one prediction into a temporary folder and note what it took; EvaluationError if it failed."""
    with tempfile.TemporaryDirectory(prefix="flare23-") as temporary:
        said, labels = Path(temporary) / "said.txt", Path(temporary) / "labels"
        with said.open("wb") as handle:
            profile, code = profile_command([*command, "--output", str(labels)], gpu, handle)
        if code or not any(labels.glob("*.nii.gz")):
            lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {code}"
            raise EvaluationError(f"{case.case}: the prediction failed: {reason}")
    row = efficiency_row(case.case, profile, gpu, available_cores())
    write_curve(entry.file(CURVE), profile)
    log.info("%s", format_efficiency(row))
    return entry.save([CURVE], row)
