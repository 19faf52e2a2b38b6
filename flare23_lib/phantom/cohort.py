"""A cohort of phantoms, laid out and partially labeled as FLARE23 is, or as another layout says."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from flare23_lib.errors import CohortError
from flare23_lib.io.nifti import header_for, write_volume
from flare23_lib.phantom.anatomy import FIVE_ORGANS, FLARE23_VALUES, ORGANS
from flare23_lib.phantom.drawing import Phantom, draw_phantom
from flare23_lib.phantom.frame import VARIATION, Variation

log = logging.getLogger(__name__)

MOST_COARSE = 10
"""Voxels beyond this factor leave nothing of most organs."""


@dataclass(frozen=True)
class PhantomLayout:
    """How a cohort is laid out and labeled: data only, FLARE23's by default.

    Paths are relative to the cohort's folder; `{number}` is the case's number.

    Attributes:
        images: images of the labeled training cases.
        labels: their labels.
        unlabeled_images: images of the unlabeled training cases.
        validation_images: images of the validation cases.
        validation_labels: their labels, complete.
        truth: complete labels of every training case.
        first_labeled: number of the first labeled case; the others follow.
        first_unlabeled: number of the first unlabeled case.
        first_validation: number of the first validation case.
        validation_step: distance of the validation cases' numbers.
        values: structure name to label value; a structure left out is in no label (a tumor's voxels then
            belong to the organ around them).
        annotated: kind of case to the names of the structures that its label holds.
        kinds: kinds of the labeled cases, in turn, over and over.
    """

    images: str = "imagesTr2200/FLARE23_{number:04d}_0000.nii.gz"
    labels: str = "labelsTr2200/FLARE23_{number:04d}.nii.gz"
    unlabeled_images: str = "unlabelTr1800/FLARE23_{number:04d}_0000.nii.gz"
    validation_images: str = "validation/FLARE23Ts_{number:04d}_0000.nii.gz"
    validation_labels: str = "validation-gt/FLARE23Ts_{number:04d}.nii.gz"
    truth: str = "truth/FLARE23_{number:04d}.nii.gz"
    first_labeled: int = 1
    first_unlabeled: int = 2201
    first_validation: int = 1
    validation_step: int = 2
    values: Mapping[str, int] = field(default_factory=lambda: dict(FLARE23_VALUES))
    annotated: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "tumor_only": ("tumor",),
            "tumor_and_organs": ("tumor", *FIVE_ORGANS),
            "all_organs": ORGANS,
            "five_organs": FIVE_ORGANS,
        }
    )
    kinds: tuple[str, ...] = (
        *("tumor_only", "all_organs", "five_organs", "tumor_and_organs"),
        *("tumor_only", "tumor_and_organs", "all_organs", "five_organs"),
        *("tumor_only", "tumor_and_organs", "five_organs", "tumor_only"),
        *("all_organs", "tumor_and_organs", "tumor_only", "five_organs"),
        *("tumor_and_organs", "tumor_only", "all_organs", "five_organs"),
    )


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
        CohortError: fewer than 4 cases, or a kind of case whose label would hold nothing.
    """
    if cases < 4:
        raise CohortError(f"a phantom cohort needs at least 4 training cases, not {cases}")
    for kind in layout.kinds:
        if not set(layout.annotated[kind]) & set(layout.values):
            raise CohortError(f"the layout leaves out every structure that a {kind} case annotates")
    unlabeled = cases * 3 // 8
    plan = []
    for index in range(cases - unlabeled):
        kind = layout.kinds[index % len(layout.kinds)]
        plan.append(PlannedCase("labeled", index, layout.first_labeled + index, kind))
    for index in range(unlabeled):
        plan.append(PlannedCase("unlabeled", index, layout.first_unlabeled + index, "unlabeled"))
    for index in range(validation):
        number = layout.first_validation + index * layout.validation_step
        plan.append(PlannedCase("validation", index, number, "validation"))
    return plan


TUMOR_CHANCE: Mapping[str, float] = {
    "tumor_only": 1.0,
    "tumor_and_organs": 1.0,
    "all_organs": 0.0,
    "five_organs": 0.0,
    "unlabeled": 0.5,
    "validation": 0.8,
}
"""Probability that a case has tumors, by kind; kinds of other layouts: 1 if they annotate tumors, else 0."""

GALLBLADDER_REMOVED = 0.1
"""Probability that a case has no gallbladder; the first case with every organ always has its own."""

