"""The viewing library is taken only from the archive that was pinned."""

import hashlib
import io
import json
import tarfile

import pytest
from places import script

ABOUT = {
    "version": "1.2.3",
    "license": "BSD-2-Clause",
    "author": "its authors",
    "repository": {"url": "git+https://example.org/viewer.git"},
}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as content:
        for name, text in (("package.json", json.dumps(ABOUT)), ("dist/niivue.umd.js", "var niivue;")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            content.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_the_script_is_unpacked_and_its_license_named(archive, tmp_path):
    script("fetch_viewer").unpack(archive, tmp_path / "to", hashlib.sha512(archive.read_bytes()).hexdigest())
    assert (tmp_path / "to/niivue.js").read_text() == "var niivue;"
    first = (tmp_path / "to/LICENSE.txt").read_text().splitlines()[0]
    assert first == "NiiVue 1.2.3, license BSD-2-Clause, by its authors (https://example.org/viewer)."


def test_another_archive_is_refused(archive, tmp_path):
    with pytest.raises(SystemExit, match=r"package\.tgz is not the archive that was pinned"):
        script("fetch_viewer").unpack(archive, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_without_npm_it_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="there is no npm"):
        script("fetch_viewer").fetch(tmp_path)
