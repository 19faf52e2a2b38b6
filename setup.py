"""Builds the package; what it is made of is in pyproject.toml.

`config.yaml` and `presets/` stand once in the repository, at its top. A built package takes them along.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipe(build_py):
    """Copies the recipe and the presets into the package."""

    def run(self) -> None:
        """Copy them, unless the package is used in place."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "flare23_lib" / "recipe"
            shutil.copytree("presets", target / "presets", dirs_exist_ok=True)
            shutil.copy("config.yaml", target)


setup(cmdclass={"build_py": BuildWithRecipe})
