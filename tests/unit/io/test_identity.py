"""Whether two versions of a file can be told apart, however they are compressed."""

import gzip
import os

import numpy as np
import pytest
from cohorts import SETTINGS, changed, small_cohort

from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.errors import ImageError
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import header_for

SHAPE = (24, 20, 20)


def raw_image(seed):
    """A volume whose end is all air: the last gzip members of two are equal."""
    array = np.random.default_rng(seed).integers(-900, 400, SHAPE).astype(np.int16)
    array[18:] = -1024
    header = header_for(SHAPE, np.diag([-2.0, -2.0, 5.0, 1.0]), array.dtype)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock.ljust(352, b"\0") + array.tobytes()


def blocks(raw, size, level=0):
    return b"".join(gzip.compress(raw[i : i + size], level, mtime=0) for i in range(0, len(raw), size))


WAYS = {
    "block by block": lambda raw: blocks(raw, 4000),
    "two members": lambda raw: blocks(raw, 15000),
    "header and voxels apart": lambda raw: gzip.compress(raw[:352], mtime=0) + gzip.compress(raw[352:], 0, mtime=0),
    "an empty member last": lambda raw: gzip.compress(raw, 0, mtime=0) + gzip.compress(b"", mtime=0),
    "an empty member first": lambda raw: gzip.compress(b"", mtime=0) + gzip.compress(raw, 0, mtime=0),
    "zeros after it": lambda raw: gzip.compress(raw, 0, mtime=0) + bytes(64),
    "one member": lambda raw: gzip.compress(raw, 0, mtime=0),
    "not compressed": lambda raw: raw,
}


@pytest.mark.parametrize("pack", WAYS.values(), ids=WAYS)
def test_different_files_have_different_identities(tmp_path, pack):
    paths = [tmp_path / f"{seed}.nii.gz" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        path.write_bytes(pack(raw_image(seed)))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    assert file_identity(paths[0]) != file_identity(paths[1])


@pytest.mark.parametrize("place", [0, 400, 6000])
@pytest.mark.parametrize("pack", WAYS.values(), ids=WAYS)
def test_one_changed_voxel_changes_the_identity(tmp_path, pack, place):
    raw, path = raw_image(1), tmp_path / "label.nii.gz"
    path.write_bytes(pack(raw))
    before = file_identity(path)
    changed_raw = bytearray(raw)
    changed_raw[352 + place] ^= 1
    path.write_bytes(pack(bytes(changed_raw)))
    assert file_identity(path) != before


def test_the_identity_of_a_plain_gzip_file_is_its_size_and_trailer(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(raw_image(1)))
    assert file_identity(path) == f"{path.stat().st_size}-{path.read_bytes()[-8:].hex()}"


def test_a_file_that_is_no_volume_has_an_identity(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(b"something else"))
    assert file_identity(path).startswith(f"{path.stat().st_size}-")
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        file_identity(path)


def test_a_folder_under_an_images_name_cannot_be_read(tmp_path):
    (tmp_path / "x.nii.gz").mkdir()
    with pytest.raises(ImageError, match="cannot be read"):
        file_identity(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("check_images", ["header", "full"])
def test_two_images_of_blocks_are_no_duplicates(tmp_path, check_images):
    cohort = small_cohort(tmp_path)
    for seed, name in ((1, "e"), (2, "f")):
        cohort.image_path(name, "unlabeledTr1800").write_bytes(blocks(raw_image(seed), 4000))
    settings = changed(SETTINGS, scan={"check_images": check_images})
    assert scan_cohort(cohort.root, settings, cohort.memory).issues == []


def test_a_label_of_blocks_that_changed_is_another_label(tmp_path):
    cohort = small_cohort(tmp_path)
    path = cohort.label_path("a")
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(blocks(plain, 360))
    before = cohort.scan().cases[0]
    edited = bytearray(plain)
    edited[352] = 2
    path.write_bytes(blocks(bytes(edited), 360))
    os.utime(path, ns=(1, 1))
    after = cohort.scan().cases[0]
    assert (before.labels_present, after.labels_present) == ([1, 14], [2, 14])
    assert before.label_id != after.label_id
