"""The jobs of a tiny workflow, each with a fault at one of its calls, and again without.

Trials are forked from one process that has imported everything and computed nothing.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults import ERRORS, Fault, Shim
from places import RECIPE

from flare23_lib.io.atomic import TEMPORARY_MARK
from flare23_lib.io.checksum import CHECKSUMS, is_as_kept

MODEL, COMPLETION = "student", "unlabeled"
VARYING = {"timings", "seconds", "epoch_seconds", "files", "checksum", "kept", "precision"}
"""Keys of JSON files that differ from run to run: durations, checksums of compressed bytes (checked apart), and in a
report whether a case was computed in that run."""

KEPT = (".lock", "nnunet.log", "debug.json", ".broken")
"""Files without results: locks, messages, what nnU-Net writes for its developers."""


LIMIT_SECONDS = 600
"""A job that has not ended by then, some 1,000 times what it takes, is killed by SIGALRM."""


@dataclass(frozen=True)
class Stage:
    """A stage: its name and its jobs, each the arguments of `flare23`."""

    name: str
    jobs: Sequence[Sequence[str]]


@dataclass
class Tally:
    """What became of a stage's faults."""

    stage: str
    writes: int
    reads: int
    errors: int = 0
    kills: int = 0
    read_errors: int = 0
    unnoticed: int = 0
    failures: list[str] = field(default_factory=list)


def write_cohort(folder: Path) -> None:
    """Write two labeled cases, an unlabeled one and one for validation, in FLARE23's layout."""
    import numpy as np
    from trainings import AFFINE, SHAPE

    from flare23_lib.io.nifti import header_for, write_volume

    names = {
        "a": ("imagesTr2200", "labelsTr2200"), "b": ("imagesTr2200", "labelsTr2200"), "u": ("unlabeledTr1800", None),
        "v": ("validation", "validation-gt"),
    }  # fmt: skip
    for number, (case, (images, label_folder)) in enumerate(names.items()):
        random = np.random.default_rng(number)
        labels = np.zeros(SHAPE, np.uint8)
        labels[2:9, 4:12, 4:20], labels[3:8, 14:20, 6:18], labels[5, 1, 1:3] = 1, 2, 3
        image = (random.normal(0, 40, SHAPE) + 150.0 * labels - 100).astype(np.int16)
        image[0], image[-1, -1, -1] = -1000, 900
        write_volume(folder / images / f"{case}_0000.nii.gz", image, header_for(SHAPE, AFFINE, image.dtype))
        if label_folder:
            write_volume(folder / label_folder / f"{case}.nii.gz", labels, header_for(SHAPE, AFFINE, labels.dtype))


def stages(cohort: Path, run: Path) -> list[Stage]:
    """Return the stages of the workflow on that cohort, and the user's `predict`; results go to a folder `run`."""
    from trainings import CHANGES, PROTOCOL

    from flare23_lib.config import Config
    from flare23_lib.config.load import merge

    # Rounds of targets (class_balanced) are not in a checkpoint: a resumed training has its batches in another order.
    protocol = {**PROTOCOL, "epochs": 1, "iterations_per_epoch": 2, "sampling": "nnunet"}
    changes = {
        "categories": [
            {"name": "all", "contains_any": ["one"]},
            {"name": "unlabeled", "no_labels": True},
        ],
        "completions": {COMPLETION: {"category": "unlabeled", "teacher": MODEL}},
        "model_defaults": {"training": protocol, "inference": {"precision": "float32"}},
        "models": {MODEL: {"evaluate": True}},
        "evaluation": {"compare": [], "details": True},
    }
    config = Config.load([RECIPE], merge(CHANGES, changes))
    results, names = run / "results", config.label_map.names

    def job(stage: str, output: str, *options: str, **parts: Any) -> list[str]:
        plain = {key: value.to_json() if hasattr(value, "to_json") else value for key, value in parts.items()}
        settings = ["--settings", json.dumps(plain)] if parts else []
        return ["stage", stage, "--results", str(results), *settings, "--output", str(results / output), *options]

    inference = config.inference_settings(MODEL)
    labels = [asdict(label) for label in config.label_map.labels]
    pseudo = config.pseudo_label_settings(COMPLETION)
    completion = {"settings": config.completion_settings(COMPLETION), "label_names": names, "base": None}
    model, shard, cpu = ("--model", MODEL), ("--shard", "0-of-1"), ("--device", "cpu")
    of_completion, one = ("--completion", COMPLETION), ("--shards", "1")
    training = ("--checkpoint-minutes", "0", "--history", str(results / f"training/{MODEL}/training.csv"))
    return [
        Stage("cohort", [job("cohort", "cohort/cases.csv", cohort=str(cohort), settings=config.cohort_settings())]),
        Stage("preprocess", [job("preprocess", f"preprocessed/{MODEL}/0-of-1.csv", *model, *shard,
                                 settings=config.preprocessing_settings(MODEL), patch_size=[8, 16, 16],
                                 organs=config.background_organs(MODEL), label_names=names)]),
        Stage("train", [job("train", f"training/{MODEL}/training.json", *model, *one, *cpu, *training,
                            settings=config.training_settings(MODEL), label_names=names)]),
        Stage("bundle", [job("export", f"models/{MODEL}/model.json", *model, inference=inference, labels=labels)]),
        Stage("pseudo_label", [job("pseudo-label", f"pseudo_labels/{COMPLETION}/0-of-1.csv", *shard,
                                   *cpu, settings=pseudo, teacher=MODEL, inference=inference, base=None)]),
        Stage("complete", [
            job("complete", f"completed_labels/{COMPLETION}/0-of-1.csv", *of_completion, *shard, **completion),
            job("gather-completed", f"completed_labels/{COMPLETION}/conflicts.csv", *of_completion, *one,
                "--confusion", str(results / f"completed_labels/{COMPLETION}/confusion.csv"), **completion),
        ]),
        Stage("predict", [
            job("predict", f"predictions/{MODEL}/0-of-1.csv", *model, *shard, *cpu, inference=inference),
            job("gather-predictions", f"predictions/{MODEL}/predictions.csv", *model, *one),
        ]),
        Stage("evaluate", [job("evaluate", f"evaluation/{MODEL}/summary.csv", *model,
                               settings=config.evaluation_settings())]),
        Stage("flare23 predict", [[
            "predict", "--model", str(results / "models" / MODEL), "--input", str(cohort / "validation"), "--output",
            str(run / "labels"), "--device", "cpu", "--statistics", "--per-class", "--threads", "1",
            "--run-report", str(run / "labels" / "run.json"),
        ]]),
    ]  # fmt: skip


