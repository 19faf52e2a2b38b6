"""Writes that fail: nothing half-written stays, and the message names the file."""

import errno
import os
import stat
from pathlib import Path

import pytest

from flare23_lib.cli import main
from flare23_lib.errors import StoreError
from flare23_lib.io.atomic import atomic_path, link_to, write_json, write_text
from flare23_lib.io.tables import write_csv

CALLS = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "write": (Path, "write_text")}


@pytest.fixture
def failing(monkeypatch):
    """Make a call of the operating system fail with an error number and without a file name, as write() does."""

    def fail(call, number):
        def raise_error(*arguments, **options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(*CALLS[call], raise_error)

    return fail


@pytest.mark.parametrize("call", CALLS)
def test_an_error_names_the_file_and_leaves_the_old_one_alone(tmp_path, failing, call):
    path = tmp_path / "record.csv"
    path.write_text("before")
    failing(call, errno.ENOSPC)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        write_text(path, "after")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [lambda path: write_json(path, {}), lambda path: write_csv(path, ["a"], [])])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "file" / "table.csv")
    assert Path(caught.value.filename).is_relative_to(tmp_path / "file")


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source")


def test_the_command_line_names_the_file_on_a_full_disk(tmp_path, failing, capsys, monkeypatch):
    failing("fsync", errno.ENOSPC)
    collect = "flare23_lib.inference.segmentations.collect_predictions"
    monkeypatch.setattr(collect, lambda results, model, shards, output: write_csv(output, ["case"], []))
    output = tmp_path / "results" / "predictions" / "m" / "predictions.csv"
    command = ["stage", "gather-predictions", "--results", str(tmp_path / "results"), "--model", "m", "--shards", "1"]
    assert main([*command, "--output", str(output)]) == 1
    assert capsys.readouterr().err == f"flare23: {output}: No space left on device\n"


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "text")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["nnunet", "case.nii.gz", "x" * 250])
def test_a_folder_where_a_link_belongs_is_named_with_what_to_do(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "target").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"is a folder where a link belongs: were the results copied with links"):
            link_to(tmp_path / name, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "target"])


def test_a_file_or_a_link_in_a_links_place_is_replaced(tmp_path):
    (tmp_path / "file").write_text("a copy")
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("file", "link"):
        link_to(tmp_path / name, tmp_path / "target")
        assert (tmp_path / name).readlink() == Path("target")


def test_links_hold_in_folders_that_are_links_to_another_disk(tmp_path):
    (tmp_path / "fast").mkdir()
    (tmp_path / "results/store").mkdir(parents=True)
    (tmp_path / "results/store/training").symlink_to(tmp_path / "fast")
    target = tmp_path / "results/store/pp/x"
    write_text(target, "x")
    link_to(tmp_path / "results/store/training/1/x", target)
    assert (tmp_path / "fast/1/x").read_text() == "x"
