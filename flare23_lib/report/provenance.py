"""What a report was made with: versions, commit, configuration."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from flare23_lib.config import Config
from flare23_lib.report.page import Block, Folded, Grid

PACKAGES = ("flare23_lib", "torch", "nnunetv2", "snakemake", "numpy", "nibabel")


def provenance(config: Config) -> list[Block]:
    """Return the versions that are installed, the commit of the library, and the whole configuration."""
    rows = [("Python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]
    rows.append(("commit", commit(Path(__file__).parents[2])))
    text = yaml.safe_dump(config.to_json(by_alias=False), sort_keys=False, allow_unicode=True)
    return [Grid("Versions", ("", "version"), rows), Folded("The configuration with all defaults", text)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit(folder: Path) -> str:
    """Return the commit of a working tree, and whether it was changed since; or that it is not known."""
    questions = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(folder), *asked], capture_output=True, text=True, check=True).stdout
            for asked in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return "not known: the library does not lie in a git repository"
    return head.strip() + (", with changes" if changes.strip() else "")
