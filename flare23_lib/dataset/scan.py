"""From files to cases: pairing, quality issues and categories, source by source."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from flare23_lib.config.cohort_models import Category, label_map
from flare23_lib.config.settings import CohortSettings
from flare23_lib.dataset import compare_sources, quality
from flare23_lib.dataset.cases import Case
from flare23_lib.dataset.discover import Files, FoundFiles, SourceFiles, find, place_of
from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.dataset.quality import QUARANTINE, UNLABELED, QualityIssue
from flare23_lib.dataset.read_files import Task, read_files
from flare23_lib.dataset.sources import SourceLabels, drawn_for_validation
from flare23_lib.io.label_maps import LabelFiles, label_id

RESLICED = re.compile(r"(.+?)(?:_Tilt|_Eq)+_?[0-9]*")
"""Names of the volumes that dcm2niix writes beside one with unequal distances of slices or a tilted gantry."""


@dataclass(frozen=True)
class CohortScan:
    """What the cohort holds: cases by name, issues by case, names of all categories, and the figures of each label in
    each source (`compare_sources.rows`), none with one source."""

    cases: list[Case]
    issues: list[QualityIssue]
    categories: list[str]
    figures: Sequence[dict] = ()


def scan_cohort(cohort: Path, settings: CohortSettings, memory: Path, processes: int = 1) -> CohortScan:
    """Find, read, check and categorise all cases of a cohort; errors as `discover.find` and `read_files`.

    `memory` is the file in which the scan remembers what it has read.
    """
    return scan_found(find(cohort, settings.sources), settings, memory, processes)


def scan_found(found: FoundFiles, settings: CohortSettings, memory: Path, processes: int = 1) -> CohortScan:
    """Do as `scan_cohort` for files already found."""
    scanner = _Scanner(found, settings)
    scanner.infos = read_files(list(scanner.tasks()), memory, processes)
    for files in found.sources:
        scanner.source(files)
    scanner.whole_cohort()
    scan = scanner.result()
    if len({case.source for case in scan.cases if case.label}) < 2:
        return scan
    figures = compare_sources.figures_of(scan.cases, memory.with_name(f"{memory.name}.sources"), processes)
    for name, message in compare_sources.differences(figures, scanner.labels):
        scanner.issue("", f"sources.{name}", "unlike_other_sources", message)
    return replace(scanner.result(), figures=compare_sources.rows(figures, scanner.labels))


class _Scanner:
    """Looks at case after case, and collects cases and issues."""

    def __init__(self, found: FoundFiles, settings: CohortSettings) -> None:
        self.found = found
        self.settings = settings
        self.infos: Mapping[Task, ImageInfo] = {}
        self.labels = label_map(settings.labels)
        self.sources = {name: SourceLabels.of(source, self.labels) for name, source in settings.sources.items()}
        folders = {name for category in settings.categories for name in category.folders or ()}
        self.folders = {name: place_of(found.cohort, name) for name in sorted(folders)}
        self.severities: dict[str, str] = dict(settings.quality_issues)
        self.cases: list[Case] = []
        self.issues: dict[str, list[QualityIssue]] = defaultdict(list)

    def tasks(self) -> Iterable[Task]:
        """Yield every file, or the masks of a case, that is to be read; a file of two sources may come twice."""
        for files in self.found.sources:
            for images in (files.images, files.unlabeled_images, files.validation_images):
                yield from (self._image_task(path) for paths in images.values() for path in paths)
            for labels in (files.labels, files.validation_labels):
                yield from (self._label_task(files.name, path) for paths in labels.values() for path in paths)

    def _image_task(self, path: Path) -> Task:
        return Task(path, False, self.settings.scan.check_images == "header")

    def _label_task(self, source: str, path: Path) -> Task:
        return Task(path, True, mapping=self.sources[source].mapping_to_read(path))

    def issue(self, case: str, file: object, kind: str, message: str) -> None:
        self.issues[case].append(QualityIssue(case, str(file), kind, self.severities[kind], message))

    def source(self, files: SourceFiles) -> None:
        """Look at all cases of a source."""
        drawn = drawn_for_validation(files, self.settings.validation)
        for name, paths in files.images.items():
            label = files.labels.get(name, [])
            if not label:
                self.issue(name, paths[0], "image_without_label", "there is no label of that name")
            case = self._case(files, name, paths, label)
            self.cases.append(self._drawn(files, case) if name in drawn else self._categorised(files, case))
        for name, paths in files.unlabeled_images.items():
            self.cases.append(self._categorised(files, self._case(files, name, paths, [])))
        for name, paths in files.validation_images.items():
            case = self._case(files, name, paths, files.validation_labels.get(name, []))
            self.cases.append(self._as_validation(case))
        self._without_image("images", files.images, files.labels)
        self._without_image("validation_images", files.validation_images, files.validation_labels)

    def _categorised(self, files: SourceFiles, case: Case) -> Case:
        """Return a training case with its category; one that fits none is an issue."""
        category = self._category(files, case)
        if category is not None:
            if self._counts_as_unlabeled(case.case):
                case = self._without_label(case)
            return replace(self._stated(case, category), category=category.name)
        if not self._is_quarantined(case.case):
            listed = ", ".join(map(self.labels.name_of, case.labels_present)) or "none"
            self.issue(case.case, case.label or case.image, "no_category", f"its labels ({listed}) fit no category")
        return case

    def _category(self, files: SourceFiles, case: Case) -> Category | None:
        is_unlabeled = case.label is None or self._counts_as_unlabeled(case.case)
        present = None if is_unlabeled else set(map(self.labels.name_of, case.voxels))
        place = files.folders[Path(case.image)]
        folders = [name for name, folder in self.folders.items() if folder == place]
        fitting = (one for one in self.settings.categories if one.fits(case.case, present, folders, files.name))
        return next(fitting, None)

    def _stated(self, case: Case, category: Category) -> Case:
        """Return a case with the annotated labels that its category states, if it does, instead of its source's."""
        if case.label is None or category.annotated is None:
            return case
        is_open = category.annotated == "present"
        values = case.labels_present if is_open else sorted(map(self.labels.value_of, category.annotated))
        return replace(case, annotated=tuple(values))

    def _drawn(self, files: SourceFiles, case: Case) -> Case:
        """Return a case for validation with the annotated labels of the category that it would have."""
        category = self._category(files, case)
        return self._as_validation(case if category is None else self._stated(case, category))

    def _as_validation(self, case: Case) -> Case:
        """Return a case as one for validation; those have no category."""
        case = replace(case, split="validation")
        return self._without_label(case) if self._counts_as_unlabeled(case.case) else case

    @staticmethod
    def _without_label(case: Case) -> Case:
        return replace(case, label=None, label_id="", annotated=None, mapping="")

    def _counts_as_unlabeled(self, name: str) -> bool:
        """Return whether a case's label is empty and the configuration takes that for none."""
        empty = any(issue.kind == "empty_label" for issue in self.issues[name])
        return empty and self.severities["empty_label"] == UNLABELED

    def _is_quarantined(self, name: str) -> bool:
        return any(issue.severity == QUARANTINE for issue in self.issues[name])

    def _taking_part(self) -> list[Case]:
        return [case for case in self.cases if not self._is_quarantined(case.case)]

    def whole_cohort(self) -> None:
        """Look for what only shows when all cases are known."""
        self._same_ids()
        self._same_images()
        self._resliced()
        self._in_no_case()
        for file in self.found.others:
            self.issue("", file, "other_file_name", "is named neither like an image nor like a label")

    def result(self) -> CohortScan:
        """Return cases, each under its name once, with their status."""
        cases: dict[str, Case] = {}
        for case in self.cases:
            severities = {issue.severity for issue in self.issues[case.case]}
            status = "quarantined" if QUARANTINE in severities else "warned" if severities else "ok"
            cases.setdefault(case.case, replace(case, status=status))
        issues = [issue for found in self.issues.values() for issue in found]
        return CohortScan(
            sorted(self._few(cases.values()), key=lambda case: case.case),
            sorted(issues, key=lambda issue: (issue.case, issue.file, issue.kind)),
            [category.name for category in self.settings.categories],
        )

    def _few(self, cases: Iterable[Case]) -> Iterable[Case]:
        """Return the cases that take part in a trial: usable ones, the same at every scan; all if it is none."""
        few = self.settings.scan.cases_per_category
        if few is None:
            return cases
        groups: dict[tuple[str, ...], list[Case]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: sha256(case.case.encode()).hexdigest()):
            if case.usable and len(group := groups[case.source, case.split, case.category]) < few:
                group.append(case)
        return [case for group in groups.values() for case in group]

    def _case(self, files: SourceFiles, name: str, images: list[Path], labels: list[Path]) -> Case:
        """Look at one case; `images` and `labels` are all the files found under its name."""
        for paths in (images, labels):
            if len(paths) > 1:
                others = ", ".join(map(str, paths[1:]))
                self.issue(name, paths[0], "duplicate_case", f"lies also at {others}")
        if len(name.encode()) > quality.MAX_NAME_BYTES:
            message = f"its name has {len(name.encode())} bytes, more than {quality.MAX_NAME_BYTES}"
            self.issue(name, images[0], "name_too_long", message)
        image = self.infos[self._image_task(images[0])]
        self._look_at_file(files, name, images[0], image)
        header_kinds = {issue.kind for issue in self.issues[name]}
        if not image.error:
            for kind, message in quality.image_issues(image):
                self.issue(name, images[0], kind, message)
        case = Case(
            case=name,
            image=str(images[0]),
            label=None,
            split="training",
            voxels={},
            shape=image.shape,
            spacing=image.spacing,
            image_id=image.identity,
            source=files.name,
        )
        return self._with_label(files, case, labels[0], image, header_kinds) if labels else case

    def _with_label(
        self, files: SourceFiles, case: Case, path: Path, image: ImageInfo, known: Collection[str]
    ) -> Case:
        """Look at a case's label."""
        source = self.sources[files.name]
        label = self.infos[self._label_task(files.name, path)]
        self._look_at_file(files, case.case, path, label, known)
        voxels: dict[int, int] = {}
        if not label.error:
            pair = () if image.error else quality.pair_issues(image, label)
            for kind, message in (*quality.label_issues(label, self.labels, source.table), *pair):
                self.issue(case.case, path, kind, message)
            counts = label.our_voxels(source.table)
            voxels = {value: count for value, count in counts.items() if value in self.labels.values}
        masks = LabelFiles(path, source.mapping).mask_files() if path in files.masks else None
        return replace(
            case,
            label=str(path),
            voxels=voxels,
            label_id=label_id(label.identity, source.table),
            annotated=source.annotated_in(voxels, masks),
            mapping=source.mapping,
        )

    def _look_at_file(
        self, files: SourceFiles, name: str, path: Path, info: ImageInfo, known: Collection[str] = ()
    ) -> None:
        """Look at a file as such. What is known of a case's image is not listed for its label again."""
        has_twin = not self.found.twins.isdisjoint(files.masks.get(path, [path]))
        for kind, message in quality.file_issues(info, has_twin, self.settings.scan.shear_limit_degrees):
            if info.issue or kind not in known:
                self.issue(name, path, kind, message)

    def _without_image(self, key: str, images: Files, labels: Files) -> None:
        for name in sorted(set(labels) - set(images)):
            self.issue(name, labels[name][0], "label_without_image", f"`{key}` fits no image of that name")

    def _same_ids(self) -> None:
        by_id: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            by_id[case.case].append(case)
        for name, cases in by_id.items():
            for other in cases[1:]:
                self.issue(name, other.image, "duplicate_case", f"the id is also that of {cases[0].image}")

    def _resliced(self) -> None:
        names = {case.case: case for case in self.cases}
        for name in sorted(names):
            match = RESLICED.fullmatch(name)
            if match and (plain := names.get(match.group(1))):
                message = f"{name} is a copy of it, resliced by dcm2niix: this one's geometry is not what it says"
                self.issue(plain.case, plain.image, "resliced_copy", message)

    def _in_no_case(self) -> None:
        """Look for labels that count as looked for in cases of a source, none of which has them."""
        cases = self._taking_part()
        present = {(case.source, value) for case in cases for value in case.voxels}
        looked_for = Counter((case.source, value) for case in cases for value in case.annotated or ())
        for (source, value), count in looked_for.items():
            if count >= quality.MIN_LOOKED_FOR and (source, value) not in present:
                message = f"{self.labels.name_of(value)} is annotated in {count} cases and occurs in none"
                self.issue("", f"sources.{source}", "label_in_no_case", message)

    def _same_images(self) -> None:
        """Compare contents: voxels where they were read, else the checksum and length of the inflated file."""
        by_content: dict[tuple, list[Case]] = defaultdict(list)
        for case in self._taking_part():
            info = self.infos[self._image_task(Path(case.image))]
            content = info.content or info.identity.partition("-")[2]
            if not info.error and (info.low is None or info.low != info.high):
                by_content[(info.shape, content)].append(case)
        for cases in by_content.values():
            validation = [case for case in cases if case.split == "validation"]
            training = [case for case in cases if case.split == "training"]
            for case in training if validation else []:
                message = f"is the same image as the validation case {validation[0].case}"
                self.issue(case.case, case.image, "validation_image_in_training", message)
            for same in (training, validation):
                for case in same[1:]:
                    self.issue(case.case, case.image, "duplicate_image", f"is the same image as {same[0].case}")
