"""Imports go one way: the order of the packages in docs/developers.md, and no circles. Files named there exist."""

import ast
import re
from graphlib import TopologicalSorter

from places import REPOSITORY

LIBRARY = REPOSITORY / "flare23_lib"


def layers():
    """The packages and modules of the library, the lowest layer first, as docs/developers.md lists them."""
    text = (REPOSITORY / "docs" / "developers.md").read_text().split("Imports go one way")[1]
    return [line.split(": ")[1].split(", ") for line in text.split("```")[1].splitlines()[1:]]


def name_of(path):
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in LIBRARY.rglob("*.py")}


def imported_names(tree):
    """The names that a module imports anywhere in it, also for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(module):
    return set(imported_names(ast.parse(MODULES[module].read_text())))


def test_every_import_goes_to_an_earlier_layer_or_stays_in_its_package():
    place = {name: index for index, layer in enumerate(layers()) for name in layer}
    package_of = {module: module.split(".")[1] for module in MODULES if "." in module}
    assert set(place) == set(package_of.values())
    upward = [
        f"{module} imports {other}"
        for module, package in package_of.items()
        for other in imports_of(module) & set(package_of)
        if package_of[other] != package and place[package_of[other]] >= place[package]
    ]
    assert upward == []


def test_modules_import_each_other_in_no_circle():
    TopologicalSorter({module: imports_of(module) & set(MODULES) - {module} for module in MODULES}).prepare()


def test_no_module_imports_snakemake():
    assert [module for module in MODULES if "snakemake" in {name.split(".")[0] for name in imports_of(module)}] == []


def test_the_files_of_the_two_walks_exist():
    text = (REPOSITORY / "docs" / "developers.md").read_text().split("## The path of one case")[1].split("\n## ")[0]
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 20
    assert [file for file in sorted(named) if not (LIBRARY / file).exists()] == []
