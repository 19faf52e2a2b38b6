"""Flipped bits in kept files: noticed, or without effect."""

import blosc2
import numpy as np
import pandas as pd
import pytest
from bundles import a_model
from faults import flip

from flare23_lib.cache.entries import CacheFolder, Entry
from flare23_lib.cache.results import Results, collect
from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.dataset.read_files import _line, remembered
from flare23_lib.errors import BundleError, StoreError
from flare23_lib.evaluation.tables import read_table, write_table
from flare23_lib.inference.model import read_model
from flare23_lib.io.atomic import checksums_in, read_json, write_json
from flare23_lib.io.checksum import checksum_file, with_checksum
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.io.tables import read_csv, write_csv
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


def flipped(path, step=1):
    """Flip each so manieth bit of a file, in place, and flip it back."""
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(path.read_bytes()):
            for bit in range(8):
                if (place * 8 + bit) % step == 0:
                    file.seek(place)
                    file.write(bytes([byte ^ 1 << bit]))
                    yield place * 8 + bit
                    file.seek(place)
                    file.write(bytes([byte]))


SAMPLE_OR_ALL = pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])


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


def a_table(root):
    path = root / "cohort" / "categories.csv"
    with checksums_in(path.parent):
        write_csv(path, ["category", "cases"], [{"category": "tumor", "cases": 1497}, {"category": "ü"}])
    return path, lambda: read_csv(path)


def a_record(root):
    path = root / "training" / "student" / "intensity.json"
    with checksums_in(path.parent):
        write_json(path, {"cases": 3, "seconds": 1.5, "labels_unseen": ["tumor"]})
    return path, lambda: read_json(path)


def scores(root):
    path = root / "evaluation" / "student" / "metrics.csv"
    with checksums_in(path.parent):
        write_table(path, pd.DataFrame([["case", 0.9876, "ok"]], columns=["Name", "liver_DSC", "status"]))
    return path, lambda: read_table(path).to_dict()


def a_manifest(root):
    key = {"version": 1, "model": "abc", "inference": {"step": 0.5}}
    folder = CacheFolder.of(root / "store", "segmentations", key)
    return folder.create().path / "manifest.json", folder.read_key


def a_description(root):
    path = root / "models" / "student" / "model.json"
    write_json(path, with_checksum(a_model().to_json()))
    return path, lambda: read_model(path.parent)


def a_scan(root):
    """Two remembered files; of a damaged line the file is read again, so that the memory holds nothing else."""
    path = root / "store" / "scan" / "files.jsonl"
    info = ImageInfo("1-ab", shape=(2, 3, 4), spacing=(5.0, 1.0, 1.0), low=-1000.0, voxels={1: 24})
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(_line((f"{name}.nii.gz", True, False, 100, 200, ""), info) for name in "ab"))
    whole = remembered(path)

    def read():
        found = remembered(path)
        if found == whole:
            return whole
        if found.items() <= whole.items():
            raise StoreError("a line is passed over")
        return found

    return path, read


@SAMPLE_OR_ALL
@pytest.mark.parametrize("make", [a_table, a_record, scores, a_manifest, a_description, a_scan])
def test_every_flipped_bit_of_a_small_file_is_noticed_or_without_effect(tmp_path, make, step):
    path, read = make(tmp_path)
    before, noticed, flips = read(), 0, 0
    for bit in flipped(path, step):
        flips += 1
        try:
            found = read()
        except (StoreError, BundleError) as error:
            found = None
            assert str(path) in str(error) or make is a_scan
        assert found in (None, before), bit
        noticed += found is None
    assert read() == before
    assert noticed > 0.8 * flips


@pytest.mark.parametrize("make", [a_table, a_record, scores])
def test_verify_names_a_changed_file_and_deletes_those_of_its_folder(tmp_path, make):
    path, read = make(tmp_path)
    other = path.with_name("other.csv")
    with checksums_in(path.parent):
        write_csv(other, ["a"], [{"a": 1}])
    write_csv(path.with_name("plain.csv"), ["a"], [{"a": 1}])
    whole = path.read_bytes()
    assert not verify(Results(tmp_path)).broken
    path.write_bytes(whole.replace(b"e", b"d", 1))
    with pytest.raises(StoreError, match=r"has changed since it was written .*If the change is yours, delete "):
        read()
    found = verify(Results(tmp_path))
    assert found.broken == [path]
    assert sorted(found.withdrawn) == sorted([path, other])
    assert [left.name for left in path.parent.glob("*.csv")] == ["plain.csv"]


def test_a_file_without_a_checksum_is_read_as_it_is_and_one_that_is_written_again_has_no_old_one(tmp_path):
    path, read = a_table(tmp_path)
    checksum_file(path).unlink()
    path.write_bytes(path.read_bytes().replace(b"1497", b"1498"))
    assert read()[0]["cases"] == "1498"
    path, read = a_table(tmp_path)
    write_csv(path, ["category"], [{"category": "tumor"}])
    assert read() == [{"category": "tumor"}]


def test_a_flipped_bit_of_a_checksum_is_a_false_alarm_or_without_effect(tmp_path):
    path, read = a_table(tmp_path)
    before = read()
    for _ in flipped(checksum_file(path)):
        try:
            assert read() == before
        except StoreError as error:
            assert str(path) in str(error)


def test_a_manifest_with_a_flipped_bit_is_written_again_with_the_next_file(tmp_path):
    path, _ = a_manifest(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"abc", b"abd"))
    assert verify(Results(tmp_path)).broken == [path]
    a_manifest(tmp_path)
    assert path.read_bytes() == whole