MISSED_ORGAN = 0.1
"""Probability that a tumor case's label lacks one of the organs that it annotates."""


def _stored_labels(phantom: Phantom, names: tuple[str, ...], values: Mapping[str, int]) -> np.ndarray:
    """Return the label file's voxels (uint8) for the structures named."""
    table = np.zeros(256, dtype=np.uint8)
    for name in names:
        if name != "tumor" and name in values:
            table[FLARE23_VALUES[name]] = values[name]
    stored = table[phantom.organs]
    if "tumor" in values:
        stored[phantom.tumors] = values["tumor"] if "tumor" in names else 0
    return stored


def _annotated_names(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is really marked of the structures a kind annotates: beside tumors, not always every organ."""
    missed = rng.uniform(size=len(names)) < MISSED_ORGAN
    if "tumor" not in names:
        return names
    return tuple(name for name, gone in zip(names, missed, strict=True) if name == "tumor" or not gone)


def _write_case(
    case: PlannedCase, folder: Path, seed: int, coarseness: float, layout: PhantomLayout, variation: Variation
) -> None:
    """Draw a case and write its files."""
    split = ("labeled", "unlabeled", "validation").index(case.split)
    choices, content = np.random.default_rng([seed, split, case.index]).spawn(2)
    names = layout.annotated.get(case.kind, ())
    chance = TUMOR_CHANCE.get(case.kind, float("tumor" in names))
    tumors = bool(choices.uniform() < chance)
    removed = bool(choices.uniform() < GALLBLADDER_REMOVED)
    first_complete = case.kind == "all_organs" and case.index == layout.kinds.index("all_organs")
    annotated = _annotated_names(choices, names)
    phantom = draw_phantom(
        content,
        tumors=tumors,
        gallbladder=first_complete or not removed,
        flipped=case.index % 2 == 1,
        coarseness=coarseness,
        variation=variation,
    )
    header = partial(header_for, phantom.image.shape, phantom.affine)
    truth = _stored_labels(phantom, tuple(FLARE23_VALUES), layout.values)
    image_pattern, label_pattern = {
        "labeled": (layout.images, layout.labels),
        "unlabeled": (layout.unlabeled_images, layout.truth),
        "validation": (layout.validation_images, layout.validation_labels),
    }[case.split]
    label_header = header(np.dtype(np.uint8))

    def target(pattern: str) -> Path:
        return folder / pattern.format(number=case.number)

    write_volume(target(image_pattern), phantom.image, header(np.dtype(np.int16)))
    if case.split == "labeled":
        write_volume(target(label_pattern), _stored_labels(phantom, annotated, layout.values), label_header)
    if case.split == "validation":
        write_volume(target(label_pattern), truth, label_header)
    else:
        write_volume(target(layout.truth), truth, label_header)
    log.debug("wrote %s", target(image_pattern))


def write_cohort(
    folder: Path,
    cases: int = 32,
    validation: int = 6,
    seed: int = 0,
    coarseness: float = 1.0,
    layout: PhantomLayout | None = None,
    processes: int = 1,
    variation: Variation = VARIATION,
) -> None:
    """Write a cohort of phantoms.

    A case depends only on the seed, its place in its split, the coarseness and the variation: the same call gives the
    same bytes, whatever the number of processes, and a larger cohort holds the smaller one.

    Args:
        folder: where the layout's folders are made.
        cases: training cases, labeled and unlabeled (see `plan_cohort`).
        validation: validation cases.
        seed: not negative.
        coarseness: factor on the voxel size; 1 gives voxels of 4 to 6 mm by 3 to 4.2 mm.
        layout: names, label values and annotations; None for FLARE23's.
        processes: how many cases are drawn at a time.
        variation: how much bodies and scans differ.

    Raises:
        CohortError: the cohort cannot be planned (see `plan_cohort`), or its voxels would be too coarse to draw.
    """
    if not 0 < coarseness <= MOST_COARSE:
        raise CohortError(f"phantoms of coarseness {coarseness:g}: it lies above 0 and up to {MOST_COARSE}")
    layout = layout or PhantomLayout()
    plan = plan_cohort(cases, validation, layout)
    write = partial(
        _write_case, folder=Path(folder), seed=seed, coarseness=coarseness, layout=layout, variation=variation
    )
    if processes == 1:
        for case in plan:
            write(case)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            list(pool.map(write, plan))
    log.info("wrote %d training and %d validation phantoms to %s", cases, validation, folder)
