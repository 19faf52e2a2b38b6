"""`flare23 init`: what the folders hold, and a configuration written out of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from flare23_lib.axes import Spacing, Triple, as_triple
from flare23_lib.cache.results import Results
from flare23_lib.choices import SOURCE_PRESETS
from flare23_lib.config import Config
from flare23_lib.config.cohort_models import IGNORE
from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.dataset.read_files import Task, read_files
from flare23_lib.errors import CohortError, listed
from flare23_lib.io.anatomy import STRUCTURE, anatomy_of, is_tumor
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.starter.names import UNNAMED, names_of_values
from flare23_lib.starter.planner import plan_network
from flare23_lib.starter.recognize import FolderSource, labels_of, recognize
from flare23_lib.starter.write import configuration_text

log = logging.getLogger(__name__)

SIDES = ("kidney", "adrenal_gland")
"""Structures that some sources label without sides."""

TOLERANCE_MM = 2
"""Of labels that the recipe does not have."""

OFTEN, SELDOM = 0.9, 0.5
"""Shares of the cases in which an organ occurs: below the first, the file asks whether it was looked for in all of
them, below the second it states that a known organ was not."""


def init(folders: Sequence[Path], recipe: Path, output: Path, gpu_gb: float, processes: int = 1) -> Config:
    """Look at folders, one for each source, and write a configuration that stands alone; it is checked, and returned.

    Labels are read once: the scan of the run remembers them. Tolerances of known labels are taken from the recipe.
    The network is planned for a GPU with `gpu_gb` GB of memory. CohortError if a folder is given twice, or holds no
    image, or none of them a label; ConfigError if the recipe is missing or wrong.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise CohortError(f"{folder}: is given twice")
    tolerances = {label.name: label.tolerance_mm for label in Config.load([recipe]).labels}
    sources = [recognize(folder, SOURCE_PRESETS) for folder in folders]
    cohort = Path(os.path.commonpath([source.root.absolute() for source in sources]))
    results = output.with_suffix("").name + "_results"
    grid = _inspect(cohort, sources, Results(output.parent / results).scan_memory, processes)
    if not any(source.labels for source in sources):
        images = [source.keys["images"] for source in sources]
        found = [f"{one if isinstance(one, str) else ', '.join(one)} are images" for one in images]
        found += [remark for source in sources for remark in source.remarks]
        raise CohortError(
            f"{', '.join(map(str, folders))}: no image has a label; there is nothing to learn from "
            f"({'; '.join(found)}). If there are labels, their names do not fit those of the images: write `sources` "
            "by hand (docs/your_cohort.md)"
        )
    _divide_by_sides(sources)
    labels = _labels(sources, tolerances)
    for source in sources:
        source.remarks += _questions(source)
    _ask_about_shared_tumors(sources)
    plan = plan_network([shape for shape, _ in grid], [spacing for _, spacing in grid], len(labels), gpu_gb)
    text = configuration_text(cohort, output.parent / results, labels, sources, plan)
    Config.check(yaml.safe_load(text))
    output.write_text(text, encoding="utf-8")
    for source in sources:
        for remark in source.remarks:
            log.warning("%s: %s", source.name, remark)
    return Config.load([output])


