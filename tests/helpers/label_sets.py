"""What tests of the label set loss draw, and the gradients that it should have."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from flare23_lib.nnunet.losses import LabelSetLoss

SEEDS = st.integers(0, 2**31)


def annotated_in_two(classes: int) -> st.SearchStrategy:
    """Which classes of so many were annotated in each of two cases."""
    return st.lists(st.sets(st.integers(1, classes - 1)), min_size=2, max_size=2)


def assert_gradients_are_finite_differences(logits, target, sets, seed: int, tolerance: float) -> None:
    logits = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(LabelSetLoss()(logits, target, sets), logits)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for _ in range(2):
            place = tuple(int(random.integers(size)) for size in logits.shape)
            step = torch.zeros_like(logits)
            step[place] = 1e-5
            difference = LabelSetLoss()(logits + step, target, sets) - LabelSetLoss()(logits - step, target, sets)
            assert float(gradient[place]) == pytest.approx(float(difference) / 2e-5, abs=tolerance)
