"""Class-balanced sampling of patches.

nnU-Net picks a case first and then one of its classes, so a class that few cases hold is rarely the target. Here the
class is picked first: in each round every class that has voxels anywhere is the target once, in random order, and its
case is drawn from all that hold it.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from flare23_lib.errors import KilledError
from flare23_lib.runtime.processes import end_with_parent
from flare23_lib.runtime.signals import STOPPING


def become_worker(thread_id: int) -> None:
    """Make a process that loads batches end with the training, and not before; the augmenter calls it in each.

    Signals that reach the whole process group are for the training to answer.
    """
    del thread_id
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def endless(loader: nnUNetDataLoader, seeds: Sequence[int], pinned: bool) -> Iterator[dict]:
    """Return the batches of a loader.

    Args:
        seeds: one for each process that loads and augments; none to do so in this process.
        pinned: whether batches are put into pinned memory, for a GPU.
    """
    if not seeds:
        return SingleThreadedAugmenter(loader, None)
    loader.set_thread_id = become_worker
    return NonDetMultiThreadedAugmenter(
        loader, None, num_processes=len(seeds), num_cached=max(2, 2 * len(seeds)), seeds=list(seeds),
        pin_memory=pinned, wait_time=0.002,
    )  # fmt: skip


def next_batch(batches: Iterator[dict]) -> dict:
    """Return the next of the batches that `endless` returned; KilledError if a process that loads them was killed."""
    processes = getattr(batches, "_processes", ())  # a list that the first batch fills
    try:
        return next(batches)
    except RuntimeError as error:
        signals = {-process.exitcode for process in processes if (process.exitcode or 0) < 0}
        if killed := signals - {signal.SIGTERM}:  # the augmenter's own end sends SIGTERM
            raise KilledError(
                f"a process that loads patches was killed by {signal.Signals(min(killed)).name}: out of memory, or "
                "/dev/shm is too small (`--shm-size` of docker)"
            ) from error
        raise


def cases_by_class(dataset: nnUNetBaseDataset, labels: Sequence[int]) -> dict[int, list[str]]:
    """Return which cases of nnU-Net's dataset hold which class."""
    members: dict[int, list[str]] = {label: [] for label in labels}
    for case in dataset.identifiers:
        locations = dataset.load_case(case)[-1]["class_locations"]
        for label, cases in members.items():
            if len(locations.get(label, ())):
                cases.append(case)
    return members


class Rounds:
    """Targets in shuffled rounds.

    Args:
        members: class -> the cases that hold it; classes that no case holds take no part.

    Attributes:
        left: classes that are still to be targets in this round, the next one last.
    """

    def __init__(self, members: Mapping[int, Collection[str]]) -> None:
        self.members = {name: sorted(cases) for name, cases in members.items() if cases}
        self.left: list[int] = []

    def draw(self) -> tuple[int, str]:
        """Return the next target class and one of its cases, by numpy's global random state (as nnU-Net)."""
        if not self.left:
            self.left = np.random.permutation(sorted(self.members)).tolist()
        target = self.left.pop()
        cases = self.members[target]
        return target, cases[np.random.randint(len(cases))]


class BalancedDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader with class-balanced targets for the patches that are forced onto foreground."""

    def __init__(self, *args, members: Mapping[int, Collection[str]], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.rounds = Rounds(members)
        self._targets: list[int | None] = []

    def get_indices(self) -> list[str]:
        """Return the cases of the next batch, and remember the target of each."""
        keys = list(super().get_indices())
        self._targets = [None] * len(keys)
        for position in range(len(keys)):
            if self.rounds.members and self.get_do_oversample(position):
                self._targets[position], keys[position] = self.rounds.draw()
        return keys

    def get_bbox(self, data_shape, force_fg, class_locations, overwrite_class=None, verbose=False):
        """Return the patch's corners, around a voxel of the target where there is one."""
        target = self._targets.pop(0) if self._targets else None
        return super().get_bbox(data_shape, force_fg or target is not None, class_locations, target, verbose)