def _inspect(
    cohort: Path, sources: Sequence[FolderSource], memory: Path, processes: int
) -> list[tuple[Triple, Spacing]]:
    """Find the files of each source, and read headers of images and the whole of labels.

    Returns shape and spacing of each image as a canonical model sees it; CohortError if none can be read.
    """
    taken: set[str] = set()
    for source in sources:
        if source.name == "validation":  # the configuration keeps the word
            source.name = "validation_cases"
        numbered = (f"{source.name}_{number}" for number in count(2))
        source.name = next(name for name in chain([source.name], numbered) if name not in taken)
        taken.add(source.name)
        source.keys = {key: _below(cohort, source.root, value) for key, value in source.keys.items()}
        source.files = source.find(cohort)
        cases = [*source.files.images, *source.files.unlabeled_images]
        if "prefix" not in source.keys and all(case.startswith(f"{source.name}_{source.name}") for case in cases):
            source.keys["prefix"] = ""  # the names of the files have it
            source.files = source.find(cohort)
    images = {
        source.name: [
            Task(paths[0], False, header_only=True)
            for paths in (*source.files.images.values(), *source.files.unlabeled_images.values())
        ]
        for source in sources
    }
    labels = {
        source.name: [] if source.files.masks else [Task(paths[0], True) for paths in source.files.labels.values()]
        for source in sources
    }
    every = [task for tasks in (*images.values(), *labels.values()) for task in tasks]
    infos = read_files(list(dict.fromkeys(every)), memory, processes)
    errors = {task.path: infos[task].error for tasks in images.values() for task in tasks}
    if all(errors.values()):
        path, error = next(iter(errors.items()))
        raise CohortError(f"{path}: {error}; no other image can be read either")
    for source in sources:
        _add_values(source, [infos[task] for task in labels[source.name]], several=len(sources) > 1)
        labeled = _labeled_cases(source)
        if missing := len(source.files.images) - labeled:
            source.remarks.append(
                f"{missing} of its images have no label and are not used; to complete them, set `quality_issues: "
                "{image_without_label: unlabeled}` and add a category `no_labels: true` with its completion"
            )
        unlabeled = len(source.files.unlabeled_images) + missing
        log.info("%s: %d labeled images, %d without labels", source.name, labeled, unlabeled)
    return [_canonical(infos[task].geometry) for tasks in images.values() for task in tasks if not infos[task].error]


def _below(cohort: Path, root: Path, value: Any) -> Any:
    """Return patterns that begin in the cohort rather than in the source's own root; other values as they are."""
    inner = root.absolute().relative_to(cohort).as_posix()
    if isinstance(value, list):
        return [_below(cohort, root, item) for item in value]
    return f"{inner}/{value}".removeprefix("./") if isinstance(value, str) and "{case" in value else value


def _labeled_cases(source: FolderSource) -> int:
    return len(set(source.files.images) & set(source.files.labels))


def _canonical(geometry: Geometry) -> tuple[Triple, Spacing]:
    """Return shape and spacing of an image turned to LPS."""
    turn = Orientation.of(geometry.affine, "canonical")
    shape = as_triple(map(int, turn.spacing(geometry.shape)))  # any three numbers of the axes, in the new order
    return shape, turn.spacing(geometry.spacing)


def _add_values(source: FolderSource, infos: Sequence[ImageInfo], several: bool) -> None:
    """Name the values that occur in labeled cases: by a preset, then by a table in the folder, then by their numbers.

    Of the table, labels that no case holds are left out: in `values` they would count as absent in all of them.
    """
    if not _labeled_cases(source):
        return
    for info in infos:
        source.present.update(str(value) for value in info.voxels or () if value > 0)
    if "values" in source.keys:
        source.targets = {str(value): target for value, target in source.keys["values"].items()}
    else:
        present = sorted(map(int, source.present))
        table = names_of_values(source.folder, present) if source.folder else {}
        unseen = {value: name for value, name in table.items() if labels_of(name) and value not in present}
        absent = unseen if present else {}  # all labels may be empty, of healthy controls
        if absent:
            left_out = listed([f"{name} ({value})" for value, name in absent.items()])
            source.remarks.append(f"no case holds {left_out}: left out, as it would count as absent in all of them")
        unnamed = f"{source.name}_label" if several else "label"  # label_1 of two sources is not the same
        ignored = {IGNORE_VALUE} if len(present) > 1 else set()  # alone it is what some tools write for a mask
        names = {value: IGNORE if value in ignored else f"{unnamed}_{value}" for value in present} | table
        source.targets = {str(value): names[value] for value in sorted(names.keys() - absent.keys())}
    if source.files.masks:  # of masks that overlap the later one has the voxels: tumors lie in organs
        rows = sorted(source.targets.items(), key=lambda row: any(map(is_tumor, labels_of(row[1]))))
        source.targets = dict(rows)
    _tell_apart(source)
    if source.targets and not source.labels:
        source.remarks.append(f"its values stand for no label ({', '.join(map(str, source.targets.values()))})")


