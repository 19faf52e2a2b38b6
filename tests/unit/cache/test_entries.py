import errno
import json
import multiprocessing
import signal
import time

import pytest
from machines import PATIENCE

from flare23_lib.cache import entries
from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results, collect
from flare23_lib.errors import StoreError
from flare23_lib.io import atomic, locks
from flare23_lib.io.tables import write_csv


def test_a_fingerprint_ignores_the_order_of_keys_and_nothing_else():
    assert entries.fingerprint({"a": 1, "b": 2}) == entries.fingerprint({"b": 2, "a": 1})
    assert entries.fingerprint({"a": 1, "b": 2}) != entries.fingerprint({"a": 1, "b": 3})
    assert entries.fingerprint([1, 2]) != entries.fingerprint([2, 1])


def test_a_fingerprint_is_the_same_on_every_machine():
    assert entries.fingerprint("training", {"epochs": 2000, "lr": 0.01}) == "4325b106b25099e6"


def test_shards_share_out_every_case_once_and_stay_when_cases_are_added():
    cases = [f"case_{number:04d}" for number in range(400)]
    homes = {case: [i for i in range(8) if case in entries.Shard(i, 8)] for case in cases}
    assert all(len(home) == 1 for home in homes.values())
    assert {home[0] for home in homes.values()} == set(range(8))
    assert "case_0001" in entries.Shard(3, 8)


def test_an_entry_without_its_metadata_or_with_a_cut_file_is_not_whole(tmp_path):
    folder = entries.CacheFolder.of(tmp_path, "labels", {"version": 1}).create()
    entry = folder.entry("case", {"image": "123"})
    entry.file(".txt").write_text("0123456789")
    assert entry.load() is None
    entry.save([".txt"], {"voxels": 10})
    assert entry.load()["results"] == {"voxels": 10}
    entry.file(".txt").write_text("0123")
    assert entry.load() is None


def test_other_inputs_are_another_entry_and_other_settings_another_folder(tmp_path):
    folder = entries.CacheFolder.of(tmp_path, "labels", {"version": 1})
    assert folder.entry("case", {"image": "1"}).name != folder.entry("case", {"image": "2"}).name
    assert folder.path != entries.CacheFolder.of(tmp_path, "labels", {"version": 2}).path


def test_the_manifest_tells_what_the_fingerprint_was_made_of(tmp_path):
    folder = entries.CacheFolder.of(tmp_path, "labels", {"version": 1, "step": 0.5}).create()
    assert json.loads((folder.path / "manifest.json").read_text())["key"] == {"version": 1, "step": 0.5}


def _hold(path, held):
    with locks.lock(path):
        held.set()
        time.sleep(1000)


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held))
    holder.start()
    assert held.wait(60 * PATIENCE)
    with locks.lock(tmp_path / "lock", waiting=holder.kill):
        holder.join(60 * PATIENCE)
    assert holder.exitcode == -signal.SIGKILL


def test_a_lock_is_seen_while_it_is_held_and_its_file_stays(tmp_path):
    path = tmp_path / ".lock"
    with locks.lock(path):
        assert locks.is_locked(path)
        assert locks.try_lock(path) is None
    assert not locks.is_locked(path)
    assert path.exists()


def test_a_file_system_without_locks_is_named_and_never_replaced_by_a_file_that_outlives_its_holder(
    tmp_path, monkeypatch
):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StoreError, match=r"\.lock: its file system has no file locks"),
        locks.lock(tmp_path / ".lock"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_missing_record_is_named_with_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.json"):
        atomic.read_json(tmp_path / "nowhere.json")


def test_a_half_made_link_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / f"{atomic.TEMPORARY_MARK}x-nnunet").symlink_to("folder")
    atomic.remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_collecting_job_names_what_no_record_has_and_removes_links_of_other_cases(tmp_path):
    results = Results(tmp_path / "results")
    entry = results.cache("segmentations", {}).create().entry("a", {})
    entry.file(".nii.gz").write_bytes(b"")
    record = results.shard("predictions", "m", Shard())
    write_csv(record, ["case", "file"], [{"case": "a", "file": results.relative(entry.file(".nii.gz"))}])
    old = record.with_name("gone.nii.gz")
    old.symlink_to("nowhere")
    with pytest.raises(StoreError, match="1 of 2 cases are in no record: b"):
        collect(results, "predictions", "m", 1, ["a", "b"])
    assert [row["case"] for row in collect(results, "predictions", "m", 1, ["a"])] == ["a"]
    assert not old.is_symlink()


def made_slowly(folder, log):
    def make(entry):
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return entry.save([], {})

    entries.CacheFolder(folder.path, folder.key).entry("case", {}).load_or_make("lock", make)


def test_of_two_processes_that_miss_an_entry_one_makes_it(tmp_path):
    folder = entries.CacheFolder.of(tmp_path, "labels", {"a": 1}).create()
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=made_slowly, args=(folder, tmp_path / "log")) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert (tmp_path / "log").read_text() == "made\n"


def test_an_entry_whose_file_cannot_be_read_is_none(tmp_path):
    entry = entries.CacheFolder.of(tmp_path, "labels", {}).create().entry("case", {})
    entry.file(".txt").write_text("0123456789")
    entry.save([".txt"], {})
    entry.file(".txt").unlink()
    entry.file(".txt").mkdir()
    assert entry.load() is None


@pytest.mark.parametrize("text", ["4-of-4", "-1-of-4", "0-of-0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=text):
        entries.Shard.parse(text)


def test_a_file_of_a_few_bytes_has_a_checksum(tmp_path):
    (tmp_path / "x").write_bytes(b"0123")
    assert entries.checksum(tmp_path / "x") == [4, "30313233"]
