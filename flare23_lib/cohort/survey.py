"""From files to cases: pairing, faults, categories, and the three tables of the stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flare23_lib.cohort import scan as scanning
from flare23_lib.cohort.categories import Category, categorise
from flare23_lib.cohort.folders import Found, find
from flare23_lib.cohort.scan import Facts
from flare23_lib.cohort.table import Case, write_cases
from flare23_lib.labels import LabelMap
from flare23_lib.store import write_csv

SHEAR_LIMIT_DEGREES = 0.01
"""Axes further from right angles than this are reported as sheared."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file: what kind, how grave, and what to do."""

    case: str
    file: str
    kind: str
    severity: str
    message: str


@dataclass(frozen=True)
class Survey:
    """What the cohort holds."""

    cases: list[Case]
    faults: list[Fault]
    categories: list[str]

    @property
    def quarantined(self) -> list[Case]:
        """The cases that are left out."""
        return [case for case in self.cases if not case.usable]


class _Surveyor:
    """Collects the faults while cases are looked at."""

    def __init__(self, labels: LabelMap, categories: Sequence[Category], severities: Mapping[str, str]):
        self.labels = labels
        self.categories = categories
        self.severities = severities
        self.faults: list[Fault] = []

    def fault(self, case: str, file: object, kind: str, message: str) -> None:
        self.faults.append(Fault(case, str(file or ""), kind, self.severities[kind], message))

    def case(
        self, name: str, split: str, labeled: bool, image: list[Path], label: list[Path], facts: Mapping[Path, Facts]
    ) -> Case:
        """Look at one case; `image` and `label` are all the files found under its name."""
        known_faults = len(self.faults)
        for paths in (image, label):
            if len(paths) > 1:
                others = ", ".join(str(path) for path in paths[1:])
                self.fault(name, paths[0], "duplicate_case", f"also at {others}; keep one of them")
        image_facts = facts[image[0]]
        label_facts = facts[label[0]] if label else None
        self._look_at_image(name, image[0], image_facts)
        voxels: dict[int, int] = {}
        if label_facts is not None:
            voxels = self._look_at_label(name, label[0], label_facts, image_facts)
        elif labeled:
            self.fault(name, image[0], "image_without_label", "no label of that name; add it or move the image")
        case = Case(
            case=name,
            image=str(image[0]),
            label=str(label[0]) if label else None,
            split=split,
            voxels=voxels,
            shape=image_facts.shape,
            spacing=image_facts.spacing,
            image_id=image_facts.identity,
            label_id=label_facts.identity if label_facts else "",
        )
        if split == "training":
            category = categorise(set(voxels) if label_facts else None, self.categories)
            if category is not None:
                case = replace(case, category=category.name)
            elif len(self.faults) == known_faults:
                present = ", ".join(map(self.labels.name_of, case.labels_present)) or "none"
                self.fault(name, case.label or case.image, "no_category", f"its labels ({present}) fit no category")
        grave = {fault.severity for fault in self.faults[known_faults:]}
        status = "quarantined" if "quarantine" in grave else "warned" if grave else "ok"
        return replace(case, status=status)

    def _look_at_image(self, name: str, path: Path, facts: Facts) -> None:
        if facts.error:
            self.fault(name, path, "unreadable", f"{facts.error.removeprefix(f'{path}: ')}; get the file again")
            return
        if not facts.finite:
            self.fault(name, path, "not_finite", "has NaN or infinite voxels; convert it from the source again")
        elif facts.low == facts.high:
            self.fault(name, path, "constant_image", f"every voxel is {facts.low:g}; get the file again")
        if facts.spacing == (1.0, 1.0, 1.0):
            self.fault(name, path, "placeholder_spacing", "the spacing is 1x1x1 mm, likely a placeholder; check it")
        if scanning.axes_are_singular(facts):
            self.fault(name, path, "unreadable", "the affine is singular; convert it from the source again")
        elif (shear := scanning.largest_shear(facts)) > SHEAR_LIMIT_DEGREES:
            self.fault(name, path, "sheared_axes", f"the axes are {shear:.2f} degrees off right angles; check it")

    def _look_at_label(self, name: str, path: Path, facts: Facts, image: Facts) -> dict[int, int]:
        if facts.error:
            self.fault(name, path, "unreadable", f"{facts.error.removeprefix(f'{path}: ')}; get the file again")
            return {}
        if not facts.whole or facts.voxels is None:
            self.fault(name, path, "unknown_label_values", "values are not whole numbers; export it as integers")
            return {}
        unknown = [value for value in facts.voxels if value not in self.labels.values]
        if unknown:
            listed = ", ".join(map(str, unknown[:5]))
            self.fault(name, path, "unknown_label_values", f"values {listed} are not in `labels`; map or add them")
        if not facts.voxels:
            self.fault(name, path, "empty_label", "no voxel is labeled; remove the file if the case is unlabeled")
        if not image.error and (difference := image.geometry.difference(facts.geometry)):
            self.fault(name, path, "geometry_mismatch", f"does not lie on its image: {difference}")
        return {value: count for value, count in facts.voxels.items() if value in self.labels.values}


