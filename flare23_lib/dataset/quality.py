"""What can be wrong with a file or a case: the kinds, how grave each is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from flare23_lib.dataset.image_info import Facts
from flare23_lib.labels import LabelMap

QUARANTINE, WARN, UNLABELED = "quarantine", "warn", "unlabeled"
"""Severities: the case is left out; it is only listed; it counts as a case without a label."""

SHEAR_NOTICED_DEGREES = 0.01
"""Axes further from right angles than this are reported; SimpleITK refuses axes from about 0.02 degrees."""

FORMS_TOLERANCE_MM = 0.1
"""qform and sform that put the corners of the volume further apart than this are reported."""

SCALE_TOLERANCE = 1e-3
"""Relative difference of pixdim and the length of the affine's columns from which they are reported."""

CT_HIGHEST_LOW, CT_LOWEST_HIGH = -100.0, 100.0
"""In a CT in HU some voxel is below the one (air is -1000, fat about -100) and some above the other (bone)."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file.

    Attributes:
        case: id of its case.
        file: its path.
        kind: a key of the configuration's `quality_issues`.
        severity: "quarantine", "warn" or "unlabeled".
        message: what is wrong.
    """

    case: str
    file: str
    kind: str
    severity: str
    message: str

    @property
    def remedy(self) -> str:
        """What to do."""
        from flare23_lib.config.models import QualityIssues  # pydantic, which `flare23 predict` can do without

        return QualityIssues.model_fields[self.kind].description or ""


Finding = tuple[str, str]
"""Kind and message."""


def file_faults(facts: Facts, has_twin: bool, shear_limit: float) -> Iterator[Finding]:
    """Yield what is wrong with a file whatever it holds.

    Args:
        facts: about the file.
        has_twin: `x.nii` lies beside `x.nii.gz`.
        shear_limit: axes further from right angles, in degrees, are strongly sheared.
    """
    if has_twin:
        yield "uncompressed_twin", "a file of the same name without .gz lies beside it"
    if facts.fault:
        yield facts.fault, facts.error
        return
    if facts.version == 2:
        yield "nifti2", "is NIfTI-2"
    if facts.millimeters != 1:
        yield (
            "not_in_millimeters",
            f"its unit of length is {facts.millimeters:g} mm, a voxel {_millimeters(facts.geometry.spacing)}",
        )
    if facts.codes == (0, 0):
        yield "no_orientation", "neither qform_code nor sform_code is set: left and right are a guess"
    if facts.forms_apart > FORMS_TOLERANCE_MM:
        yield "qform_sform_disagree", f"qform and sform put a corner {facts.forms_apart:.3g} mm apart; sform counts"
    lengths = np.linalg.norm(facts.geometry.affine[:3, :3], axis=0)[::-1]
    if not np.allclose(lengths, facts.geometry.spacing, rtol=SCALE_TOLERANCE, atol=0):
        yield (
            "pixdim_disagrees",
            f"pixdim says {_millimeters(facts.geometry.spacing)}, the affine {_millimeters(lengths)}",
        )
    if (shear := largest_shear(facts)) > shear_limit:
        yield "strongly_sheared_axes", f"the axes are {shear:.2f} degrees off right angles"
    elif shear > SHEAR_NOTICED_DEGREES:
        yield "sheared_axes", f"the axes are {shear:.2f} degrees off right angles"


def image_faults(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with a readable file as a CT."""
    if facts.spacing == (1.0, 1.0, 1.0):
        yield "placeholder_spacing", "the spacing is 1x1x1 mm, likely a placeholder"
    if not facts.finite:
        yield "not_finite", "has NaN or infinite voxels"
    if facts.low is None or facts.high is None:
        return
    if facts.low == facts.high:
        yield "constant_image", f"every voxel is {facts.low:g}"
    elif facts.low > CT_HIGHEST_LOW or facts.high < CT_LOWEST_HIGH:
        yield "not_hounsfield", f"values from {facts.low:g} to {facts.high:g} cannot be a CT's in HU"


def label_faults(facts: Facts, labels: LabelMap) -> Iterator[Finding]:
    """Yield what is wrong with a readable file as a label map."""
    if facts.voxels is None:
        if facts.whole:
            yield "unknown_label_values", "has more different values than any label map"
        else:
            yield "fractional_label_values", "has values that are not whole numbers"
        return
    if facts.scaled:
        yield "scaled_label", "scl_slope or scl_inter change its values"
    if not facts.voxels:
        yield "empty_label", "has no labeled voxel"
    negative = [value for value in facts.voxels if value < 0]
    if negative:
        yield "negative_label_values", f"has the values {_listed(negative)}"
    unknown = [value for value in facts.voxels if value >= 0 and value not in labels.values]
    if unknown:
        yield "unknown_label_values", f"has the values {_listed(unknown)}, which are not in `labels`"


def pair_faults(image: Facts, label: Facts) -> Iterator[Finding]:
    """Yield how a readable label does not lie on its readable image."""
    difference = image.geometry.difference(label.geometry)
    if difference is None:
        return
    if image.shape != label.shape:
        yield "shape_mismatch", f"does not lie on its image: {difference}"
    elif image.geometry.axis_codes != label.geometry.axis_codes:
        yield "orientation_mismatch", f"does not lie on its image: {difference}"
    else:
        yield "affine_mismatch", f"does not lie on its image: {difference}"


def largest_shear(facts: Facts) -> float:
    """Return the largest departure of the axes from right angles, in degrees."""
    axes = facts.geometry.affine[:3, :3] / np.linalg.norm(facts.geometry.affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(1.0, cosines))))


def _millimeters(spacing: Iterable[float]) -> str:
    return "x".join(f"{value:.4g}" for value in spacing) + " mm"


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:5])) + (" and others" if len(values) > 5 else "")
