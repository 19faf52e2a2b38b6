"""Weights and checkpoints: what the libraries' own readers read, and errors of the disk."""

import errno
import resource

import pytest
import torch
from bundles import some_weights
from processes import CONTEXT
from safetensors.torch import load_file, save_file

from flare23_lib.networks.weight_files import save_checkpoint, save_weights

LIMIT = 20_000
"""Bytes after which a file cannot grow, as on a full disk."""


def test_weights_are_the_bytes_that_safetensors_writes(tmp_path):
    weights = some_weights() | {"größe": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1), "": torch.tensor(1.5)}
    save_weights(tmp_path / "model.safetensors", weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "expected")
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    assert load_file(tmp_path / "model.safetensors").keys() == weights.keys()


def write_past_the_limit(save_file, path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    with pytest.raises(OSError) as caught:
        save_file(path, {str(number): torch.ones(1000) for number in range(20)})
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("save_file", [save_weights, save_checkpoint])
def test_a_file_that_cannot_be_written_to_its_end_is_an_error_of_the_system(tmp_path, save_file):
    process = CONTEXT.Process(target=write_past_the_limit, args=(save_file, tmp_path / "x"))
    process.start()
    process.join()
    assert process.exitcode == 0
