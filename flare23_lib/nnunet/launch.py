"""Running a training: nnU-Net's folders, one process or one for each GPU."""

from __future__ import annotations

import atexit
import contextlib
import copy
import logging
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch.distributed.constants import default_pg_timeout
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from flare23_lib.errors import GpuError, KilledError, TrainingError, first_line
from flare23_lib.nnunet.plans import CONFIGURATION
from flare23_lib.nnunet.trainer import FlareTrainer
from flare23_lib.runtime.processes import end_with_parent
from flare23_lib.runtime.signals import Signals, StoppedError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a training needs; can be sent to another process.

    Attributes:
        folder: holds nnU-Net's `preprocessed` and `results` folders of this training; checkpoints go there.
        processes: GPUs (on a CPU: processes) that share each batch.
        threads: CPU threads and processes in total.
        checkpoint_minutes: the longest time of training between two checkpoints.
    """

    folder: Path
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    device: torch.device
    processes: int = 1
    threads: int = 1
    checkpoint_minutes: float = 10.0

    @property
    def workers(self) -> int:
        """Processes that load and augment; none on a CPU, which has no core to spare."""
        return max(1, self.threads // self.processes - 1) if self.device.type == "cuda" else 0


def make_trainer(run: TrainingRun) -> FlareTrainer:
    """Make the trainer of a run, initialized but without weights of a checkpoint."""
    # nnU-Net reads its folders from the environment when a trainer is made.
    os.environ["nnUNet_preprocessed"] = str(run.folder.absolute() / "preprocessed")  # noqa: SIM112 (its spelling)
    os.environ["nnUNet_results"] = str(run.folder.absolute() / "results")  # noqa: SIM112
    torch.set_num_threads(max(1, run.threads // run.processes))
    if run.device.type == "cuda" and run.device.index is not None:
        torch.cuda.set_device(run.device)  # so that batches are pinned for it, not for the first one
    trainer = FlareTrainer(
        copy.deepcopy(dict(run.plans)), CONFIGURATION, "all", copy.deepcopy(dict(run.dataset_json)), run.device
    )
    trainer.workers = run.workers
    trainer.checkpoint_seconds = 60 * run.checkpoint_minutes
    trainer.initialize()
    return trainer


def train(run: TrainingRun, prepare: Callable[[FlareTrainer], None] | None = None) -> FlareTrainer:
    """Train to the end, from the newest whole checkpoint if there is one, and return the trainer.

    It has the final weights; its final checkpoint is written. `prepare` is called with a trainer that starts from
    nothing, before its first iteration.

    Raises:
        StoppedError: a signal asked for it; the state is saved.
        TrainingError: the loss is NaN.
        KilledError: one of several processes was killed, or one that loads patches.
        GpuError: the GPU's memory is too small.
    """
    if run.processes > 1:
        _train_in_processes(run, prepare)
    with memory_errors():
        trainer = make_trainer(replace(run, processes=1))
        _finish(trainer, prepare)
    return trainer


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise GpuError for a GPU whose memory is full."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise GpuError(
            "a GPU's memory is too small for the training; a smaller batch_size or patch_size or more GPUs "
            f"(`gpus` of the model) need less of it ({first_line(error)})"
        ) from error


def _finish(trainer: FlareTrainer, prepare: Callable[[FlareTrainer], None] | None) -> None:
    """Train to the end, from the newest whole checkpoint if there is one."""
    if not trainer.resume() and prepare is not None:
        prepare(trainer)
    if trainer.current_epoch < trainer.num_epochs:
        trainer.run_training()


def _train_in_processes(run: TrainingRun, prepare: Callable[[FlareTrainer], None] | None) -> None:
    """Train in several processes; signals are passed on to them, and their errors are raised here."""
    with Signals() as signals:
        # The processes meet here: a port that is free now may be another program's when they have started.
        store = torch.distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        context = torch.multiprocessing.spawn(_train_rank, (run, store.port, prepare), run.processes, join=False)
        passed_on, killed = False, None
        try:
            while context.sentinels:
                ended = multiprocessing.connection.wait(context.sentinels, 0.2)
                if ended:
                    killed = _killed([context.processes[context.sentinels[one]] for one in ended])
                    context.join(timeout=0)  # ends the others if one has failed
                if signals.received is not None and not passed_on:
                    passed_on = True
                    for process in context.processes:
                        # They ignore SIGINT, which a terminal sends to them, too.
                        process.terminate()
        except KeyboardInterrupt:
            for process in context.processes:
                process.kill()
            raise
        except (EOFError, ProcessExitedException, ProcessRaisedException) as error:
            if signals.received is not None:
                raise StoppedError(signals.received) from error
            if killed is not None or not isinstance(error, ProcessRaisedException):
                # The others fail because it is missing. Killed while it writes its error it leaves half of that.
                raise KilledError(killed or "a process of the training was killed") from error
            last = str(error).strip().splitlines()[-1]
            if last.startswith("flare23_lib.errors."):
                name, _, message = last.removeprefix("flare23_lib.errors.").partition(": ")
                temporary = {kind.__name__: kind for kind in (GpuError, KilledError)}
                raise temporary.get(name, TrainingError)(message) from error
            raise


def _killed(ended: Sequence[multiprocessing.process.BaseProcess]) -> str | None:
    """Return in words what has killed one of the processes that end; None if none was killed."""
    for process in ended:
        process.join()
        number = -(process.exitcode or 0)
        if number > 0:
            name = signal.Signals(number).name
            return f"a process of the training was killed by {name}, probably out of memory"
    return None


def _train_rank(rank: int, run: TrainingRun, port: int, prepare: Callable[[FlareTrainer], None] | None) -> None:
    """Train as one of several processes."""
    end_with_parent()  # which holds the lock; PyTorch has SIGINT sent, which is ignored from here on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    store = torch.distributed.TCPStore(HOST, port, timeout=default_pg_timeout)
    backend = "nccl" if run.device.type == "cuda" else "gloo"
    if run.device.type == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=run.processes)
    code = 1
    try:
        with memory_errors():
            trainer = make_trainer(run)
            _kept.append(trainer)
            _finish(trainer, prepare)
        code = 0
    finally:
        torch.distributed.destroy_process_group()
        atexit.register(os._exit, code)


_kept: list[FlareTrainer] = []
"""A process's trainer, kept until the process ends, which it does without destructors.

That of gloo's process group, which the network holds, waits for a thread with Python's lock in its hands. The thread
may be waiting for that lock, and the process never ends.
"""
