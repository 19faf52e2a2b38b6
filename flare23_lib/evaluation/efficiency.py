"""Tables of what cases took: efficiency.csv with the challenge's columns, and a curve per case.

The challenge's columns hold its figures: areas are sums of polls times 0.1 s. Ours follow: the areas under the
curves, and what was measured with what. Memory is in MB of 2**20 bytes, time in seconds, utilization in percent of
all cores. RAM and CPU time are those of the command's own processes (the challenge takes the whole machine's), GPU
memory is that of the whole device, as in the challenge. What could not be measured is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.profiling import POLL_SLEEP, Gpu, Profile
from flare23_lib.io import locks, tables

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


def efficiency_row(name: str, profile: Profile, gpu: Gpu | None, cores: int) -> dict[str, Any]:
    """Return a case's row, rounded as the challenge rounds where the column is the challenge's.

    Args:
        name: of the case.
        profile: what it took.
        gpu: the one that was measured, or None.
        cores: cores that the command could use.
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


def write_curve(path: Path, profile: Profile) -> None:
    """Write the curve of a command: a row per poll and one at the end, an empty cell for what was not measured."""
    columns = (profile.seconds, profile.gpu_mb, profile.ram_mb, profile.cpu_seconds)
    rows = (
        {
            "seconds": f"{seconds:.4f}",
            "gpu_mb": None if np.isnan(gpu) else f"{gpu:.1f}",
            "ram_mb": f"{ram:.1f}",
            "cpu_seconds": f"{cpu:.2f}",
        }
        for seconds, gpu, ram, cpu in zip(*columns, strict=True)
    )
    tables.write_csv(path, CURVE_COLUMNS, rows)


def write_efficiency(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write efficiency.csv, sorted by name."""
    tables.write_csv(path, COLUMNS, sorted(rows, key=lambda row: row["Name"]))


def add_measurement(folder: Path, row: Mapping[str, Any], profile: Profile) -> Path:
    """Put a case into a folder's efficiency.csv, in place of one of the same name, and its curve beside it.

    Raises:
        EvaluationError: the folder has an efficiency.csv with other columns.
    """
    table = folder / TABLE
    with locks.lock(folder / ".lock"):
        rows = tables.read_csv(table) if table.exists() else []
        if rows and set(rows[0]) != set(COLUMNS):
            raise EvaluationError(f"{table}: has other columns than those measured here; give another folder")
        file = f"{CURVES}/{row['Name']}.csv"
        write_curve(folder / file, profile)
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
