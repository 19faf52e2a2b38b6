"""Flipped bits in kept files: noticed, or without effect."""

import numpy as np
import pytest

from flare23_lib.cache.entries import CacheFolder
from flare23_lib.cache.results import Results
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.workflow.verify import verify

INPUTS = {"image": "123-abc", "exclude": [1, 2], "spacing": [2.5, 0.8, 0.8]}
RESULTS = {"labels_present": [1, 14], "agreement": {"1": 0.98765, "14": None}, "name": "Müller", "ignored": False}


def an_entry(root):
    entry = CacheFolder.of(root / "store", "segmentations", {"a": 1}).create().entry("case", INPUTS)
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:3, 1:3] = 1
    write_volume(entry.file(".nii.gz"), array, header_for(array.shape, np.eye(4), array.dtype))
    entry.save([".nii.gz"], RESULTS)
    return entry


def flipped(path):
    """Flip each bit of a file once, and write it back."""
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
    path.write_bytes(whole)


def test_every_flipped_bit_of_metadata_is_noticed_or_without_effect(tmp_path):
    entry = an_entry(tmp_path)
    before = entry.load()
    assert before["results"] == RESULTS
    noticed = 0
    for bit in flipped(entry.metadata_path):
        loaded = entry.load()
        assert loaded in (None, before), bit
        noticed += loaded is None
    assert entry.load() == before
    assert noticed > 6 * entry.metadata_path.stat().st_size


def test_every_flipped_bit_of_a_file_is_noticed_when_it_is_read_whole(tmp_path):
    entry = an_entry(tmp_path)
    metadata = entry.load()
    for bit in flipped(entry.file(".nii.gz")):
        assert entry.broken_files(metadata, deep=True), bit
    assert entry.broken_files(metadata, deep=True) == []


@pytest.mark.parametrize("deep", [False, True])
def test_verify_reads_files_whole_where_it_is_asked_to(tmp_path, deep):
    results, entry = Results(tmp_path), an_entry(tmp_path)
    record = tmp_path / "predictions" / "student" / "0-of-1.csv"
    write_csv(record, ["case", "file"], [{"case": "case", "file": results.relative(entry.file(".nii.gz"))}])
    content = bytearray(entry.file(".nii.gz").read_bytes())
    content[30] ^= 1
    entry.file(".nii.gz").write_bytes(content)
    found = verify(results, deep=deep)
    assert found.broken == ([entry.file(".nii.gz")] if deep else [])
    assert record.exists() != deep


def test_entries_of_version_0_1_are_found_again(tmp_path):
    import json

    entry = an_entry(tmp_path)
    metadata = json.loads(entry.metadata_path.read_text())
    del metadata["checksum"]
    metadata["files"] = {suffix: found[:2] for suffix, found in metadata["files"].items()}
    entry.metadata_path.write_text(json.dumps(metadata))
    assert entry.load()["results"] == RESULTS
    assert entry.broken_files(entry.load(), deep=True) == []
