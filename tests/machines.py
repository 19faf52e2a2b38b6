"""What machine the tests run on."""

import pytest
import torch

from flare23_lib.precision import computes_in_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(torch.device("cpu")), reason="this CPU only emulates bfloat16"
)
