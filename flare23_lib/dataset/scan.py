"""From files to cases: pairing, faults and categories."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flare23_lib.config.models import label_map
from flare23_lib.config.settings import CohortSettings
from flare23_lib.dataset import quality as checks
from flare23_lib.dataset.cases import Case
from flare23_lib.dataset.categories import categorise
from flare23_lib.dataset.discover import Found, find
from flare23_lib.dataset.image_info import Facts
from flare23_lib.dataset.quality import QUARANTINE, UNLABELED, Fault, Finding
from flare23_lib.dataset.read_files import Task, scan

log = logging.getLogger(__name__)

RESLICED = re.compile(r"(.+?)(?:_Tilt|_Eq)+_?[0-9]*")
"""Names of the volumes that dcm2niix writes beside one with unequal distances of slices or a tilted gantry."""


@dataclass(frozen=True)
class Survey:
    """What the cohort holds: its cases and faults, each sorted by case, and the names of the categories."""

    cases: list[Case]
    faults: list[Fault]
    categories: list[str]

    @property
    def quarantined(self) -> list[Case]:
        """The cases that are left out."""
        return [case for case in self.cases if not case.usable]


def survey(cohort: Path, settings: CohortSettings, memory: Path, processes: int = 1) -> Survey:
    """Find, read, check and categorise all cases of a cohort.

    Args:
        cohort: folder of the cohort.
        settings: `Config.cohort_settings`.
        memory: file in which the scan remembers what it has read.
        processes: how many files are read at once.

    Raises:
        CohortError: the folders are not there or hold no training image.
    """
    return survey_found(find(cohort, settings.layout), settings, memory, processes)


def survey_found(found: Found, settings: CohortSettings, memory: Path, processes: int = 1) -> Survey:
    """Do as `survey` for files already found."""
    header_only = settings.scan.check_images == "header"
    tasks = [
        Task(path, is_label, header_only and not is_label)
        for is_label, groups in (
            (False, (found.labeled, found.unlabeled, found.validation)),
            (True, (found.labels, found.validation_labels)),
        )
        for group in groups
        for paths in group.values()
        for path in paths
    ]
    surveyor = _Surveyor(found, settings, scan(tasks, memory, processes))
    surveyor.training(found.labeled, found.labels, labeled=True)
    surveyor.training(found.unlabeled, {}, labeled=False)
    surveyor.validation(found.validation, found.validation_labels)
    surveyor.whole_cohort()
    return surveyor.result()


class _Surveyor:
    """Looks at case after case, and collects cases and faults."""

    def __init__(self, found: Found, settings: CohortSettings, facts: Mapping[Path, Facts]) -> None:
        self.found = found
        self.facts = facts
        self.labels = label_map(settings.labels)
        self.categories = settings.categories
        self.severities: dict[str, str] = dict(settings.quality_issues)
        self.shear_limit = settings.scan.shear_limit_degrees
        self.cases: list[Case] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)

    def fault(self, case: str, file: object, kind: str, message: str) -> None:
        self.faults[case].append(Fault(case, str(file), kind, self.severities[kind], message))

    def findings(self, case: str, file: Path, findings: Iterable[Finding]) -> None:
        for kind, message in findings:
            self.fault(case, file, kind, message)

    def training(self, images: Mapping[str, list[Path]], labels: Mapping[str, list[Path]], labeled: bool) -> None:
        """Look at all training cases of the labeled or the unlabeled folders."""
        for name, paths in images.items():
            label = labels.get(name, [])
            if labeled and not label:
                self.fault(name, paths[0], "image_without_label", "there is no label of that name")
            case = self._case(name, "training", paths, label)
            empty = self._counts_as_unlabeled(name)
            present = None if case.label is None or empty else set(map(self.labels.name_of, case.voxels))
            category = categorise(name, present, self.categories, self.found.folders_of(paths[0]))
            if category is not None:
                case = replace(case, category=category.name)
                if empty:
                    case = replace(case, label=None, label_id="")
            elif not any(fault.severity == QUARANTINE for fault in self.faults[name]):
                listed = ", ".join(map(self.labels.name_of, case.labels_present)) or "none"
                self.fault(name, case.label or case.image, "no_category", f"its labels ({listed}) fit no category")
            self.cases.append(case)
        self._without_image(images, labels)

    def _counts_as_unlabeled(self, name: str) -> bool:
        """Say whether a case's label is empty and the configuration takes that for none."""
        return self._has(name, "empty_label") and self.severities["empty_label"] == UNLABELED

    def validation(self, images: Mapping[str, list[Path]], labels: Mapping[str, list[Path]]) -> None:
        """Look at all validation cases. They have no category."""
        for name, paths in images.items():
            case = self._case(name, "validation", paths, labels.get(name, []))
            if self._counts_as_unlabeled(name):
                case = replace(case, label=None, label_id="")
            self.cases.append(case)
        self._without_image(images, labels)

    def whole_cohort(self) -> None:
        """Look for what only shows when all cases are known."""
        self._same_ids()
        self._same_images()
        self._resliced()
        for file in self.found.others:
            self.fault("", file, "other_file_name", "is named neither like an image nor like a label")

    def result(self) -> Survey:
        """Return cases, each under its id once, with their status."""
        cases: dict[str, Case] = {}
        for case in self.cases:
            grave = {fault.severity for fault in self.faults[case.case]}
            status = "quarantined" if QUARANTINE in grave else "warned" if grave else "ok"
            cases.setdefault(case.case, replace(case, status=status))
        faults = [fault for found in self.faults.values() for fault in found]
        return Survey(
            sorted(cases.values(), key=lambda case: case.case),
            sorted(faults, key=lambda fault: (fault.case, fault.file, fault.kind)),
            [category.name for category in self.categories],
        )

    def _case(self, name: str, split: str, images: list[Path], labels: list[Path]) -> Case:
        """Look at one case; `images` and `labels` are all the files found under its name."""
        for paths in (images, labels):
            if len(paths) > 1:
                others = ", ".join(map(str, paths[1:]))
                self.fault(name, paths[0], "duplicate_case", f"lies also at {others}")
        if len(name.encode()) > checks.MAX_NAME_BYTES:
            message = f"its name has {len(name.encode())} bytes, more than {checks.MAX_NAME_BYTES}"
            self.fault(name, images[0], "name_too_long", message)
        image = self._look_at_file(name, images[0])
        header_kinds = {fault.kind for fault in self.faults[name]}
        if not image.error:
            self.findings(name, images[0], checks.image_faults(image))
        voxels: dict[int, int] = {}
        label = None
        if labels:
            label = self._look_at_file(name, labels[0], header_kinds)
            if not label.error:
                self.findings(name, labels[0], checks.label_faults(label, self.labels))
                if not image.error:
                    self.findings(name, labels[0], checks.pair_faults(image, label))
                known = self.labels.values
                voxels = {value: count for value, count in (label.voxels or {}).items() if value in known}
        return Case(
            case=name,
            image=str(images[0]),
            label=str(labels[0]) if labels else None,
            split=split,
            voxels=voxels,
            shape=image.shape,
            spacing=image.spacing,
            image_id=image.identity,
            label_id=label.identity if label else "",
        )

    def _look_at_file(self, name: str, path: Path, known: Collection[str] = ()) -> Facts:
        """Look at a file as such. What is known of a case's image is not said of its label again."""
        facts = self.facts[path]
        for kind, message in checks.file_faults(facts, path in self.found.twins, self.shear_limit):
            if facts.fault or kind not in known:
                self.fault(name, path, kind, message)
        return facts

    def _has(self, case: str, kind: str) -> bool:
        return any(fault.kind == kind for fault in self.faults[case])

    def _without_image(self, images: Mapping[str, list[Path]], labels: Mapping[str, list[Path]]) -> None:
        for name in sorted(set(labels) - set(images)):
            self.fault(name, labels[name][0], "label_without_image", "there is no image of that name")

    def _same_ids(self) -> None:
        by_id: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            by_id[case.case].append(case)
        for name, cases in by_id.items():
            for other in cases[1:]:
                self.fault(name, other.image, "duplicate_case", f"the id is also that of {cases[0].image}")

    def _resliced(self) -> None:
        names = {case.case: case for case in self.cases}
        for name in sorted(names):
            match = RESLICED.fullmatch(name)
            if match and (plain := names.get(match.group(1))):
                message = f"{name} is a copy of it, resliced by dcm2niix: this one's geometry is not what it says"
                self.fault(plain.case, plain.image, "resliced_copy", message)

    def _same_images(self) -> None:
        """Compare contents: voxels where they were read, else the checksum and length of the inflated file."""
        by_content: dict[tuple, list[Case]] = defaultdict(list)
        by_id: dict[str, Case] = {}
        for case in self.cases:
            if not any(fault.severity == QUARANTINE for fault in self.faults[case.case]):
                by_id.setdefault(case.case, case)
        for case in by_id.values():
            facts = self.facts[Path(case.image)]
            content = facts.content or facts.identity.partition("-")[2]
            if not facts.error and (facts.low is None or facts.low != facts.high):
                by_content[(facts.shape, content)].append(case)
        for cases in by_content.values():
            validation = [case for case in cases if case.split == "validation"]
            training = [case for case in cases if case.split == "training"]
            for case in training if validation else []:
                message = f"is the same image as the validation case {validation[0].case}"
                self.fault(case.case, case.image, "validation_image_in_training", message)
            for same in (training, validation):
                for case in same[1:]:
                    self.fault(case.case, case.image, "duplicate_image", f"is the same image as {same[0].case}")
