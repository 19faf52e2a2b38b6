"""Everything of the project that only a GPU can show, in one go of ten minutes.

    benchmarks/gpu.sh --output FOLDER             on a machine with a GPU
    benchmarks/gpu.sh --output FOLDER --tiny      that it runs to its end, on any machine: two minutes on 2 cores

`gpu.sh` prepares the environment and runs this script. The parts are the other benchmarks with options (`PARTS`):
each is a process with a time limit of its own (four times that in a tiny run). One that fails or runs out of time is
noted, and the others are run all the same. FOLDER/gpu.json holds what every part has written so far, at every moment;
FOLDER/gpu.log what they printed. Parts that measure no speed run beside each other, the others alone.

`--parts` runs some parts only, and `--folder` keeps the case and the models between two calls. `gpu.sh` says how a
machine without a package index gets the packages that it lacks.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from inference_case import NNUNET_PRECISION
from provenance import provenance

from flare23_lib.io.atomic import read_json, write_json

BENCHMARKS = Path(__file__).resolve().parent
LOG_LINES = 15
"""Last lines of a part's output that stand in the result if it failed."""

MIN_SECONDS = 10
"""A part is left out if no more time than this is left."""

TINY_PATIENCE = 4
"""Factor on the time limits in a tiny run."""

NO_SIMPLEITK = "SimpleITK is not installed: nnU-Net sees an empty module, and reads and writes through nibabel"


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: its name in the result.
        seconds: its time limit.
        command: script and options; {case} is the folder of case and models, {equal} nnU-Net's precision on the
            device, {fast} the fastest precision, {threads} the number of cores.
        tiny: the options of a tiny run; None if that leaves the part out.
        alone: it measures speed, so nothing runs beside it.
    """

    name: str
    seconds: int
    command: str
    tiny: str | None
    alone: bool = True


PARTS = (
    Part(
        "float32", 60, "float32.py",
        "float32.py", alone=False,
    ),
    Part(
        "resumed", 90, "resumed.py --precision mixed --threads 4",
        "resumed.py --precision mixed --threads 2 --steps 2", alone=False,
    ),
    Part(
        "survival", 170, "survival.py --precision mixed --kills 2 --epochs 3 --iterations 40 --threads 4 "
        "--from-checkpoint --lifetime 0.3 1.5",
        "survival.py --precision mixed --kills 1 --epochs 2 --iterations 8 --threads 1 "
        "--from-checkpoint --lifetime 0 0.1 --checkpoint-seconds 0", alone=False,
    ),
    Part(
        "case_base", 120, "inference_case.py --folder {case} --network stunet_base --minutes 0.6 --processes 6",
        "inference_case.py --folder {case} --network stunet_tiny --minutes 0.02 --phantoms 2 --coarseness 4 "
        "--precision {fast}", alone=False,
    ),
    Part(
        "case_large", 140, "inference_case.py --folder {case} --network stunet_large --minutes 0.8 --processes 7",
        None, alone=False,
    ),
    Part(
        "parity", 70, "parity.py --bundle {case}/stunet_base --phantoms 1",
        "parity.py --bundle {case}/stunet_tiny --phantoms 1 --coarseness 2",
    ),
    Part(
        "predict_base", 180, "inference.py --folder {case} --network stunet_base --precision {fast} --minutes 0.6",
        "inference.py --folder {case} --network stunet_tiny --precision {fast} --small "
        "--sides ours_all_windows_{equal} nnunet ours_deployed",
    ),
    Part(
        "training_base", 170, "training.py --network stunet_base --cases 2 --warm-up 5 --iterations 20 --rounds 2 "
        "--batches 0 --threads {threads}",
        "training.py --network tiny --cases 2 --iterations 1 --rounds 1 --batches 0 --equal-only",
    ),
    Part(
        "tta_large", 150, "inference.py --folder {case} --network stunet_large --tta --small --gpu-memory 40000 "
        "--precision {fast} --minutes 0.8 --sides ours_all_windows_{equal} nnunet",
        "inference.py --folder {case} --network stunet_tiny --tta --small "
        "--precision {fast} --sides ours_all_windows_{equal} nnunet",
    ),
    Part(
        "training_large", 120, "training.py --network stunet_large --cases 2 --warm-up 2 --iterations 6 --rounds 2 "
        "--batches 0 --threads {threads} --no-compile",
        None,
    ),
    Part(
        "compiled_base", 90, "compiled.py --folder {case} --network stunet_base --precisions bfloat16",
        None,
    ),
    Part(
        "training_large_compiled", 180, "training.py --network stunet_large --cases 2 --warm-up 2 --iterations 6 "
        "--rounds 1 --batches 0 --threads {threads} --equal-only",
        None,
    ),
)  # fmt: skip
"""The parts, those of which most is wanted first: at the end of the time the last ones are left out."""


@dataclass
class Running:
    """A part that runs.

    Attributes:
        part: which.
        process: its process.
        began: when, by the monotonic clock.
        limit: seconds that it may take.
        result: what it writes.
        log: what it prints.
    """

    part: Part
    process: subprocess.Popen
    began: float
    limit: float
    result: Path
    log: Path


@dataclass
class Check:
    """A run of the check.

    Attributes:
        output: the folder of the results.
        work: the folder that case, models and the parts' own files are in.
        device: "cuda" or "cpu".
        tiny: whether sizes are tiny.
        until: the end of the time, by the monotonic clock.
        environment: of the parts.
        about: what the result begins with.
        entries: what became of each part.
        running: the parts that run.
    """

    output: Path
    work: Path
    device: str
    tiny: bool
    until: float
    environment: dict[str, str]
    about: dict[str, Any]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)

    def run(self, parts: Sequence[Part], together: int) -> None:
        """Run parts, some at a time, until all have ended or are left out."""
        waiting = list(parts)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < together:
                    self._start(waiting.pop(0))
                time.sleep(0.1)
                for one in list(self.running):
                    self._look_at(one)
        finally:
            for one in self.running:
                end(one.process)

    def _start(self, part: Part) -> None:
        """Start a part, unless it is left out."""
        options = part.tiny if self.tiny else part.command
        left = self.until - time.monotonic()
        if options is None or left < MIN_SECONDS:
            reason = "a tiny run goes without it" if options is None else "no time was left"
            self.entries[part.name] = {"status": "left out", "reason": reason}
            self._say(part.name)
            return
        fast = "float32" if self.device == "cpu" else "bfloat16"
        threads = len(os.sched_getaffinity(0))
        script, *given = shlex.split(
            options.format(case=self.work / "case", equal=NNUNET_PRECISION[self.device], fast=fast, threads=threads)
        )
        result, log = (self.work / f"{part.name}.{suffix}" for suffix in ("json", "log"))
        result.unlink(missing_ok=True)
        command = [sys.executable, str(BENCHMARKS / script), *given, "--device", self.device, "--output", str(result)]
        with log.open("w") as handle:
            process = subprocess.Popen(command, stdout=handle, stderr=handle, env=self.environment)
        limit = min(part.seconds * (TINY_PATIENCE if self.tiny else 1), left)
        self.entries[part.name] = {"status": "running", "command": options, "limit_s": round(limit)}
        self.running.append(Running(part, process, time.monotonic(), limit, result, log))

    def _look_at(self, one: Running) -> None:
        """Take in what a part has written, and note its end."""
        seconds = time.monotonic() - one.began
        code = one.process.poll()
        entry = self.entries[one.part.name]
        if code is None and seconds > one.limit:
            end(one.process)
            entry["status"] = "out of time"
        elif code is not None:
            entry["status"] = "done" if code == 0 else f"failed with exit code {code}"
        with suppress(FileNotFoundError):
            changed = one.result.stat().st_mtime_ns
            if changed != entry.get("written"):
                entry |= {"written": changed, "result": read_json(one.result)}
                self.write()
        if entry["status"] == "running":
            return
        entry["seconds"] = round(seconds, 1)
        entry.pop("written", None)
        lines = one.log.read_text(errors="replace").splitlines()
        if entry["status"] != "done":
            entry["log"] = lines[-LOG_LINES:]
        with (self.output / "gpu.log").open("a") as handle:
            handle.write("\n".join([f"== {one.part.name}: {entry['status']}", *lines, ""]))
        self.running.remove(one)
        self._say(one.part.name)

    def _say(self, name: str) -> None:
        entry = self.entries[name]
        took = f" in {entry['seconds']} s" if "seconds" in entry else f" ({entry['reason']})"
        print(f"{name}: {entry['status']}{took}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the result as it is now."""
        entries = {
            name: {key: value for key, value in entry.items() if key != "written"}
            for name, entry in self.entries.items()
        }
        write_json(self.output / "gpu.json", {**self.about, "parts": entries})


