"""Headers with changed bytes, through the scan and what `predict` does before the network: one line, no stop."""

import gzip
import random
import tracemalloc
from pathlib import Path

import pytest
from cohorts import image_array, write

from flare23_lib.dataset.image_info import read_info
from flare23_lib.dataset.quality import file_issues, image_issues, label_issues, pair_issues
from flare23_lib.errors import ImageError
from flare23_lib.inference.image_files import image_warnings
from flare23_lib.io import nifti
from flare23_lib.io.images import read_header
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import Label, LabelMap

LABELS = LabelMap((Label("liver", 1), Label("spleen", 3)))
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]
MEMORY = 64 << 20
"""Bytes that reading a file of a few hundred may take."""

QUICK, THOROUGH = 50, 5000


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """Change one to eight bytes of a header, or a whole field of it, to random or to telling values."""
    changed = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        place = chance.randrange(352)
        if chance.random() < 0.3:
            size = chance.choice([2, 4, 8])
            changed[place : place + size] = bytes([chance.choice(INTERESTING)]) * size
        else:
            changed[place] = chance.choice([chance.randrange(256), chance.choice(INTERESTING)])
    return bytes(changed[: len(raw)])


def scanned(path: Path, whole) -> None:
    """Do what the scan of a cohort does with an image, and with a label that lies on a whole image."""
    image, label = read_info(path, False), read_info(path, True)
    for info in (image, label, read_info(path, False, header_only=True)):
        assert bool(info.issue) == bool(info.error)
        assert "\n" not in info.error
        list(file_issues(info, False, 2.0))
    if not image.error:
        list(image_issues(image))
        list(pair_issues(whole, image))
    if not label.error:
        list(label_issues(label, LABELS))


def prepared(path: Path) -> None:
    """Do what a prediction does with an image before the network."""
    geometry, _ = read_header(path)
    volume = nifti.read_volume(path)
    assert volume.array.shape == geometry.shape
    image_warnings(path, volume)
    turn = Orientation.of(volume.geometry.affine, "canonical")
    turn.forward(volume.array)
    turn.spacing(volume.geometry.spacing)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of numbers at the ends of their range
@pytest.mark.parametrize("mutations", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)])
def test_no_changed_header_ends_in_anything_but_one_line(tmp_path, mutations):
    path, chance = tmp_path / "x.nii.gz", random.Random(mutations)
    write(path, image_array(1))
    whole, raw = read_info(path, False), gzip.decompress(path.read_bytes())
    refused = 0
    tracemalloc.start()
    for number in range(mutations):
        content = mutated(raw, chance)
        path.write_bytes(gzip.compress(content, 1) if number % 2 else content)
        path = path.rename(path.with_name("x.nii.gz" if number % 2 else "x.nii"))
        scanned(path, whole)
        try:
            prepared(path)
        except ImageError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert 0.1 * mutations < refused < 0.9 * mutations
