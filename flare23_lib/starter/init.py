"""`flare23 init`: what the folders hold, and a configuration written out of it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.load import read_yaml
from flare23_lib.config.models import BACKGROUND, IGNORE, Source
from flare23_lib.dataset.discover import SourceFiles, find
from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.dataset.read_files import Task, read_files
from flare23_lib.errors import CohortError
from flare23_lib.io.orientation import Orientation
from flare23_lib.networks import Triple
from flare23_lib.starter.planner import plan_network
from flare23_lib.starter.recognize import FolderSource, recognize
from flare23_lib.starter.write import Draft, DraftSource, write_text_of

log = logging.getLogger(__name__)

SIDES = ("kidney", "adrenal_gland")
"""Structures that some sources label without sides."""

TUMORS = ("tumor", "cancer", "lesion", "metasta", "nodule", "cyst")
"""Parts of names that stand for a tumor."""

TOLERANCE_MM = 2
"""Of labels that the recipe does not have."""

OFTEN = 0.9
"""Share of the cases in which an organ occurs, below which the file asks whether it was looked for in all of them."""


@dataclass
class Inspected:
    """A source, and what is in its files.

    Attributes:
        found: how it was recognized.
        keys: of the source in the configuration, patterns below the cohort.
        files: of it.
        targets: names by value, or by mask.
        present: cases in which each value occurs.
        labeled: number of labeled cases.
        grid: shape and spacing of each image as a canonical model sees it.
    """

    found: FolderSource
    keys: dict[str, Any]
    files: SourceFiles
    targets: dict[str, Any] = field(default_factory=dict)
    present: Counter[str] = field(default_factory=Counter)
    labeled: int = 0
    grid: list[tuple[Triple, tuple[float, float, float]]] = field(default_factory=list)


def init(folders: Sequence[Path], recipe: Path, output: Path, gpu_gb: float, processes: int = 1) -> Config:
    """Look at folders and write a configuration that stands alone; it is checked, and returned.

    Labels are read once: the scan of the run remembers them.

    Args:
        folders: one for each source.
        recipe: the recipe, which tolerances of known labels are taken from; presets are looked for beside it.
        output: the file to write.
        gpu_gb: memory of the GPU in GB that the network is planned for.
        processes: how many files are read at once.

    Raises:
        CohortError: a folder holds no image, or none of them a label.
    """
    presets = recipe.parent / "presets" / "sources"
    sources = [recognize(folder, presets if presets.is_dir() else None) for folder in folders]
    cohort = Path(os.path.commonpath([source.root.absolute() for source in sources]))
    results = output.with_suffix("").name + "_results"
    inspected = _inspect(cohort, sources, Results(output.parent / results).scan_memory, processes)
    if not any(one.targets for one in inspected):
        raise CohortError(f"{', '.join(map(str, folders))}: no image has a label; there is nothing to learn from")
    _divide_by_sides(inspected)
    labels = _labels(inspected, recipe)
    grid = [size for one in inspected for size in one.grid]
    plan = plan_network([shape for shape, _ in grid], [spacing for _, spacing in grid], len(labels), gpu_gb)
    draft = Draft(cohort, output.parent / results, labels, [_draft_source(one) for one in inspected], plan, gpu_gb)
    text = write_text_of(draft)
    Config.check(yaml.safe_load(text))
    output.write_text(text, encoding="utf-8")
    return Config.load([output])


def _inspect(cohort: Path, sources: Sequence[FolderSource], memory: Path, processes: int) -> list[Inspected]:
    """Find the files of each source, and read headers of images and the whole of labels."""
    inspected = []
    names: Counter[str] = Counter()
    for source in sources:
        names[source.name] += 1
        name = source.name if names[source.name] == 1 else f"{source.name}_{names[source.name]}"
        keys = {key: _below(cohort, source.root, value) for key, value in source.keys.items()}
        files = find(cohort, {name: _bare(keys)}).sources[0]
        if "prefix" not in keys and all(case.startswith(f"{name}_{name}") for case in _cases(files)):
            keys["prefix"] = ""  # the names of the files have it
            files = find(cohort, {name: _bare(keys)}).sources[0]
        inspected.append(Inspected(source, keys, files))
    images = {
        one.files.name: _tasks(one.files.images, one.files.unlabeled_images, is_label=False) for one in inspected
    }
    labels = {one.files.name: [] if one.files.masks else _tasks(one.files.labels, is_label=True) for one in inspected}
    every = [task for tasks in (*images.values(), *labels.values()) for task in tasks]
    infos = read_files(list(dict.fromkeys(every)), memory, processes)
    for one in inspected:
        name = one.files.name
        one.grid = [_canonical(infos[task]) for task in images[name] if not infos[task].error]
        _add_values(one, [infos[task] for task in labels[name]], several=len(sources) > 1)
        log.info("%s: %d labeled images, %d without labels", name, one.labeled, len(one.files.unlabeled_images))
    return inspected


def _cases(files: SourceFiles) -> list[str]:
    return [*files.images, *files.unlabeled_images]


def _below(cohort: Path, root: Path, value: Any) -> Any:
    """Return patterns that begin in the cohort rather than in the source's own root; other values as they are."""
    inner = root.absolute().relative_to(cohort).as_posix()
    if isinstance(value, list):
        return [_below(cohort, root, item) for item in value]
    return f"{inner}/{value}".removeprefix("./") if isinstance(value, str) and "{case" in value else value


