"""What machine the tests run on, and how long they wait on it."""

import pytest
import torch

from flare23_lib.runtime.precision import computes_in_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(torch.device("cpu")), reason="this CPU only emulates bfloat16"
)

PATIENCE = 4
"""Tests wait this many times as long as they would on a fast machine; a busy or slow one is no failure."""