def _tell_apart(source: FolderSource) -> None:
    """Give values, or masks, whose names have become alike different names."""
    if source.folder is None:
        return  # a preset's layout, whose values are right
    taken: set[str] = set()
    for number, (value, target) in enumerate(source.targets.items(), start=1):
        for name in labels_of(target):
            if name in taken:
                source.targets[value] = f"{name}_{value if value.isdigit() else number}"
                source.remarks.append(f"{source.targets[value]} would be {name} like another; are they the same?")
            taken.add(name)


def _divide_by_sides(sources: Sequence[FolderSource]) -> None:
    """Divide structures without sides where another source has them with sides."""
    names = {name for source in sources for name in source.labels}
    for source in sources:
        for value, target in source.targets.items():
            if not isinstance(target, str):
                continue
            for name in (target, target.removesuffix("s")):
                sides = [f"right_{name}", f"left_{name}"]
                if names.issuperset(sides) or (name in SIDES and not names.isdisjoint(sides)):
                    source.targets[value] = {"sides": sides}


def _labels(sources: Sequence[FolderSource], tolerances: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the rows of `labels`, with known tolerances in mm by name: a single source keeps its numbers."""
    names: dict[str, int | None] = {}
    for source in sources:
        for value, target in source.targets.items():
            plain = len(sources) == 1 and isinstance(target, str) and value.isdigit() and 0 < int(value) < 255
            for name in labels_of(target):
                names.setdefault(name, int(value) if plain else None)
    if None in names.values():
        names = {name: index for index, name in enumerate(names, start=1)}
    organs = [name for name in names if not is_tumor(name)]
    return [
        {"name": name, "value": value, "tolerance_mm": tolerances.get(name, TOLERANCE_MM)}
        | ({"kind": "tumor", "hidden_in": organs} if is_tumor(name) else {})
        for name, value in names.items()
    ]


def _ask_about_shared_tumors(sources: Sequence[FolderSource]) -> None:
    """Ask, of a tumor that several sources with different organs have, whether it was annotated in all organs."""
    organs = {source.name: {name for name in source.labels if not is_tumor(name)} for source in sources}
    for source in sources:
        for name in filter(is_tumor, dict.fromkeys(source.labels)):
            others = [one.name for one in sources if name in one.labels and organs[one.name] != organs[source.name]]
            if others:
                source.remarks.append(
                    f"{name} is one label with that of {', '.join(others)}, annotated in all organs of both; else "
                    f"give each its own, such as liver_{name}, `hidden_in` its organ"
                )


def _questions(source: FolderSource) -> list[str]:
    """Return what only the user knows: whether rare organs were looked for everywhere, and what has no name.

    Where organs are in few cases, the source's `annotated` becomes present. What is no known organ may be absent.
    """
    questions = []
    labeled = _labeled_cases(source)
    counts: dict[str, int] = {}
    for value, target in source.targets.items():
        for name in labels_of(target):
            counts[name] = max(counts.get(name, 0), source.present[value])
    if source.present and "values" not in source.keys:
        organs = {name: count for name, count in counts.items() if not is_tumor(name)}
        few = {name: count for name, count in organs.items() if count < SELDOM * labeled}
        if seldom := [f"{name} ({count})" for name, count in few.items() if _is_organ(name)]:
            source.keys["annotated"] = "present"
            questions.append(
                f"in fewer than half of {labeled} cases: {', '.join(seldom)}; a case without one counts as not "
                "annotated for it: remove `annotated: present` if it is absent there"
            )
        elif rare := [f"{name} ({count})" for name, count in organs.items() if count < OFTEN * labeled]:
            questions.append(
                f"in fewer than {labeled} cases: {', '.join(rare)}; if not annotated elsewhere: `annotated: present`"
            )
    if unnamed := [name for name in counts if UNNAMED.search(name)]:
        questions.append(f"no table names {', '.join(unnamed)}: write what they are, here and in `labels`")
    return questions


def _is_organ(name: str) -> bool:
    anatomy = anatomy_of(name)
    return anatomy is not None and anatomy.category == STRUCTURE


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
