"""`flare23 clean` and `verify`: what goes, what stays, and when nothing may go."""

import shutil

import numpy as np
import pytest
from conftest import CHAIN, CONFIGURATION, flare23, run_snakemake
from faults import flip
from places import BASE_CONFIG, RECIPE

from flare23_lib import versions
from flare23_lib.cache import entries
from flare23_lib.cache.results import Results
from flare23_lib.cli import main
from flare23_lib.config import Config
from flare23_lib.errors import StoreError
from flare23_lib.io import atomic, locks, tables
from flare23_lib.io.atomic import read_json
from flare23_lib.io.nifti import read_labels, write_volume
from flare23_lib.io.tables import read_csv
from flare23_lib.nnunet.training_job import CHECKPOINTS
from flare23_lib.preprocessing.fit_intensity import intensity_folder
from flare23_lib.workflow import cleanup
from flare23_lib.workflow.cleanup import unused
from flare23_lib.workflow.status import Plan


def clean(folder, *arguments):
    return flare23(folder, "clean", *CONFIGURATION, *arguments)


def files(folder):
    return {path for path in (folder / "results/store").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def changed_back(finished_chain, tmp_path_factory):
    """A chain in whose store lie the labels of a setting that was changed back."""
    folder = tmp_path_factory.mktemp("changed_back") / "chain"
    shutil.copytree(finished_chain, folder, symlinks=True)
    changed = folder / "changed.yaml"
    changed.write_text(CHAIN.read_text() + "\ncompletions: {tumor: {conflict_policy: ignore}}\n")
    for configfile in (changed, CHAIN):
        done = run_snakemake(folder, "--", "results/completed_labels/tumor/conflicts.csv", configfile=configfile)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def leftover(finished_chain, changed_back, tmp_path):
    """A copy with a file half written too; the files that were in the store before, and those that are left."""
    chain = tmp_path / "chain"
    shutil.copytree(changed_back, chain, symlinks=True)
    before = {chain / path.relative_to(finished_chain) for path in files(finished_chain)}
    half = chain / "results/store/segmentations" / f"{atomic.TEMPORARY_MARK}x-case.nii.gz"
    half.write_bytes(b"half")
    left = files(chain) - before
    assert len(left) > 1
    return chain, before, left


def test_clean_deletes_what_nothing_uses_when_it_is_told_to(leftover):
    chain, before, left = leftover
    asked = clean(chain)
    assert "are unused; --yes deletes them" in asked.stdout
    assert files(chain) == before | left
    done = clean(chain, "--yes")
    assert done.returncode == 0, done.stderr
    assert files(chain) == before
    assert "0 missing or broken" in flare23(chain, "verify", *CONFIGURATION).stdout
    assert "computes nothing" in flare23(chain, "status", *CONFIGURATION).stdout


def test_in_a_folder_that_is_used_only_the_unused_entries_go(chain):
    row = read_csv(chain / "results/completed_labels/tumor/conflicts.csv")[0]
    label = chain / "results" / row["file"]
    name, _, rest = label.name.partition(".")
    digest, _, suffix = rest.partition(".")
    idle = [label.with_name(f"{name}.{digest[::-1]}.{end}") for end in (suffix, "json")]
    before = files(chain)
    for copy, end in zip(idle, (suffix, "json"), strict=True):
        shutil.copy(label.with_name(f"{name}.{digest}.{end}"), copy)
    assert "in 2 files and folders" in clean(chain).stdout
    assert clean(chain, "--yes").returncode == 0
    assert files(chain) == before


def test_nothing_is_deleted_while_a_job_or_the_workflow_is_at_work(leftover):
    chain, before, left = leftover
    folder = next((chain / "results/store/completed_labels").iterdir())
    with locks.lock(folder / ".lock-tumor-0-of-1"):
        refused = clean(chain, "--yes")
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith(f"{folder.relative_to(chain)}; nothing was deleted")
    snakemake_locks = chain / ".snakemake/locks"
    snakemake_locks.mkdir(exist_ok=True)
    (snakemake_locks / "0.output.lock").touch()
    refused = clean(chain, "--yes")
    assert refused.returncode == 1
    assert "--unlock" in refused.stderr
    assert files(chain) == before | left


def test_unfinished_work_stays_while_it_cannot_be_told_from_unused_files(leftover):
    chain, _, _ = leftover
    weights = chain / "results" / read_json(chain / "results/training/organ_teacher/training.json")["weights"]
    shutil.copytree(weights.parent, weights.parent.with_name("0123456789abcdef"))
    weights.unlink()
    before = files(chain)
    refused = clean(chain, "--yes")
    assert refused.returncode == 1
    assert "pseudo-labels of tumor and what follows is not known yet" in refused.stderr
    assert files(chain) == before
    assert "resumes from its last checkpoint" in flare23(chain, "status", *CONFIGURATION).stdout


def test_a_lost_label_of_a_base_is_known_by_its_metadata(chain, tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text(
        CHAIN.read_text() + "\ncompletions:\n  again: {category: tumor, teacher: tumor_teacher, base: tumor, "
        "conflict_policy: ignore}\n"
    )
    options = [*BASE_CONFIG, "--configfile", str(second)]
    done = run_snakemake(chain, "--", "results/completed_labels/again/conflicts.csv", configfile=second)
    assert done.returncode == 0, done.stderr
    row = read_csv(chain / "results/completed_labels/tumor/conflicts.csv")[0]
    (chain / "results" / row["file"]).unlink()
    lost = flare23(chain, "status", *options).stdout
    assert [line.split()[2:4] for line in lost.splitlines() if line.startswith("completion")][-1] == ["2", "-"]


def test_verify_withdraws_broken_records_and_bundles(chain):
    results = chain / "results"
    shard = results / "pseudo_labels/unlabeled/0-of-1.csv"
    training = results / "training/organ_teacher/training.json"
    weights = results / "models/student/model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    training.write_bytes(b"")
    flip(weights, -1)
    link = next((results / "completed_labels/tumor").glob("*.nii.gz"))
    link.unlink()
    refused = clean(chain, "--yes")
    assert refused.returncode == 1
    assert "flare23 verify" in refused.stderr
    found = flare23(chain, "verify", *CONFIGURATION)
    assert found.returncode == 1
    assert not (results / "completed_labels/tumor/conflicts.csv").exists()
    for path in (shard, training, weights, link):
        assert f"missing or broken: {path.relative_to(chain)}" in found.stdout
        assert not path.exists()


def test_verify_reads_files_whole_with_its_option_alone(tmp_path, capsys):
    results = Results(tmp_path / "results")
    entry = results.cache("segmentations", {"version": 1}).create().entry("case", {})
    path = entry.file(".nii.gz")
    path.write_bytes(bytes(100_000))
    entry.save([".nii.gz"], {})
    record = results.root / "predictions/student/0-of-1.csv"
    tables.write_csv(record, ["case", "file"], [{"case": "case", "file": results.relative(path)}])
    flip(path, 50_000)
    command = ["verify", *BASE_CONFIG, "--config", f"results={results.root}"]
    for options, code in ([], 0), (["--deep"], 1):
        assert main([*command, *options]) == code
        assert f"{code} missing or broken" in capsys.readouterr().out
        assert path.exists() == record.exists() == (code == 0)


def test_what_records_list_stays_while_cases_are_not_there(chain):
    """A folder may be missing only for the moment."""
    before = files(chain)
    elsewhere = chain / "elsewhere"
    (chain / "cohort/unlabelTr1800").rename(elsewhere)
    done = clean(chain, "--yes")
    assert "sources.flare23.unlabeled_images: there is no folder" in done.stdout
    assert before - files(chain) == set()
    assert "there is no folder" in flare23(chain, "status", *CONFIGURATION).stdout


def test_checkpoints_of_an_unfinished_training_stay_while_it_is_of_other_cases(chain):
    finished = next((chain / "results/store/training").iterdir())
    other = shutil.copytree(finished, finished.with_name("0123456789abcdef"), symlinks=True)
    (other / "model.json").unlink()
    checkpoint = other / CHECKPOINTS / "checkpoint_latest.pth"
    checkpoint.write_bytes(b"weights")
    done = clean(chain, "--yes")
    assert str(other.relative_to(chain)) in done.stdout
    assert checkpoint.exists()
    assert clean(chain, "--yes", "--unfinished").returncode == 0
    assert not other.exists()
    assert finished.exists()


def test_records_of_another_number_of_shards_keep_nothing(chain):
    record = chain / "results/completed_labels/tumor/0-of-1.csv"
    row = read_csv(record)[0]
    earlier = record.with_name("0-of-3.csv")
    entry = entries.Entry(entries.CacheFolder((chain / "results" / row["file"]).parent), "old.0123456789ab")
    shutil.copy(chain / "results" / row["file"], entry.file(".nii.gz"))
    entry.save([".nii.gz"], {})
    file = entry.file(".nii.gz").relative_to(chain / "results")
    tables.write_csv(earlier, ["case", "file"], [{"case": "old", "file": file}])
    record.rename(chain / "record")
    assert clean(chain, "--yes").returncode == 0
    assert earlier.exists()
    assert entry.load() is not None, "the current records are not there"
    (chain / "record").rename(record)
    assert clean(chain, "--yes").returncode == 0
    assert not entry.metadata_path.exists()
    assert not earlier.exists()
    assert record.exists()


def test_records_of_what_left_the_configuration_stay_whatever_their_shards(chain, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text("models: {student: null}\n")
    begun = chain / "results/preprocessed/student/1-of-2.csv"
    begun.write_bytes((chain / "results/preprocessed/student/0-of-1.csv").read_bytes())
    before = files(chain)
    assert clean(chain, "--yes", "--configfile", str(CHAIN), str(changed)).returncode == 0
    assert {path for path in before - files(chain) if path.parts[-3] != "efficiency"} == set()
    assert begun.exists()


def test_what_a_killed_job_left_of_a_record_is_no_record(chain):
    half = chain / f"results/completed_labels/tumor/{atomic.TEMPORARY_MARK}abc-0-of-1.csv"
    half.touch()
    assert clean(chain).returncode == 0
    assert "0 missing or broken" in flare23(chain, "verify", *CONFIGURATION).stdout
    assert (chain / "results/completed_labels/tumor/conflicts.csv").exists()


def test_a_damaged_table_is_gathered_again(chain):
    table = chain / "results/completed_labels/tumor/conflicts.csv"
    content = table.read_bytes()
    without_a_row = b"".join(content.splitlines(keepends=True)[:-1])
    for damaged in (b"", content.replace(b"case,", b"cas,", 1), without_a_row):
        table.write_bytes(damaged)
        assert "1 missing or broken" in flare23(chain, "verify", *CONFIGURATION).stdout
        assert not table.exists()
    assert run_snakemake(chain, "--", "results/completed_labels/tumor/conflicts.csv").returncode == 0
    assert table.read_bytes() == content


def test_measurements_whose_table_is_still_to_be_written_stay(chain):
    (chain / "results/evaluation/student/efficiency.csv").unlink()
    before = files(chain)
    assert clean(chain, "--yes").returncode == 0
    assert files(chain) == before


def test_scores_of_a_reference_that_changed_are_to_be_made_again(chain):
    reference = sorted((chain / "cohort/validation-gt").iterdir())[0]
    volume = read_labels(reference)
    write_volume(reference, np.roll(volume.array, 1, axis=1), volume.header)
    done = run_snakemake(chain, "--dry-run", "--", "evaluation")
    assert "evaluate" in done.stdout + done.stderr


def saved(entry):
    """Save an entry without files, and return its folder."""
    entry.folder.create()
    entry.save([], {})
    return entry.folder.path


def test_small_results_that_no_record_lists_stay_for_other_configurations(cohort, tmp_path, monkeypatch):
    results, config = Results(tmp_path), Config.load([RECIPE])
    folder = saved(intensity_folder(results).entry("case", {"image": "1"}))
    plan = Plan(cohort.scan())
    assert unused(results, plan, config) == []
    monkeypatch.setattr(versions, "INTENSITY", 99)
    assert unused(results, plan, config) == [folder]


@pytest.mark.parametrize("linked", ["store", "store/segmentations"])
def test_work_behind_links_is_seen_and_what_was_left_half_written_there_removed(tmp_path, monkeypatch, linked):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/store/segmentations/0123456789abcdef"
    folder.mkdir(parents=True)
    place = tmp_path / "results" / linked
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    half = folder / f"{atomic.THIS_MACHINE}abcd_123-case.nii.gz"
    half.write_bytes(b"half")
    with locks.lock(folder / ".lock-0-of-1"), pytest.raises(StoreError, match=r"a job works in .*/segmentations/"):
        cleanup.clean(Results(tmp_path / "results"), [])
    assert half.exists()
    cleanup.clean(Results(tmp_path / "results"), [])
    assert not half.exists()


def test_a_file_that_is_being_written_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results/models/student/model.json"
    with atomic.atomic_path(path) as temporary:
        temporary.write_bytes(b"whole")
        cleanup.clean(Results(tmp_path / "results"), [])
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("name", [None, "about.json"])
def test_folders_of_version_0_1_and_those_without_a_manifest_are_listed(cohort, tmp_path, name):
    results, plan, config = Results(tmp_path), Plan(cohort.scan()), Config.load([RECIPE])
    folder = saved(results.cache("segmentations", {"version": 1}).entry("case", {}))
    (folder.parent / "notes").mkdir()
    assert unused(results, plan, config) == [folder]
    manifest = folder / entries.MANIFEST
    manifest.unlink() if name is None else manifest.rename(folder / name)
    assert unused(results, plan, config) == [folder]


def test_clean_is_refused_before_new_images_are_read(cohort):
    results = Results(cohort.root / "results")
    folder = saved(results.cache("segmentations", {"version": 1}).entry("case", {}))
    options = [*BASE_CONFIG, "--config", f"cohort={cohort.root}", f"results={results.root}"]
    with locks.lock(folder / ".lock-0-of-1"):
        refused = flare23(cohort.root, "clean", "--yes", *options)
    assert refused.returncode == 1
    assert "a job works in" in refused.stderr
    assert not results.scan_memory.exists()
    assert flare23(cohort.root, "clean", *options).returncode == 1, "the student is not trained"
    assert results.scan_memory.exists()