def content(folder: Path) -> dict[str, Any]:
    """Return what the files of a folder hold, by path: arrays, tensors, tables; not how they are compressed."""
    return {
        str(path.relative_to(folder)): _content_of(path)
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and not path.name.endswith(KEPT) and ".lock-" not in path.name
    }


def _content_of(path: Path) -> Any:
    import blosc2
    import torch

    if path.is_symlink():
        return str(path.readlink())
    if path.parent.name == CHECKSUMS:  # of files that hold durations, too
        table = path.parent.parent / path.name
        return is_as_kept(table, table.read_bytes())
    if path.suffix == ".json":
        return _without_varying(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return _remembered(path)
    if path.suffix == ".b2nd":
        return blosc2.open(str(path), mode="r")[:].tobytes()
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".pth":
        found = torch.load(path, weights_only=False)
        return found["current_epoch"], {name: one.numpy().tobytes() for name, one in found["network_weights"].items()}
    if path.suffix == ".csv" and path.read_text().startswith("epoch,"):
        # A checkpoint within the validation begins it again, with other patches; and seconds differ.
        return [line.split(",")[:3] for line in path.read_text().splitlines()]
    return path.read_bytes()


def _remembered(path: Path) -> dict[str, Any]:
    """Return what the scan remembers of each file: the last line of it; half a line, which a kill left, is none."""
    known = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            *key, info = json.loads(line)
            known[str(key)] = info
    return known


def _without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_varying(one) for key, one in value.items() if key not in VARYING}
    return [_without_varying(one) for one in value] if isinstance(value, list) else value


def broken_entries(results: Path) -> list[str]:
    """Return the entries of the cache whose files do not match their checksums."""
    from flare23_lib.cache.entries import METADATA_KEYS, CacheFolder, Entry

    broken = []
    for path in (results / "store").rglob("*.json"):
        if set(json.loads(path.read_text())) >= METADATA_KEYS:
            entry = Entry(CacheFolder(path.parent), path.stem)
            metadata = entry.metadata()
            if metadata is None or entry.broken_files(metadata, deep=True):
                broken.append(str(path))
    return broken