def _bare(keys: Mapping[str, Any]) -> Source:
    """Return a source with which files are found, whatever their values are."""
    named = {str(name): BACKGROUND for name in keys.get("values") or {}}
    return Source.of(Source.model_validate({**keys, "values": {}, "annotated": None}), values=named)


def _tasks(*groups: Mapping[str, list[Path]], is_label: bool) -> list[Task]:
    return [Task(paths[0], is_label, not is_label) for group in groups for paths in group.values()]


def _canonical(info: ImageInfo) -> tuple[Triple, tuple[float, float, float]]:
    """Return shape and spacing of an image turned to LPS."""
    turn = Orientation.of(info.geometry.affine, "canonical")
    geometry = info.geometry
    one, two, three = map(int, turn.spacing(geometry.shape))  # any three numbers of the axes, in the new order
    return (one, two, three), turn.spacing(geometry.spacing)


def _add_values(one: Inspected, infos: Sequence[ImageInfo], several: bool) -> None:
    """Name the values that occur; those of a preset, then those of a table in the folder, then by their numbers."""
    one.labeled = len(set(one.files.images) & set(one.files.labels))
    for info in infos:
        one.present.update(str(value) for value in info.voxels or () if value > 0)
    if "values" in one.keys:
        one.targets = {str(value): target for value, target in one.keys["values"].items()}
    else:
        values = sorted({*map(int, one.present), *one.found.names})
        unnamed = f"{one.files.name}_label" if several else "label"  # label_1 of two sources is not the same
        one.targets = {str(value): one.found.names.get(value, f"{unnamed}_{value}") for value in values}


def _divide_by_sides(inspected: Sequence[Inspected]) -> None:
    """Divide structures without sides where another source has them with sides."""
    names = {name for one in inspected for target in one.targets.values() for name in _names(target)}
    for one in inspected:
        for value, target in one.targets.items():
            if target in SIDES and {f"right_{target}", f"left_{target}"} & names:
                one.targets[value] = {"sides": [f"right_{target}", f"left_{target}"]}


def _names(target: Any) -> list[str]:
    """Return the labels that a target stands for."""
    if isinstance(target, Mapping):
        return list(target["sides"])
    return [] if target in (None, BACKGROUND, IGNORE) else [target]


def _labels(inspected: Sequence[Inspected], recipe: Path) -> list[dict[str, Any]]:
    """Return the rows of `labels`: a single source keeps its numbers."""
    known = {row["name"]: row for row in read_yaml(recipe)["labels"]} if recipe.is_file() else {}
    names: dict[str, int | None] = {}
    for one in inspected:
        for value, target in one.targets.items():
            for name in _names(target):
                plain = len(inspected) == 1 and isinstance(target, str) and value.isdigit()
                names.setdefault(name, int(value) if plain and 0 < int(value) < 255 else None)
    if None in names.values():
        names = {name: index for index, name in enumerate(names, start=1)}
    organs = [name for name in names if not _is_tumor(name)]
    return [
        {"name": name, "value": value, "tolerance_mm": known.get(name, {}).get("tolerance_mm", TOLERANCE_MM)}
        | ({"kind": "tumor", "hidden_in": organs} if _is_tumor(name) else {})
        for name, value in names.items()
    ]


def _is_tumor(name: str) -> bool:
    return any(part in name for part in TUMORS)


def _draft_source(one: Inspected) -> DraftSource:
    remarks = list(one.found.remarks)
    by_name: dict[str, int] = defaultdict(int)
    for value, target in one.targets.items():
        for name in _names(target):
            by_name[name] = max(by_name[name], one.present[value])
    seldom = [
        f"{name} ({count})"
        for name, count in by_name.items()
        if one.present and not _is_tumor(name) and count < OFTEN * one.labeled
    ]
    if seldom and "values" not in one.keys:
        remarks.append(
            f"in fewer than {one.labeled} cases: {', '.join(seldom)}; where not looked for: `annotated: present`"
        )
    if unnamed := [name for name in by_name if re.search(r"(^|_)label_\d+$", name)]:
        remarks.append(f"no table names {', '.join(unnamed)}: write what they are, here and in `labels`")
    keys = {key: value for key, value in one.keys.items() if key != "values"}
    return DraftSource(one.files.name, keys, one.targets, tuple(remarks), bool(one.files.unlabeled_images))


def summary(config: Config, output: Path) -> str:
    """Return what was written, for the terminal."""
    names = ", ".join(f"{name} ({len(source.values) or 'no'} values)" for name, source in config.sources.items())
    model = next(iter(config.models.values()))
    return "\n".join(
        [
            f"{output}: {len(config.labels)} labels from {names}",
            f"network: patch {json.dumps(model.patch_size)}, spacing {json.dumps(model.spacing)} mm",
            f"next: snakemake --cores 2 --configfile {output} --config smoke=true     (does it run? minutes)",
            f"      snakemake --cores 8 --configfile {output}",
        ]
    )
