"""The workflow on the SLURM that tests/cluster/slurm.sh brings up: for tests and drills."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from places import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "cluster" / "slurm.sh"
CHAIN = REPOSITORY / "tests" / "cluster" / "chain.yaml"
STATUS_SECONDS = 9
patience = 1.0
"""How many times as long as on an idle machine a drill waits."""


@dataclass(frozen=True)
class Job:
    """A job as SLURM knows it: times in seconds since 1970, None where there is none yet."""

    id: int
    rule: str
    wildcards: str
    state: str
    gpus: int
    minutes: int
    memory_mb: int
    restarts: int
    started: float | None
    ended: float | None


def is_up() -> bool:
    """Say whether a SLURM answers on this machine."""
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


def control(*arguments: str) -> None:
    """Run the script that brings SLURM up and down."""
    subprocess.run([str(SCRIPT), *arguments], check=True, stdout=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    """Return the environment of a run: this interpreter's commands first, one thread a process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def command(*arguments: str, configfiles: Sequence[Path] = (), workflow: Path = REPOSITORY, jobs: int = 4) -> list:
    """Return a run's command: the profile as it is, but that it looks at its jobs more often."""
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(workflow / "Snakefile"),
        "--workflow-profile", str(REPOSITORY / "profiles" / "slurm"),
        "--configfile", str(CHAIN), *map(str, configfiles), "--jobs", str(jobs),
        "--slurm-init-seconds-before-status-checks", str(STATUS_SECONDS), "--latency-wait", "20", *arguments,
    ]  # fmt: skip


def run(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run the workflow to its end; what it says is in stderr."""
    return subprocess.run(
        command(*arguments, **options), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    """Start the workflow; what it says goes to snakemake.log in the folder."""
    with (folder / "snakemake.log").open("a") as log:
        return subprocess.Popen(
            command(*arguments, **options), cwd=folder, env=environment(), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def wait_until(found: Callable[[], object], seconds: float = 120, process: subprocess.Popen | None = None) -> object:
    """Wait for something and return it; AssertionError if it does not come, or the process ends before."""
    seconds *= patience
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"waited {seconds} s for nothing"
        assert process is None or process.poll() is None, f"the workflow ended with {process.returncode}"
        time.sleep(0.3)
    return result


def finish(process: subprocess.Popen, folder: Path, seconds: float = 600) -> None:
    """Wait for a run that should end well; AssertionError with the end of its log if it does not."""
    seconds *= patience
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        process.kill()
        code = f"no end after {seconds} s"
    assert code == 0, f"{code}\n" + (folder / "snakemake.log").read_text()[-3000:]


def jobs(folder: Path) -> list[Job]:
    """Return all jobs that SLURM remembers of a folder, in the order in which they were submitted."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "-o", "--all"], capture_output=True, text=True, check=True,
        env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
    )  # fmt: skip
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown.stdout.splitlines()]
    mine = [row for row in rows if row.get("WorkDir") == str(folder)]
    return sorted((_job(row) for row in mine), key=lambda job: job.id)


def _job(row: dict[str, str]) -> Job:
    what = re.fullmatch(r"rule_(.+?)(?:_wildcards_(.*))?", row["Comment"])
    days, hours, minutes, _ = map(int, re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", row["TimeLimit"]).groups("0"))
    gpus = re.search(r"gres:gpu:(\d+)", row.get("TresPerJob", ""))
    memory = re.search(r"mem=([\d.]+)([MG])", row.get("TRES", ""))
    megabytes = float(memory[1]) * {"M": 1, "G": 1024}[memory[2]] if memory else 0
    return Job(
        id=int(row["JobId"]), rule=what[1], wildcards=what[2] or "", state=row["JobState"],
        gpus=int(gpus[1]) if gpus else 0, minutes=60 * (24 * days + hours) + minutes,
        memory_mb=round(megabytes), restarts=int(row["Restarts"]), started=_time(row["StartTime"]),
        ended=_time(row["EndTime"]),
    )  # fmt: skip


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def running(folder: Path, rule: str) -> list[Job]:
    """Return the running jobs of a rule."""
    return [job for job in jobs(folder) if job.rule == rule and job.state == "RUNNING"]