def survey(cohort: Path, settings: Mapping, memory: Path, processes: int = 1) -> Survey:
    """Find, read, check and categorise all cases of a cohort.

    Args:
        cohort: folder of the cohort.
        settings: `layout`, `labels`, `categories` and `faults` of the configuration.
        memory: file in which the scan remembers what it has read.
        processes: how many files are read at once.

    Raises:
        CohortError: the folders are not there or hold no training image.
    """
    found = find(cohort, settings["layout"])
    return survey_found(found, settings, memory, processes)


def survey_found(found: Found, settings: Mapping, memory: Path, processes: int = 1) -> Survey:
    """Do as `survey` for files already found."""
    labels = LabelMap.from_config(settings["labels"])
    categories = [Category.from_config(row, labels) for row in settings["categories"]]
    images = [path for group in (found.labeled, found.unlabeled, found.validation) for paths in group.values()
              for path in paths]  # fmt: skip
    label_files = [path for group in (found.labels, found.validation_labels) for paths in group.values()
                   for path in paths]  # fmt: skip
    tasks = [(path, False) for path in images] + [(path, True) for path in label_files]
    facts = scanning.scan(tasks, memory, processes)

    surveyor = _Surveyor(labels, categories, settings["faults"])
    groups = [
        ("training", True, found.labeled, found.labels),
        ("training", False, found.unlabeled, {}),
        ("validation", False, found.validation, found.validation_labels),
    ]
    cases: list[Case] = []
    seen: set[str] = set()
    for split, labeled, group, group_labels in groups:
        for name, paths in group.items():
            case = surveyor.case(name, split, labeled, paths, group_labels.get(name, []), facts)
            if name in seen:
                surveyor.fault(name, case.image, "duplicate_case", "the id occurs in another folder too; rename one")
                severity = surveyor.severities["duplicate_case"]
                if severity == "quarantine":
                    cases = [replace(other, status="quarantined") if other.case == name else other for other in cases]
                continue
            seen.add(name)
            cases.append(case)
        for name in sorted(set(group_labels) - set(group)):
            surveyor.fault(name, group_labels[name][0], "label_without_image", "no image of that name; add or remove")
    cases.sort(key=lambda case: case.case)
    surveyor.faults.sort(key=lambda fault: (fault.case, fault.file, fault.kind))
    return Survey(cases, surveyor.faults, [category.name for category in categories])


def write_survey(survey: Survey, cases: Path, quarantine: Path, categories: Path) -> None:
    """Write cases.csv, quarantine.csv (all faults, warnings too) and categories.csv (counts)."""
    write_csv(
        quarantine,
        ["case", "file", "kind", "severity", "message"],
        [vars(fault) for fault in survey.faults],
    )
    write_csv(
        categories,
        ["split", "category", "labels_present", "cases", "quarantined"],
        _category_rows(survey),
    )
    write_cases(cases, survey.cases)


def _category_rows(survey: Survey) -> list[dict]:
    """One row per category with all its label sets summed up, then one per label set within it."""
    rows = []
    training = [case for case in survey.cases if case.split == "training"]
    for name in [*survey.categories, ""]:
        members = [case for case in training if case.category == name]
        if not members and not name:
            continue
        rows.append(_count("training", name or "(none)", "all", members))
        sets = Counter(tuple(case.labels_present) for case in members)
        if len(sets) > 1:
            for present, _ in sorted(sets.items(), key=lambda item: (-item[1], item[0])):
                chosen = [case for case in members if tuple(case.labels_present) == present]
                rows.append(_count("training", name or "(none)", " ".join(map(str, present)), chosen))
    rows.append(_count("validation", "", "all", [case for case in survey.cases if case.split == "validation"]))
    return rows


def _count(split: str, category: str, present: str, cases: Sequence[Case]) -> dict:
    quarantined = sum(not case.usable for case in cases)
    return {
        "split": split,
        "category": category,
        "labels_present": present,
        "cases": len(cases),
        "quarantined": quarantined,
    }


def format_survey(survey: Survey) -> str:
    """Return the counts as a table for the terminal."""
    lines = [f"{'category':<20}{'cases':>8}{'quarantined':>13}"]
    for row in _category_rows(survey):
        if row["labels_present"] == "all":
            name = row["category"] if row["split"] == "training" else "validation cases"
            lines.append(f"{name:<20}{row['cases']:>8}{row['quarantined']:>13}")
    warned = sum(fault.severity == "warn" for fault in survey.faults)
    if survey.faults:
        lines.append(f"{len(survey.faults)} faults were found, {warned} of them only warned of")
    return "\n".join(lines)
