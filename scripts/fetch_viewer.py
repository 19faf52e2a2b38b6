"""Fetch the library that draws the report's CT viewer, in one pinned version, through npm as it is configured.

    python scripts/fetch_viewer.py vendor/niivue

The archive's SHA-512 is checked; of it only the script is kept, with a line that names its license.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "@niivue/niivue", "0.69.0"

SHA512 = (
    "60c8d0bc9803d56d9bec3ba8c64c250b85716eb80878f449e6ac90cd72b18b6b"
    "f6301560dbce4ffc2210ca0e3aa030c60c871a3656ddf8c86d3bf79d31b5c990"
)

LICENSE = """{name} {version}, license {license}, by {author} ({homepage}).

Redistribution and use in source and binary forms are permitted under the terms of that license, which is kept in the
project's repository.
"""


def main() -> None:
    """Fetch the archive, check it and unpack the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where niivue.js and LICENSE.txt go")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        unpack(fetch(Path(temporary)), folder)
    print(f"{folder / 'niivue.js'}: {PACKAGE} {VERSION}")


def fetch(folder: Path) -> Path:
    """Return the package's archive, fetched into a folder; ends with a line if it is not to be had."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{PACKAGE}@{VERSION}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("there is no npm; install it, or go on without the viewer: the report says that it lacks it")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no reason given"]
        sys.exit(f"npm pack {PACKAGE}@{VERSION} failed: {lines[-1]}")
    return next(folder.glob("*.tgz"))


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return a file in an archive; ends with a line if it is something else there."""
    if (file := archive.extractfile(name)) is None:
        sys.exit(f"{name} is not a file")
    return file.read()


def unpack(archive: Path, folder: Path, sha512: str = SHA512) -> None:
    """Check an archive and write niivue.js and LICENSE.txt; ends with a line if it is another archive."""
    if hashlib.sha512(archive.read_bytes()).hexdigest() != sha512:
        sys.exit(f"{archive.name} is not the archive that was pinned: its SHA-512 differs")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        about = json.loads(member(content, "package/package.json"))
        script = member(content, "package/dist/niivue.umd.js")
    text = LICENSE.format(
        name="NiiVue",
        version=about["version"],
        license=about["license"],
        author=about["author"],
        homepage=about["repository"]["url"].removeprefix("git+").removesuffix(".git"),
    )
    (folder / "LICENSE.txt").write_text(text, encoding="utf-8")
    (folder / "niivue.js").write_bytes(script)


if __name__ == "__main__":
    main()