def end(process: subprocess.Popen) -> None:
    """End a process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [*parent.children(recursive=True), parent]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


@contextmanager
def work_folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder for case, models and the parts' own files."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def environment_of(work: Path, device: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment of the parts, and what of it the result should say."""
    paths, remarks = [str(BENCHMARKS.parent)], {}
    if importlib.util.find_spec("SimpleITK") is None:
        stand_in = work / "stand_in"
        stand_in.mkdir(exist_ok=True)
        (stand_in / "SimpleITK.py").write_text('"""Empty: nnU-Net imports it, and uses it for files only."""\n')
        paths.append(str(stand_in))
        remarks["simpleitk"] = NO_SIMPLEITK
    known = os.environ.get("PYTHONPATH")
    made = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([known] if known else [])]),
        "PYTHONUNBUFFERED": "1",
        # what one part compiled need not be compiled by the next one
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }
    if device == "cpu":
        made["nnUNet_n_proc_DA"] = "0"
    return made, remarks


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json and gpu.log")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU unless --device says otherwise")
    parser.add_argument("--device", choices=list(NNUNET_PRECISION), help="default: cuda; cpu for --tiny")
    parser.add_argument("--seconds", type=float, default=570, help="for everything (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these: " + ", ".join(p.name for p in PARTS))
    parser.add_argument("--folder", type=Path, help="where case and models are kept (default: a temporary one)")
    args = parser.parse_args()
    device = args.device or ("cpu" if args.tiny else "cuda")
    until = time.monotonic() + args.seconds * (TINY_PATIENCE if args.tiny else 1)
    if unknown := set(args.parts or ()) - {part.name for part in PARTS}:
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --tiny runs on the CPU")
    parts = [part for part in PARTS if not args.parts or part.name in args.parts]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "gpu.log").unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with work_folder(args.folder) as work:
        environment, remarks = environment_of(work, device)
        about = {**provenance(), "device": device, "tiny": args.tiny, **remarks}
        check = Check(args.output, work, device, args.tiny, until, environment, about)
        check.run([part for part in parts if not part.alone], max(2, len(os.sched_getaffinity(0)) // 3))
        check.run([part for part in parts if part.alone], 1)
    sys.exit(any(entry["status"] not in ("done", "left out") for entry in check.entries.values()))


if __name__ == "__main__":
    main()
