"""Tables of what cases took: efficiency.csv with the challenge's columns, and a curve per case.

The challenge's columns hold what its script would say: areas are sums of polls times 0.1 s. Ours follow: the areas
under the curves, and what was measured with what. Memory is in MB of 2**20 bytes, time in seconds, utilization in
percent of all cores. RAM and processor time are those of the command's own processes (the challenge takes the whole
machine's), GPU memory is that of the whole device, as in the challenge. What could not be measured is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare23_lib import store
from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.measuring import POLL_SLEEP, Curve
from flare23_lib.evaluation.sources import Gpu

OFFICIAL_COLUMNS = (
    "Name",
    "Time",
    "MaxGPU_Mem",
    "AUC_GPU_Time",
    "MaxCPU_Utilization",
    "AUC_CPU_Time",
    "MaxRAM",
    "AUC_RAM_Time",
)
COLUMNS = (
    *OFFICIAL_COLUMNS,
    "GPU_Area",
    "CPU_Area",
    "RAM_Area",
    "GPU_Before",
    "GPU_Backend",
    "RAM_Backend",
    "GPU",
    "Cores",
    "file",
)
"""`file` is the case's curve, relative to the results folder (in the workflow) or to the table's."""

CURVE_COLUMNS = ("seconds", "gpu_mb", "ram_mb", "cpu_seconds")

TABLE = "efficiency.csv"
CURVES = "curves"
"""Folder of the curves, beside the table."""

NO_GPU = "no GPU was measured: its columns are empty"


def efficiency_row(name: str, curve: Curve, gpu: Gpu | None, cores: int) -> dict[str, Any]:
    """Return a case's row, rounded as the challenge rounds where the column is the challenge's.

    Args:
        name: of the case.
        curve: what it took.
        gpu: the one that was measured, or None.
        cores: cores that the command could use.
    """
    utilization = curve.utilization(cores)
    return {
        "Name": name,
        "Time": round(curve.seconds, 2),
        "MaxGPU_Mem": _whole(curve.peak("gpu_mb")),
        "AUC_GPU_Time": _whole(curve.official_area("gpu_mb")),
        "MaxCPU_Utilization": round(max(utilization), 2),
        "AUC_CPU_Time": round(sum(utilization) * POLL_SLEEP, 2),
        "MaxRAM": round(curve.peak("ram_mb"), 2),
        "AUC_RAM_Time": _whole(curve.official_area("ram_mb")),
        "GPU_Area": _whole(curve.area("gpu_mb")),
        "CPU_Area": round(100 * curve.samples[-1].cpu_seconds / cores, 2),
        "RAM_Area": _whole(curve.area("ram_mb")),
        "GPU_Before": _whole(curve.samples[0].gpu_mb),
        "GPU_Backend": "nvml" if gpu else None,
        "RAM_Backend": "psutil",
        "GPU": gpu.name if gpu else None,
        "Cores": cores,
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def write_curve(path: Path, curve: Curve) -> None:
    """Write a curve: a row per sample, an empty cell for what was not measured."""
    rows = (
        {
            "seconds": f"{sample.seconds:.4f}",
            "gpu_mb": None if sample.gpu_mb is None else f"{sample.gpu_mb:.1f}",
            "ram_mb": f"{sample.ram_mb:.1f}",
            "cpu_seconds": f"{sample.cpu_seconds:.2f}",
        }
        for sample in curve.samples
    )
    store.write_csv(path, CURVE_COLUMNS, rows)


def write_efficiency(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write efficiency.csv, sorted by name."""
    store.write_csv(path, COLUMNS, sorted(rows, key=lambda row: row["Name"]))


def add_measurement(folder: Path, row: Mapping[str, Any], curve: Curve) -> Path:
    """Put a case into a folder's efficiency.csv, in place of one of the same name, and its curve beside it.

    Raises:
        EvaluationError: the folder has an efficiency.csv with other columns.
    """
    table = folder / TABLE
    with store.lock(folder / ".lock"):
        rows = store.read_csv(table) if table.exists() else []
        if rows and set(rows[0]) != set(COLUMNS):
            raise EvaluationError(f"{table}: has other columns than those measured here; give another folder")
        file = f"{CURVES}/{row['Name']}.csv"
        write_curve(folder / file, curve)
        others = [other for other in rows if other["Name"] != row["Name"]]
        write_efficiency(table, [*others, {**row, "file": file}])
    return table


def format_efficiency(row: Mapping[str, Any]) -> str:
    """Return a case's figures in a few words."""
    gpu = NO_GPU
    if row["GPU_Backend"]:
        gpu = f"GPU ({row['GPU_Backend']}, whole device) peak {row['MaxGPU_Mem']} MB, area {row['GPU_Area']} MB s"
    return (
        f"{row['Name']}: {row['Time']} s; RAM peak {row['MaxRAM']} MB, area {row['RAM_Area']} MB s; "
        f"CPU area {row['CPU_Area']} % s of {row['Cores']} cores; {gpu}"
    )