class Sweep:
    """A workflow in a folder, whose stages are run with faults. To be made in a process that may be forked.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        import blosc2
        import torch

        import flare23_lib

        torch.set_num_threads(1)  # a forked process would wait for threads that it does not have
        blosc2.set_nthreads(1)
        for module in pkgutil.walk_packages(flare23_lib.__path__, "flare23_lib."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        self.folder = folder
        self.run, self.cohort, self.before = folder / "work/run", folder / "work/cohort", folder / "before"
        write_cohort(self.cohort)
        self.run.mkdir(parents=True)
        self.stages = stages(self.cohort, self.run)
        self.expected: dict[str, dict[str, Any]] = {}
        self.calls: dict[str, list] = {}
        for stage in self.stages:
            shutil.copytree(self.run, self.before / stage.name, symlinks=True)
            status, message = self.start(stage)
            if status:
                raise RuntimeError(f"{stage.name}: {message}")
            self.calls[stage.name], modules = json.loads((self.folder / "calls.json").read_text())
            for module in modules:  # what a job imported is imported once for all trials
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)
            self.expected[stage.name] = content(self.run)

    def start(self, stage: Stage, fault: Fault | None = None) -> tuple[int, str]:
        """Run the jobs of a stage in a process of their own; return its exit status and what it wrote."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._run(stage, fault)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), (self.folder / "messages").read_text(errors="replace")

    def _run(self, stage: Stage, fault: Fault | None) -> None:
        code = 70
        try:
            messages = os.open(self.folder / "messages", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (1, 2):
                os.dup2(messages, descriptor)
            from flare23_lib.cli import main

            signal.alarm(LIMIT_SECONDS)
            known = set(sys.modules)
            shim = Shim(self.folder / "work", fault)
            shim.install()
            for job in stage.jobs:
                code = main(job)
                if code:
                    break
            if fault is None:
                modules = [name for name in sys.modules if name not in known]
                (self.folder / "calls.json").write_text(json.dumps([shim.calls, modules]))
        except BaseException:
            code = 70
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def faults(self, stage: Stage) -> list[Fault]:
        """Return all faults of a stage: at each write an error and a kill, at each read an error."""
        kinds = [kind for kind, *_ in self.calls[stage.name]]
        writes, reads = (range(kinds.count(kind)) for kind in ("write", "read"))
        changes = [Fault("write", number, kill) for kill in (False, True) for number in writes]
        return changes + [Fault("read", number) for number in reads]

    def sweep(self, stage: Stage, chosen: Sequence[Fault]) -> Tally:
        """Try faults of a stage, and count them."""
        kinds = [kind for kind, *_ in self.calls[stage.name]]
        tally = Tally(stage.name, kinds.count("write"), kinds.count("read"))
        for fault in chosen:
            for wrong in self.trial(stage, fault, tally):
                tally.failures.append(f"{stage.name}, {fault}, {self._described(stage, fault)}: {wrong}")
        return tally

    def _described(self, stage: Stage, fault: Fault) -> str:
        of_kind = [call for call in self.calls[stage.name] if call[0] == fault.kind]
        return " ".join(of_kind[fault.number][1:]).replace(str(self.folder), "")

    def trial(self, stage: Stage, fault: Fault, tally: Tally) -> Iterator[str]:
        """Try a fault and a second start; yield what is not as it should be."""
        shutil.rmtree(self.run)
        shutil.copytree(self.before / stage.name, self.run, symlinks=True)
        status, message = self.start(stage, fault)
        if fault.kill:
            tally.kills += 1
            if status != -9:
                yield f"was not killed: {status}"
        else:
            tally.errors += fault.kind == "write"
            tally.read_errors += fault.kind == "read"
            if status == 0:
                tally.unnoticed += 1
                yield from self._differences(stage, "succeeded with", named=message)
            else:
                yield from self._about_message(fault, status, message)
        status, message = self.start(stage)
        if status:
            yield f"the second start ended with {status}: {message[-1500:]}"
        else:
            yield from self._differences(stage, "the second start made")

    def _about_message(self, fault: Fault, status: int, message: str) -> Iterator[str]:
        last = (message.strip().splitlines() or [""])[-1]
        if status != 1 or "Traceback" in message or os.strerror(ERRORS[fault.kind]) not in last:
            yield f"ended with {status} and {message[-1500:]}"
        elif str(self.folder / "work") not in last:
            yield f"names no path: {last}"

    def _differences(self, stage: Stage, what: str, named: str = "") -> Iterator[str]:
        try:
            found, expected = content(self.run), self.expected[stage.name]
        except Exception as error:  # whatever a file cut short makes its reader raise
            yield f"{what} files that cannot be read: {error!r}"
            return
        different = sorted(path for path in found.keys() | expected if found.get(path) != expected.get(path))
        if stage.name == "cohort" and named and "cannot_be_read" in named:
            return  # a file that cannot be read is put into quarantine, with this reason, and is tried again
        if different:
            yield f"{what} other results: {', '.join(different[:5])}; {named[-800:]}"
        if broken := broken_entries(self.run / "results"):
            yield f"{what} broken entries: {broken}"
        left = [path for path in self.folder.rglob("*") if path.name.startswith((TEMPORARY_MARK, ".tmp"))]
        if left:
            yield f"{what} half-written files: {left}"


def table(tallies: Sequence[Tally]) -> str:
    """Return the table of docs/store.md."""
    lines = [
        "| stage | writes | reads | errors of writes | kills | errors of reads | survived | without effect |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in tallies:
        tried = one.errors + one.kills + one.read_errors
        cells = [one.stage, one.writes, one.reads, one.errors, one.kills, one.read_errors,
                 tried - len({text.split(": ")[0] for text in one.failures}), one.unnoticed]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def sweep_all(folder: Path, choose: Callable[[str, list[Fault]], Sequence[Fault]]) -> list[Tally]:
    """Sweep the stages with chosen faults of each."""
    made = Sweep(folder)
    return [made.sweep(stage, choose(stage.name, made.faults(stage))) for stage in made.stages]