@SAMPLE_OR_ALL
def test_a_blosc2_file_with_a_flipped_bit_is_refused_before_it_is_opened(tmp_path, step):
    """blosc2's own reader takes some for other voxels, and does not end on others."""
    results = Results(tmp_path)
    entry = CacheFolder.of(tmp_path / "store", "preprocessed_labels", {}).create().entry("case", INPUTS)
    array = np.zeros((1, 6, 7, 8), np.int16)
    array[0, 1:4, 2:5, 3:6] = 14
    entry.file(".b2nd").write_bytes(blosc2.asarray(array, chunks=(1, 3, 7, 8), blocks=(1, 3, 4, 4)).to_cframe())
    entry.save([".b2nd"], {})
    file = results.relative(entry.file(".b2nd"))
    results.require_whole([file])
    for bit in flipped(entry.file(".b2nd"), step):
        with pytest.raises(StoreError, match="damaged; run `flare23 verify --deep`"):
            results.require_whole([file])
            pytest.fail(f"bit {bit} was not noticed")


def listed(results, entry, suffix, kind):
    """Write the record of a stage that lists a file."""
    file = results.relative(entry.file(suffix))
    if kind == "training":
        record = results.training("student")
        write_json(record, {"weights": file})
    else:
        record = results.root / kind / "student" / "0-of-1.csv"
        column = {"preprocessed": "image"}.get(kind, "file")
        write_csv(record, ["case", column], [{"case": "case", column: file}])
    return record


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("kind", "stage", "suffixes"),
    [
        ("predictions", "segmentations", [".nii.gz"]),
        ("completed_labels", "completed_labels", [".nii.gz"]),
        ("preprocessed", "preprocessed_images", [".b2nd"]),
        ("preprocessed", "preprocessed_labels", [".b2nd", ".pkl"]),
        ("evaluation", "efficiency", [".curve.csv"]),
        ("training", "training", [".safetensors", ".csv"]),
    ],
)
def test_verify_reads_large_files_of_any_kind_whole_where_it_is_asked_to(tmp_path, deep, kind, stage, suffixes):
    results, folder = Results(tmp_path), CacheFolder.of(tmp_path / "store", stage, {"a": 1}).create()
    entry = Entry(folder, "model") if kind == "training" else folder.entry("case", INPUTS)
    for suffix in suffixes:
        entry.file(suffix).write_bytes(np.random.default_rng(len(suffix)).bytes(100_000))
    entry.save(suffixes, {})
    record = listed(results, entry, suffixes[0], kind)
    if kind == "evaluation":
        record = record.rename(record.with_name("efficiency.csv"))
    for suffix in suffixes:
        assert verify(results, deep=deep).broken == []
        path = entry.file(suffix)
        whole = path.read_bytes()
        flip(path, 50_000)
        kept = record.read_bytes()
        found = verify(results, deep=deep)
        assert found.broken == ([path] if deep else [])
        assert record.exists() != deep
        assert (entry.load() is None) == deep, "the next run makes what was found broken"
        assert entry.metadata() is not None
        path.write_bytes(whole)
        record.write_bytes(kept)


@pytest.mark.parametrize("suffix", [".json", ".nii.gz"])
def test_verify_names_what_cannot_be_read_and_looks_at_the_rest(tmp_path, suffix):
    results, entry = Results(tmp_path), an_entry(tmp_path)
    record = listed(results, entry, ".nii.gz", "predictions")
    entry.file(suffix).unlink()
    entry.file(suffix).mkdir()
    manifest = entry.folder.path / "manifest.json"
    manifest.write_text("")
    found = verify(results)
    assert found.broken == [entry.file(suffix), manifest]
    assert found.withdrawn == [record, manifest]


@pytest.mark.parametrize("target", [None, "nowhere.nii.gz", "b.nii.gz", "a.nii.gz"])
def test_verify_finds_links_that_lead_nowhere_or_to_another_case(tmp_path, target):
    results = Results(tmp_path)
    folder = CacheFolder.of(tmp_path / "store", "segmentations", {"a": 1}).create()
    rows = []
    for case in "ab":
        entry = folder.entry(case, INPUTS)
        entry.file(".nii.gz").write_bytes(case.encode())
        entry.save([".nii.gz"], {})
        rows.append({"case": case, "file": results.relative(entry.file(".nii.gz"))})
    record, table = (tmp_path / "predictions" / "student" / name for name in ("0-of-1.csv", "predictions.csv"))
    write_csv(record, ["case", "file"], rows)
    write_csv(table, ["case", "file"], collect(results, "predictions", "student", 1, ["a", "b"]))
    assert verify(results).broken == []
    link = table.with_name("a.nii.gz")
    link.unlink()
    if target is not None:
        link.symlink_to(target)
    assert verify(results).broken == [link]
    assert not table.exists()
    collect(results, "predictions", "student", 1, ["a", "b"])
    assert link.read_bytes() == b"a"


def test_entries_of_version_0_1_are_found_again(tmp_path):
    import json

    entry = an_entry(tmp_path)
    metadata = json.loads(entry.metadata_path.read_text())
    del metadata["checksum"]
    metadata["files"] = {suffix: found[:2] for suffix, found in metadata["files"].items()}
    entry.metadata_path.write_text(json.dumps(metadata))
    assert entry.load()["results"] == RESULTS
    assert entry.broken_files(entry.load(), deep=True) == []
