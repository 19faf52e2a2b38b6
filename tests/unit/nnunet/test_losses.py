"""The label set loss: nnU-Net's where everything was annotated, and indifferent to what was not."""

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from label_sets import SEEDS, annotated_in_two, assert_gradients_are_finite_differences
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from flare23_lib.nnunet import losses
from flare23_lib.nnunet.losses import LabelSetLoss, admissible_sets, count_voxels, rows_of_labels, sums_of_shares

CLASSES = 5
IGNORE = CLASSES
SHAPE = (2, 1, 3, 4, 5)
HIDDEN_IN, HIDDEN_WEIGHT = {4: [1, 2]}, 0.25
ANNOTATED = annotated_in_two(CLASSES)


def batch(seed, annotated, ignore=True, hidden_in=HIDDEN_IN):
    """Logits, labels as those cases would have them, and the cases' admissible sets."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((2, CLASSES, *SHAPE[2:]), generator=random)
    labels = torch.randint(0, CLASSES + ignore, SHAPE, generator=random)
    for case, found in enumerate(annotated):
        for label in set(range(1, CLASSES)) - set(found):
            labels[case][labels[case] == label] = 0
    sets = [admissible_sets(found, CLASSES, hidden_in, HIDDEN_WEIGHT) for found in annotated]
    return logits, labels, torch.stack(sets)


def nnunet_loss(ignore_label):
    settings = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(settings, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


def test_a_voxel_can_be_what_was_not_annotated():
    sets = admissible_sets([1, 2], CLASSES, HIDDEN_IN)
    names = [set(row.nonzero().flatten().tolist()) for row in sets]
    assert names == [{0, 3, 4}, {1, 4}, {2, 4}, {3}, {4}, {0, 1, 2, 3, 4}]
    assert admissible_sets([1, 2, 4], CLASSES, HIDDEN_IN)[:CLASSES].sum() == CLASSES + 1


@pytest.mark.parametrize("ignore", [False, True])
@given(seed=SEEDS)
def test_with_everything_annotated_it_is_nnunets_loss(seed, ignore):
    logits, labels, sets = batch(seed, [range(1, CLASSES)] * 2, ignore)
    ours, theirs = (logits.double().requires_grad_() for _ in range(2))
    loss, expected = LabelSetLoss()(ours, labels, sets), nnunet_loss(IGNORE if ignore else None)(theirs, labels)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


@given(SEEDS, ANNOTATED, st.floats(-100, 100))
def test_a_constant_added_to_all_logits_changes_nothing(seed, annotated, constant):
    logits, labels, sets = batch(seed, annotated)
    moved, loss = (LabelSetLoss()(logits.double() + added, labels, sets) for added in (constant, 0))
    assert float(moved) == pytest.approx(float(loss), abs=1e-9)


@given(SEEDS, st.permutations([0, 3, 4]))
def test_classes_that_were_not_annotated_are_interchangeable(seed, order):
    logits, labels, sets = batch(seed, [{1, 2}] * 2, hidden_in={})
    logits = logits.double()
    permuted = logits.clone()
    permuted[:, [0, 3, 4]] = logits[:, order]
    assert not torch.equal(permuted, logits) or order == [0, 3, 4]
    loss = float(LabelSetLoss()(logits, labels, sets))
    assert float(LabelSetLoss()(permuted, labels, sets)) == pytest.approx(loss, abs=1e-6)


@given(SEEDS, ANNOTATED)
def test_gradients_are_those_of_finite_differences(seed, annotated):
    assert_gradients_are_finite_differences(*batch(seed, annotated), seed, tolerance=1e-7)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@given(seed=SEEDS, annotated=ANNOTATED)
def test_logits_of_16_bits_give_nearly_the_same_loss(kind, seed, annotated):
    logits, labels, sets = batch(seed, annotated)
    loss = LabelSetLoss()(logits.to(kind), labels, sets)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(LabelSetLoss()(logits, labels, sets)), abs=1e-2)


def test_the_marginal_probability_is_that_of_all_admissible_classes():
    logits, labels, sets = batch(0, [{1}, {1, 2}], ignore=False)
    probabilities, weights = logits.softmax(1), rows_of_labels(labels, sets)
    expected = -(probabilities * weights).sum(1).log().mean()
    elsewhere, place = probabilities * (weights == 0), labels[:, 0]
    dice = []
    for index in (1, 2):  # annotated in a case of the batch
        found = (probabilities * weights).sum(1)[place == index].sum()
        dice.append((2 * found + 1e-5) / (found + elsewhere[:, index].sum() + (place == index).sum() + 1e-5))
    loss = LabelSetLoss()(logits, labels, sets)
    assert float(loss) == pytest.approx(float(expected - torch.stack(dice).mean()), abs=1e-6)


def test_an_annotation_that_may_cover_a_tumor_is_rather_what_it_says():
    labels = torch.ones((1, 1, *SHAPE[2:]), dtype=torch.long)
    organ, tumor = torch.zeros((2, 1, CLASSES, *SHAPE[2:]))
    organ[:, 1], tumor[:, 4] = 10, 10

    def loss(logits, weight):
        return float(LabelSetLoss()(logits, labels, admissible_sets({1}, CLASSES, HIDDEN_IN, weight)[None]))

    assert loss(organ, 1) == pytest.approx(loss(tumor, 1), abs=1e-6)
    assert loss(tumor, 0.1) - loss(organ, 0.1) > -np.log(0.1)
    assert loss(tumor, 0.01) > loss(tumor, 0.1) > loss(tumor, 1)
    with_tumor, without = (admissible_sets(found, CLASSES, HIDDEN_IN, 0) for found in ({1}, {1, 4}))
    assert torch.equal(with_tumor[1], without[1])


def test_a_batch_without_anything_known_costs_nothing():
    logits, labels, sets = batch(0, [set(), set()])
    logits.requires_grad_()
    loss = LabelSetLoss()(logits, torch.full_like(labels, IGNORE), sets)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_a_class_that_one_case_lacks_is_learned_from_the_other_alone():
    logits, labels, sets = batch(3, [{1, 2, 3, 4}, {1}], ignore=False)
    labels[1] = 0
    logits.requires_grad_()
    LabelSetLoss()(logits, labels, sets).backward()
    unknown = logits.grad[1, 2:]
    assert (unknown < 0).all(), "an unlabeled voxel may well be of the classes that were not annotated"
    assert (logits.grad[1, 1] > 0).all()


def test_voxels_count_for_the_classes_of_which_something_is_known():
    logits, labels, sets = batch(1, [{1, 2, 3, 4}, {1}], ignore=False)
    found, wrongly, missed = count_voxels(logits, labels, sets)
    predicted, true = logits.argmax(1), labels[:, 0]
    hidden = (true == 1) & (predicted == 4)  # where 4 was not annotated, an annotation of 1 may cover it
    hidden[0] = False
    for index in range(1, CLASSES):
        right = (true == index) & (predicted == index)
        wrong = (true != index) & (predicted == index) & ~hidden
        if index != 1:
            wrong[1] &= true[1] != 0
        assert found[index - 1] == right.sum()
        assert missed[index - 1] == ((true == index) & ~right).sum()
        assert wrongly[index - 1] == wrong.sum()


def test_a_class_that_others_may_cover_is_no_answer_to_all_of_them():
    sets = torch.stack([admissible_sets({1, 2, 3}, CLASSES, {4: [1, 2, 3]})])
    labels = torch.tensor([0, 1, 2, 3]).reshape(1, 1, 1, 2, 2)
    logits = torch.zeros(1, CLASSES, 1, 2, 2)
    logits[:, 4] = 1
    found, wrongly, missed = count_voxels(logits, labels, sets)
    assert list(found) == [0, 0, 0, 0]
    assert list(missed) == [1, 1, 1, 0]
    assert list(wrongly) == [0, 0, 0, 0]


def process(rank, results):
    """Compute the loss and the gradient of one of two processes' halves of a batch."""
    torch.distributed.init_process_group("gloo", f"file://{results}/meeting", rank=rank, world_size=2)
    half = [tensor[rank : rank + 1] for tensor in batch(5, [{1, 2}, {1, 3, 4}])]
    logits = half[0].clone().requires_grad_()
    loss = LabelSetLoss(several=True)(logits, *half[1:])
    loss.backward()
    torch.save((loss.detach(), logits.grad), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # two processes import torch
def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(process, (str(tmp_path),), 2)
    logits, labels, sets = batch(5, [{1, 2}, {1, 3, 4}])
    logits.requires_grad_()
    loss = LabelSetLoss()(logits, labels, sets)
    loss.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, (one, gradient) in enumerate(parts):
        assert float(one) == pytest.approx(float(loss.detach()), abs=1e-6)
        torch.testing.assert_close(gradient[0] / 2, logits.grad[rank], msg="DDP takes the mean over processes")


def test_labels_that_few_classes_can_be_keep_little_for_the_gradient():
    classes = 15
    logits = torch.randn(1, classes, 4, 8, 8, requires_grad=True)
    shares = torch.rand(1, classes + 1, 4, 8, 8).softmax(1)
    sets = admissible_sets(range(1, 10), classes)[None]
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums_of_shares(logits, shares, sets)
    assert sum(storage.nbytes() for storage in kept.values()) < 12 * logits.nbytes


def test_several_processes_share_sums(monkeypatch):
    """The quick sister of test_two_processes_are_one."""
    whole = batch(5, [{1, 2}, {1, 3, 4}])
    halves = [[part[rank : rank + 1] for part in whole] for rank in range(2)]
    told = []
    monkeypatch.setattr(losses.AllGatherGrad, "apply", lambda total: told.append(total) or total[None])
    for half in halves:
        losses.LabelSetLoss(several=True)(*half)
    monkeypatch.setattr(losses.AllGatherGrad, "apply", lambda total: torch.stack(told))
    expected = float(losses.LabelSetLoss()(*whole))
    assert float(losses.LabelSetLoss(several=True)(*halves[0])) == pytest.approx(expected, abs=1e-6)
