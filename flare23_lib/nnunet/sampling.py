"""Class-balanced sampling of patches.

nnU-Net picks a case first and then one of its classes, so a class that few cases hold is rarely the target. Here the
class is picked first: in each round every class that has voxels anywhere is the target once, in random order, and its
case is drawn from all that hold it.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Collection, Mapping

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from flare23_lib.runtime.signals import STOPPING

PR_SET_PDEATHSIG = 1
"""Linux's option of prctl (see its manual page) to be sent a signal when the parent ends."""


def become_worker(thread_id: int) -> None:
    """Make a process that loads batches end with the training, and not before; the augmenter calls it in each.

    Signals that reach the whole process group are for the training to answer; a killed training
    must leave no process behind.
    """
    del thread_id
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Rounds:
    """Targets in shuffled rounds.

    Args:
        members: class -> the cases that hold it; classes that no case holds take no part.
    """

    def __init__(self, members: Mapping[int, Collection[str]]) -> None:
        self.members = {name: sorted(cases) for name, cases in members.items() if cases}
        self._left: list[int] = []

    def draw(self) -> tuple[int, str]:
        """Return the next target class and one of its cases, by numpy's global random state (as nnU-Net)."""
        if not self._left:
            self._left = list(np.random.permutation(sorted(self.members)))
        target = int(self._left.pop())
        cases = self.members[target]
        return target, cases[np.random.randint(len(cases))]


class BalancedDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader with class-balanced targets for the patches that are forced onto foreground."""

    def __init__(self, *args, members: Mapping[int, Collection[str]], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._rounds = Rounds(members)
        self._targets: list[int | None] = []

    def get_indices(self) -> list[str]:
        """Return the cases of the next batch, and remember the target of each."""
        keys = list(super().get_indices())
        self._targets = [None] * len(keys)
        for position in range(len(keys)):
            if self._rounds.members and self.get_do_oversample(position):
                self._targets[position], keys[position] = self._rounds.draw()
        return keys

    def get_bbox(self, data_shape, force_fg, class_locations, overwrite_class=None, verbose=False):
        """Return the patch's corners, around a voxel of the target where there is one."""
        target = self._targets.pop(0) if self._targets else None
        return super().get_bbox(data_shape, force_fg or target is not None, class_locations, target, verbose)
