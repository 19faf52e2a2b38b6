"""Losses that learn from what was annotated.

Each case has its annotated classes; what was not annotated may be anywhere. So a voxel's label stands for a set of
classes that it can be, its admissible set. The loss asks that one of them is predicted and does not care which: sums
of probabilities, exact, in float32. Where everything was annotated it equals nnU-Net's loss.

Few voxels of an organ's annotation are of a tumor that was not annotated. Were both classes as good there, a network
could call all organs tumors at no cost in every case without annotated tumors, and small networks do so. So classes
that an annotation may cover count with a weight w. Before a network can tell K organs apart, it gives all their
voxels the same probabilities p. The mean of log(p_organ + w p_tumor) over these, concave in p, is largest without
tumor if K w is at most 1: where p_tumor is 0 and each p_organ the organ's share of the voxels, its slope is K w along
p_tumor and 1 along any p_organ.

A loss is computed from sums over voxels, so that volumes can be taken in parts and processes can share them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn

SMOOTH = 1e-5
"""Added to the soft Dice's numerator and denominator; nnU-Net's."""


def admissible_sets(
    annotated: Collection[int],
    classes: int,
    hidden_in: Mapping[int, Collection[int]] | None = None,
    hidden_weight: float = 1,
) -> torch.Tensor:
    """Return which classes a voxel of each label can be, in a case.

    Args:
        annotated: indices of the classes that were annotated in the case.
        classes: classes of the network, background (index 0) included.
        hidden_in: class -> the classes whose annotations may cover it where it is not annotated itself, as those of
            organs cover tumors.
        hidden_weight: of a class that an annotation may cover.

    Returns:
        float32 (classes + 1, classes), a row per label: the weight of each class, 0 for one that the voxel cannot be.
        An unlabeled voxel can be background or of any class that was not annotated; one of a class that class, or one
        that the annotation covers; one of the last label, voxels to ignore, anything.
    """
    missing = [index for index in range(1, classes) if index not in annotated]
    sets = torch.eye(classes + 1, classes)
    sets[0, missing] = 1
    for index in missing:
        sets[list((hidden_in or {}).get(index, ())), index] = hidden_weight
    sets[classes] = 1
    return sets


def rows_of_labels(labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return each voxel's row of a table that has one for every label.

    Args:
        labels: (b, 1, z, y, x) label indices.
        rows: (b, classes + 1, classes), a table for each case.

    Returns:
        (b, classes, z, y, x), on the labels' device.
    """
    rows = rows.to(labels.device, non_blocking=True)
    return torch.stack([row.T[:, label[0].long()] for row, label in zip(rows, labels, strict=True)])


# Sums over voxels: one tensor of the cross-entropy, the voxels of which something is known, and for each foreground
# class the probability found at its voxels, that found elsewhere, and the number of its voxels.


