"""Cases and cases.csv, the table that every later stage reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flare23_lib.axes import as_triple
from flare23_lib.config.settings import AnnotatedValues
from flare23_lib.errors import CohortError
from flare23_lib.io.identity import file_identity
from flare23_lib.io.label_maps import LabelFiles, label_id
from flare23_lib.io.tables import read_csv, write_csv

SHAPE, SPACING = ["slices", "rows", "columns"], ["spacing_z", "spacing_y", "spacing_x"]

COLUMNS = [
    "case", "image", "label", "split", "labels_present", "category", *SHAPE, *SPACING, "voxels", "status",
    "image_id", "label_id", "source", "annotated", "mapping",
]  # fmt: skip

TEXTS = ("case", "image", "split", "category", "status", "image_id", "label_id", "source", "mapping")
"""Columns whose text is an attribute of the case."""

NONE = "none"
"""Stands for no annotated label, where the configuration leaves nothing open."""


@dataclass(frozen=True)
class Case:
    """One case of the cohort.

    Attributes:
        label: path of the original label, or None.
        split: "training" or "validation".
        voxels: voxels per label value present in the original label.
        category: its name; empty for validation cases and for quarantined ones that have none.
        shape: (z, y, x); None if the header could not be read.
        spacing: (z, y, x) in mm; None likewise.
        status: "ok", "warned" or "quarantined".
        image_id: identity of the image's content (`io.identity.file_identity`).
        label_id: identity of the label's content in our values, or empty.
        annotated: label values that were looked for in it, by its category or source, sorted; None if the
            configuration leaves it open.
        mapping: what the values in the label file stand for (`label_maps.ValueTable`); empty for our own.
    """

    case: str
    image: str
    label: str | None
    split: str
    voxels: dict[int, int]
    category: str = ""
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    status: str = "ok"
    image_id: str = ""
    label_id: str = ""
    source: str = ""
    annotated: tuple[int, ...] | None = None
    mapping: str = ""

    @property
    def label_files(self) -> LabelFiles | None:
        """What `read_label_map` reads the original label from; None without one."""
        return None if self.label is None else LabelFiles(Path(self.label), self.mapping)

    @property
    def labels_present(self) -> list[int]:
        """Label values present in the original label, sorted."""
        return sorted(self.voxels)

    @property
    def usable(self) -> bool:
        """Whether the case takes part in the run."""
        return self.status != "quarantined"

    def to_row(self) -> dict[str, object]:
        """Return the case as a row of cases.csv."""
        return {
            **{name: getattr(self, name) for name in (*TEXTS, "label")},
            **dict(zip(SHAPE, self.shape or (), strict=False)),
            **dict(zip(SPACING, self.spacing or (), strict=False)),
            "labels_present": _joined(self.labels_present),
            "voxels": _joined(self.voxels[value] for value in self.labels_present),
            "annotated": None if self.annotated is None else _joined(self.annotated) or NONE,
        }

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Case:
        """Read a case from a row of cases.csv."""
        present, counts = (map(int, row[name].split()) for name in ("labels_present", "voxels"))
        annotated = row["annotated"].replace(NONE, "").split() if row["annotated"] else None
        return cls(
            **{name: row[name] for name in TEXTS},
            label=row["label"] or None,
            voxels=dict(zip(present, counts, strict=True)),
            shape=as_triple(int(row[name]) for name in SHAPE) if row["slices"] else None,
            spacing=as_triple(float(row[name]) for name in SPACING) if row["slices"] else None,
            annotated=None if annotated is None else tuple(map(int, annotated)),
        )


def _joined(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def annotated_of(case: Case, stated: AnnotatedValues = "present") -> list[int]:
    """Return the label values that count as annotated in a case, sorted; by what a completion states."""
    if stated == "present":
        stated = "only_present" if case.annotated is None else case.annotated
    return case.labels_present if stated == "only_present" else sorted(stated)


def refuse_changed(case: Case, image: bool = False, label: bool = False) -> None:
    """Refuse a case whose image or label is no longer the file that the scan of the cohort saw.

    What is made of it would be kept under the identity of the other file.

    Raises:
        CohortError: it is another file.
        ImageError: it cannot be read.
    """
    files = case.label_files
    if image and file_identity(case.image) != case.image_id:
        changed = case.image
    elif label and files is not None and label_id(files.files_identity, files.table) != case.label_id:
        changed = str(files.path)
    else:
        return
    raise CohortError(f"{changed}: has changed since the cohort was read; start the workflow again")


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write cases.csv, sorted by case."""
    write_csv(path, COLUMNS, [case.to_row() for case in sorted(cases, key=lambda case: case.case)])


def read_cases(path: Path) -> list[Case]:
    """Read cases.csv, quarantined cases included; CohortError if it is another table, or damaged."""
    rows = read_csv(path)
    if rows and (absent := [name for name in COLUMNS if name not in rows[0]]):
        raise CohortError(
            f"{path}: has no column {absent[0]}; it is no cases.csv of this version; the target `cohort` writes one"
        )
    try:
        return [Case.from_row(row) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise CohortError(f"{path}: is damaged ({error}); delete it, and the workflow writes it again") from error


def usable_cases(path: Path, split: str, category: str | None = None) -> list[Case]:
    """Read the cases of a split, and of a category if one is given, that take part in the run."""
    return [
        case
        for case in read_cases(path)
        if case.usable and case.split == split and (category is None or case.category == category)
    ]
