"""A cohort of phantoms, laid out and partially labeled as FLARE23 is, or in another layout."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from flare23_lib.errors import CohortError
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.phantom.anatomy import FIVE_ORGANS, FLARE23_VALUES, ORGANS
from flare23_lib.phantom.drawing import Phantom, draw_phantom
from flare23_lib.phantom.frame import VARIATION, Variation
from flare23_lib.runtime.processes import in_processes

log = logging.getLogger(__name__)

MAX_COARSENESS = 10
"""Coarser voxels leave nothing of most organs."""

TUMOR_CHANCE = {"tumor_only": 1.0, "tumor_and_organs": 1.0, "unlabeled": 0.5, "validation": 0.8}
"""Probability that a case has tumors, by kind; other kinds: 1 if they annotate tumors, else 0."""

GALLBLADDER_REMOVED = 0.1
"""Probability that a case has no gallbladder; the first case with every organ always has its own."""

MISSED_ORGAN = 0.1
"""Probability that a tumor case's label lacks one of the organs that it annotates."""

KINDS = (
    *("tumor_only", "all_organs", "five_organs", "tumor_and_organs"),
    *("tumor_only", "tumor_and_organs", "all_organs", "five_organs"),
    *("tumor_only", "tumor_and_organs", "five_organs", "tumor_only"),
    *("all_organs", "tumor_and_organs", "tumor_only", "five_organs"),
    *("tumor_and_organs", "tumor_only", "all_organs", "five_organs"),
)
ANNOTATED = {
    "tumor_only": ("tumor",),
    "tumor_and_organs": ("tumor", *FIVE_ORGANS),
    "all_organs": ORGANS,
    "five_organs": FIVE_ORGANS,
}


@dataclass(frozen=True)
class PhantomLayout:
    """How a cohort is laid out, labeled and drawn: FLARE23's by default.

    Paths are relative to the cohort's folder; `{number}` is the case's number. A structure without a value is in no
    label; a tumor then belongs to its organ.
    """

    images: str = "imagesTr2200/FLARE23_{number:04d}_0000.nii.gz"  # of the labeled cases, numbered from 1
    labels: str = "labelsTr2200/FLARE23_{number:04d}.nii.gz"
    unlabeled_images: str = "unlabelTr1800/FLARE23_{number:04d}_0000.nii.gz"
    validation_images: str = "validation/FLARE23Ts_{number:04d}_0000.nii.gz"
    validation_labels: str = "validation-gt/FLARE23Ts_{number:04d}.nii.gz"
    truth: str = "truth/FLARE23_{number:04d}.nii.gz"  # complete labels of every training case
    first_unlabeled: int = 2201
    first_validation: int = 1
    validation_step: int = 2  # distance of the validation cases' numbers
    values: Mapping[str, int] = field(default_factory=lambda: FLARE23_VALUES)  # by structure
    annotated: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ANNOTATED)  # structures by kind of case
    kinds: tuple[str, ...] = KINDS  # kinds of the labeled cases, in turn, over and over
    coarseness: float = 1.0  # factor on the voxel size; 1 gives voxels of 4 to 6 mm by 3 to 4.2 mm
    variation: Variation = VARIATION  # how much bodies and scans differ


@dataclass(frozen=True)
class PlannedCase:
    """One case before it is drawn.

    Attributes:
        split: "labeled", "unlabeled" or "validation".
        index: from 0 within its split; with the split and the seed it determines what is drawn.
        number: the number in its file names.
        kind: key of the layout's `annotated`, or "unlabeled" or "validation".
    """

    split: str
    index: int
    number: int
    kind: str


def plan_cohort(cases: int, validation: int, layout: PhantomLayout) -> list[PlannedCase]:
    """List the cases of a cohort.

    Three in eight training cases, rounded down, are unlabeled. The others take the layout's kinds in turn. By
    default these repeat after 20: 11 tumor cases (6 of them with nothing else marked), 4 with all organs, 5 with
    five organs; so 32 cases are 11 / 4 / 5 / 12 and 6 cases are 2 / 1 / 1 / 2, and more cases never change the
    earlier ones. FLARE23 is 37 % tumor, 6 % all organs, 11 % five organs, 45 % unlabeled; all organs are twice as
    frequent here so that a small cohort can train the first teacher.

    Raises:
        CohortError: fewer than 4 cases, more than there are numbers for, or a kind of case whose label would hold
            nothing.
    """
    if cases < 4:
        raise CohortError(f"a phantom cohort needs at least 4 training cases, not {cases}")
    for kind in layout.kinds:
        if not set(layout.annotated[kind]) & set(layout.values):
            raise CohortError(f"the layout leaves out every structure that a {kind} case annotates")
    unlabeled = cases * 3 // 8
    kinds = [layout.kinds[index % len(layout.kinds)] for index in range(cases - unlabeled)]
    if len(kinds) >= layout.first_unlabeled:
        raise CohortError(
            f"{cases} cases have {len(kinds)} labeled ones; the layout has numbers for {layout.first_unlabeled - 1}"
        )
    first, step = layout.first_validation, layout.validation_step
    return [
        *(PlannedCase("labeled", index, 1 + index, kind) for index, kind in enumerate(kinds)),
        *(PlannedCase("unlabeled", index, layout.first_unlabeled + index, "unlabeled") for index in range(unlabeled)),
        *(PlannedCase("validation", index, first + index * step, "validation") for index in range(validation)),
    ]