def sums_of_labels(logits: torch.Tensor, labels: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Return the sums of a batch with a label per voxel.

    Args:
        logits: (b, classes, z, y, x), of any floating-point type.
        labels: (b, 1, z, y, x) label indices.
        sets: (b, classes + 1, classes), `admissible_sets` of each case.

    Returns:
        (2 + 3 * (classes - 1),), float32 or of more digits.
    """
    log_probabilities = _log_softmax(logits)
    excluded = rows_of_labels(labels, sets == 0)
    known = excluded.any(1)
    log_sums = (rows_of_labels(labels, sets.log()) + log_probabilities).logsumexp(1)
    entropy = torch.where(known, -log_sums, 0).sum()
    probabilities, sums = log_probabilities[:, 1:].exp(), log_sums.exp()
    places = [labels[:, 0] == index for index in range(1, logits.shape[1])]
    found = torch.stack([torch.where(place, sums, 0).sum() for place in places])
    elsewhere = torch.where(excluded[:, 1:], probabilities, 0).sum((0, 2, 3, 4))
    sizes = torch.stack([place.sum() for place in places])
    return _joined(entropy, known.sum(), found, elsewhere, sizes)


def sums_of_shares(logits: torch.Tensor, shares: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Return the sums of a batch whose voxels have several labels, each in a share of the voxel.

    Cross-entropy is the mean over the labels. Of Dice's products of probability and label the smaller of the two is
    taken instead, which is the same where a voxel has one label, and else largest where the two are equal.

    Args:
        logits: (b, classes, z, y, x), of any floating-point type.
        shares: float (b, classes + 1, z, y, x), the share of each label; the last of voxels to ignore.
        sets: (b, classes + 1, classes), `admissible_sets` of each case.

    Returns:
        As `sums_of_labels`.
    """
    classes = logits.shape[1]
    log_probabilities = _log_softmax(logits)
    shares = shares.to(log_probabilities.dtype)
    log_sums = torch.stack([_log_sum(log_probabilities, sets[:, index]) for index in range(classes)], 1)
    entropy = -(shares[:, :classes] * log_sums).sum()
    outside = torch.einsum("bkzyx,bkc->bczyx", shares, (sets[:, :, 1:] == 0).to(shares))
    labeled = shares[:, 1:classes]
    elsewhere = log_probabilities[:, 1:].exp() * outside
    predicted = elsewhere + log_sums[:, 1:].exp() * labeled
    found = torch.minimum(predicted, labeled).sum((0, 2, 3, 4))
    every = predicted.sum((0, 2, 3, 4))
    voxels = (shares.sum((2, 3, 4)) * (sets == 0).any(2).to(shares)).sum()
    return _joined(entropy, voxels, found, every - found, labeled.sum((0, 2, 3, 4)))


def share_of(target: torch.Tensor, label: int, count: int) -> torch.Tensor:
    """Return the share of a label in each voxel.

    Args:
        target: (b, 1 or `SOFT_CHANNELS`, z, y, x).
        label: index of the label.
        count: how many labels there are, the last of voxels to ignore, which no class has a share in.

    Returns:
        float32 (b, 1, z, y, x).
    """
    if target.shape[1] == 1:
        return (target == label).float()
    labels, first, second, share = target.split(1, dim=1)
    part = share / 255
    soft = torch.where(first == label, part, 0) + torch.where(second == label, 1 - part, 0)
    return torch.where((share > 0) & (labels < count - 1), soft, (labels == label).float())


def soft_shares(target: torch.Tensor, count: int) -> torch.Tensor:
    """Return the share of each label in each voxel, float32 (b, count, z, y, x); arguments as `share_of`."""
    return torch.cat([share_of(target, label, count) for label in range(count)], 1)


def sums_of_target(logits: torch.Tensor, target: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
    """Return the sums of a batch: `sums_of_labels`, or with `SOFT_CHANNELS` `sums_of_shares`.

    Args:
        logits: (b, classes, z, y, x), of any floating-point type.
        target: (b, 1 or `SOFT_CHANNELS`, z, y, x).
        sets: (b, classes + 1, classes), `admissible_sets` of each case.
    """
    if target.shape[1] == 1:
        return sums_of_labels(logits, target, sets)
    return sums_of_shares(logits, soft_shares(target, logits.shape[1] + 1), sets)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)


def _log_sum(log_probabilities: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the weighted sum of the classes' probabilities, (b, z, y, x).

    `log_probabilities` are (b, classes, z, y, x), weights (b, classes).
    """
    used = weights.any(0).nonzero().flatten()  # few of many classes, and the gradient keeps each
    log_probabilities, weights = log_probabilities[:, used], weights[:, used]
    if len(used) == 1:
        return log_probabilities[:, 0]
    return (log_probabilities + weights.log().to(log_probabilities)[:, :, None, None, None]).logsumexp(1)


def _joined(entropy: torch.Tensor, voxels: torch.Tensor, *by_class: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.to(entropy.dtype) for part in (entropy[None], voxels[None], *by_class)])


def loss_of_sums(total: torch.Tensor, sets: torch.Tensor, several: bool) -> torch.Tensor:
    """Return cross-entropy minus soft Dice.

    Cross-entropy is the mean over the voxels of which something is known. Soft Dice is over the whole batch, as
    nnU-Net's, for the foreground classes that are annotated in one of its cases.

    Args:
        total: sums of the batch.
        sets: (b, classes + 1, classes), `admissible_sets` of each case.
        several: whether processes share the batch; sums are then over all of them.
    """
    total = torch.cat([total, (sets[:, 0, 1:] == 0).sum(0).to(total)])
    if several:
        total = AllGatherGrad.apply(total).sum(0)  # every process computes the whole loss, and DDP takes their mean
    entropy, voxels = total[0], total[1]
    found, elsewhere, sizes, annotated = total[2:].view(4, -1)
    dice = (2 * found + SMOOTH) / (found + elsewhere + sizes + SMOOTH)
    used = annotated > 0
    return entropy / voxels.clamp(min=1) - (dice * used).sum() / used.sum().clamp(min=1)


class LabelSetLoss(nn.Module):
    """Cross-entropy and soft Dice of the classes that a voxel can be.

    Where an annotation may cover other classes its voxels count with the weighted sum of the probabilities. Soft Dice
    takes the voxels in which it is known whether they are of a class. Soft labels have cross-entropy with the shares
    of both classes, and a soft Dice that is largest where probability and share are equal.

    Args:
        several: whether processes share the batch.
    """

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.several = several

    def forward(self, logits: torch.Tensor, target: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        """Return the loss; arguments as `sums_of_target`."""
        return loss_of_sums(sums_of_target(logits, target, sets), sets, self.several)


def count_voxels(logits: torch.Tensor, labels: torch.Tensor, sets: torch.Tensor) -> np.ndarray:
    """Count voxels by class, of those of which it is known whether they are of the class.

    A voxel of an annotation that may cover another class is missed where that class is predicted: few of its voxels
    are covered, and a network that predicts the covered class everywhere must not have a Dice of 1.

    Args:
        logits: (b, classes, z, y, x).
        labels: (b, 1, z, y, x) label indices.
        sets: (b, classes + 1, classes), `admissible_sets` of each case.

    Returns:
        (3, classes - 1), background left out: voxels found, found wrongly, and missed.
    """
    predicted, true = logits.argmax(1), labels[:, 0]
    excluded = rows_of_labels(labels, sets == 0)
    counts = []
    for index in range(1, logits.shape[1]):
        place, answer = true == index, predicted == index
        counts.append([(place & answer).sum(), (answer & excluded[:, index]).sum(), (place & ~answer).sum()])
    return np.array([[int(count) for count in row] for row in counts]).T