def write_cohort(
    folder: Path,
    cases: int = 32,
    validation: int = 6,
    seed: int = 0,
    layout: PhantomLayout | None = None,
    processes: int = 1,
) -> None:
    """Write a cohort of phantoms.

    A case depends only on the seed, its place in its split and the layout: the same call gives the same bytes,
    whatever the number of processes, and a larger cohort holds the smaller one.

    Args:
        folder: where the layout's folders are made.
        cases: training cases, labeled and unlabeled (see `plan_cohort`).
        seed: not negative.
        layout: names, label values, annotations and sizes; None for FLARE23's.
        processes: how many cases are drawn at a time.

    Raises:
        CohortError: the cohort cannot be planned (see `plan_cohort`), or its voxels would be too coarse to draw.
        KilledError: a process was killed, or lacked memory.
    """
    layout = layout or PhantomLayout()
    if not 0 < layout.coarseness <= MAX_COARSENESS:
        raise CohortError(f"coarseness {layout.coarseness:g} of phantoms is not above 0 and at most {MAX_COARSENESS}")
    plan = plan_cohort(cases, validation, layout)
    write = partial(_write_case, folder=Path(folder), seed=seed, layout=layout)
    for _ in in_processes(write, plan, processes, lambda case: f"{case.split} case {case.index}"):
        pass
    log.info("wrote %d training and %d validation phantoms to %s", cases, validation, folder)


def _write_case(case: PlannedCase, folder: Path, seed: int, layout: PhantomLayout) -> None:
    """Draw a case and write its files."""
    split = ("labeled", "unlabeled", "validation").index(case.split)
    choices, content = np.random.default_rng([seed, split, case.index]).spawn(2)
    names = layout.annotated.get(case.kind, ())
    tumors = choices.uniform() < TUMOR_CHANCE.get(case.kind, float("tumor" in names))
    removed = choices.uniform() < GALLBLADDER_REMOVED
    first_complete = case.kind == "all_organs" and case.index == layout.kinds.index("all_organs")
    missed = choices.uniform(size=len(names)) < MISSED_ORGAN
    phantom = draw_phantom(
        content,
        tumors=tumors,
        gallbladder=first_complete or not removed,
        flipped=case.index % 2 == 1,
        coarseness=layout.coarseness,
        variation=layout.variation,
    )

    def write(pattern: str, array: np.ndarray) -> None:
        header = header_for(array.shape, phantom.affine, array.dtype)
        write_volume(folder / pattern.format(number=case.number), array, header)

    truth = _label(phantom, FLARE23_VALUES, layout.values)
    if case.split == "validation":
        write(layout.validation_images, phantom.image)
        write(layout.validation_labels, truth)
    elif case.split == "unlabeled":
        write(layout.unlabeled_images, phantom.image)
        write(layout.truth, truth)
    else:
        write(layout.images, phantom.image)
        write(layout.truth, truth)
        if "tumor" in names:  # in cases with tumors not every organ is marked
            names = tuple(name for name, left in zip(names, missed, strict=True) if name == "tumor" or not left)
        write(layout.labels, _label(phantom, names, layout.values))


def _label(phantom: Phantom, names: Iterable[str], values: Mapping[str, int]) -> np.ndarray:
    """Return the voxels (z, y, x) of a label file, uint8, with the structures named."""
    table = np.zeros(256, dtype=np.uint8)
    for name in set(names) & set(values) - {"tumor"}:
        table[FLARE23_VALUES[name]] = values[name]
    label = table[phantom.organs]
    if "tumor" in values:
        label[phantom.tumors] = values["tumor"] if "tumor" in names else 0
    return label
