"""What can be wrong with a file or a case: the kinds, the severity of each, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.errors import listed
from flare23_lib.io.label_maps import Target, ValueTable, unknown_values
from flare23_lib.labels import IGNORE_VALUE, LabelMap

QUARANTINE, UNLABELED = "quarantine", "unlabeled"
"""Severities, beside `warn`, which only lists a case: it is left out; it counts as a case without a label."""

SHEAR_NOTICED_DEGREES = 0.01
"""Axes further from right angles than this are reported; SimpleITK refuses axes from about 0.02 degrees."""

FORMS_TOLERANCE_MM = 0.1
"""qform and sform that put the corners of the volume further apart than this are reported."""

SCALE_TOLERANCE = 1e-3
"""Relative difference of pixdim and the length of the affine's columns from which they are reported."""

CT_LARGEST_VALUE = 1e5
"""No HU is further from 0; metal reaches some 30,000."""

SPACING_LIMITS_MM = (0.01, 100.0)
"""No CT of a body has voxels smaller or larger than this along an axis."""

MIN_EXTENT_MM = 10.0
"""A CT of a body is at least this long along its longest axis."""

MAX_EXTENTS_MM = (2500.0, 1200.0)
"""No CT of a body is longer than this along its longest axis (a body) and its second longest (a field of view)."""

MIN_SLICES = 8
"""A CT has so many voxels along each axis, or is reported: localizers and key images have fewer slices."""

ROUNDING_VOXELS = 0.01
"""Affines of image and label that put the corners further apart than this are reported."""

MAX_NAME_BYTES = 215
"""Longest name of a case in bytes: files of the store are named after it and add up to 40 of 255."""

CT_HIGHEST_LOW, CT_LOWEST_HIGH = -100.0, 100.0
"""In a CT in HU some voxel is below the one (air is -1000, fat about -100) and some above the other (bone)."""

MIN_LOOKED_FOR = 4
"""A label that was looked for in so many cases of a source occurs in one of them, or is reported."""


@dataclass(frozen=True)
class QualityIssue:
    """Something wrong with a file of a case.

    `kind` is a key of the configuration's `quality_issues`, `severity` is "quarantine", "warn" or "unlabeled".
    """

    case: str
    file: str
    kind: str
    severity: str
    message: str

    @property
    def remedy(self) -> str:
        """What to do."""
        from flare23_lib.config.cohort_models import QualityIssues  # pydantic, which `flare23 predict` can do without

        return QualityIssues.model_fields[self.kind].description or ""


Finding = tuple[str, str]
"""Kind and message."""


def file_issues(info: ImageInfo, has_twin: bool, shear_limit: float) -> Iterator[Finding]:
    """Yield what is wrong with a file whatever it holds.

    `has_twin`: `x.nii` lies beside `x.nii.gz`; axes further from right angles than the limit, in degrees, are
    strongly sheared.
    """
    if has_twin:
        yield "uncompressed_twin", "a file of the same name without .gz lies beside it"
    if info.issue:
        yield info.issue, info.error
        return
    if info.version == 2:
        yield "nifti2", "is NIfTI-2"
    if info.millimeters != 1:
        yield (
            "not_in_millimeters",
            f"its unit of length is {info.millimeters:g} mm, a voxel {_millimeters(info.geometry.spacing)}",
        )
    if info.codes == (0, 0):
        yield "no_orientation", "neither qform_code nor sform_code is set: left and right are a guess"
    if info.forms_apart > FORMS_TOLERANCE_MM:
        yield "qform_sform_disagree", f"qform and sform put a corner {info.forms_apart:.3g} mm apart; sform counts"
    lengths = np.linalg.norm(info.geometry.affine[:3, :3], axis=0)[::-1]
    if not np.allclose(lengths, info.geometry.spacing, rtol=SCALE_TOLERANCE, atol=0):
        yield (
            "pixdim_disagrees",
            f"pixdim says {_millimeters(info.geometry.spacing)}, the affine {_millimeters(lengths)}",
        )
    if (shear := largest_shear(info)) > shear_limit:
        yield "strongly_sheared_axes", f"the axes are {shear:.2f} degrees off right angles"
    elif shear > SHEAR_NOTICED_DEGREES:
        yield "sheared_axes", f"the axes are {shear:.2f} degrees off right angles"


def image_issues(info: ImageInfo) -> Iterator[Finding]:
    """Yield what is wrong with a readable file as a CT."""
    if size := implausible_size(info):
        yield "implausible_size", size
    if (slices := min(info.geometry.shape)) < MIN_SLICES:
        yield "few_slices", f"its shortest axis has a length of {slices}, fewer than {MIN_SLICES} voxels"
    if info.spacing == (1.0, 1.0, 1.0):
        yield "placeholder_spacing", "the spacing is 1x1x1 mm, likely a placeholder"
    if not info.finite:
        yield "not_finite", "has NaN or infinite voxels"
    if info.low is None or info.high is None:
        return
    if info.low == info.high:
        yield "constant_image", f"every voxel is {info.low:g}"
    elif info.low > CT_HIGHEST_LOW or info.high < CT_LOWEST_HIGH or max(-info.low, info.high) > CT_LARGEST_VALUE:
        yield "not_hounsfield", f"values from {info.low:g} to {info.high:g} cannot be a CT's in HU"


def implausible_size(info: ImageInfo) -> str | None:
    """Return why a volume is too small or too large for a CT of a body; None if it is not."""
    geometry = info.geometry
    spacing, shape = geometry.spacing, geometry.shape
    extents = sorted((count * size for count, size in zip(shape, spacing, strict=True)), reverse=True)
    low, high = SPACING_LIMITS_MM
    too_long = any(extent > limit for extent, limit in zip(extents, MAX_EXTENTS_MM, strict=False))
    if low <= min(spacing) and max(spacing) <= high and extents[0] >= MIN_EXTENT_MM and not too_long:
        return None
    extent = _millimeters(count * size for count, size in zip(shape, spacing, strict=True))
    return f"a voxel of {_millimeters(spacing)} and a volume of {extent} (z, y, x) are no CT's of a body"


def _occurs(target: Target, ours: Collection[int]) -> bool:
    """Return whether voxels are of what a mask stands for, another mask's too, or are ignored by it."""
    return target == IGNORE_VALUE or not set(target if isinstance(target, tuple) else (target,)).isdisjoint(ours)


def label_issues(info: ImageInfo, labels: LabelMap, table: ValueTable | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a readable file as a label map, whose values are ours or those of a source's table."""
    if info.voxels is None:
        if info.whole:
            yield "unknown_label_values", "has more different values than any label map"
        else:
            cause = ", which scl_slope and scl_inter make of the stored ones" if info.scaled else ""
            yield "fractional_label_values", f"has values that are not whole numbers{cause}"
        return
    cause = "scl_slope or scl_inter change its values" if info.scaled else ""
    if info.off_whole:
        off = f"its values are up to {info.off_whole:.2g} off whole numbers, which are taken"
        yield "scaled_label", f"{cause}: {off}" if cause else off
    elif cause:
        yield "scaled_label", cause
    ours = info.our_voxels(table)
    targets = table.targets if table else {}
    vanished = {name for name, (lost, size) in info.lost.items() if lost == size and not _occurs(targets[name], ours)}
    if vanished:
        names = [f"{name} ({size})" for name, (_, size) in info.lost.items() if name in vanished]
        yield "vanished_mask", f"later masks have all voxels of {listed(names)}"
    if smaller := [f"{name} ({lost} of {size})" for name, (lost, size) in info.lost.items() if name not in vanished]:
        yield "overlapping_masks", f"later masks have voxels of {listed(smaller)}"
    ignored = ours.get(IGNORE_VALUE, 0)
    if not ours.keys() - {0, IGNORE_VALUE}:
        yield "empty_label", "has no labeled voxel"
    elif ignored:
        yield "ignored_voxels", f"{ignored} voxels have the value 255: training and scores pass over them"
    if info.mapped:
        return
    negative = [value for value in info.voxels if value < 0]
    if negative:
        yield "negative_label_values", f"has the values {listed(negative)}"
    positive = [value for value in sorted(info.voxels) if value > 0 and value != IGNORE_VALUE]
    if table is None and (unknown := [value for value in positive if value not in labels.values]):
        yield "unknown_label_values", unknown_values(unknown, info.voxels, "`labels`")
    if table is not None and (unknown := table.unknown(positive)):
        yield "unknown_label_values", unknown_values(unknown, info.voxels)


def pair_issues(image: ImageInfo, label: ImageInfo) -> Iterator[Finding]:
    """Yield how a readable label does not lie on its readable image."""
    difference = image.geometry.difference(label.geometry)
    if difference is None:
        if difference := image.geometry.difference(label.geometry, ROUNDING_VOXELS):
            yield "rounded_affine", f"does not lie exactly on its image: {difference}"
        return
    if image.shape != label.shape:
        yield "shape_mismatch", f"does not lie on its image: {difference}"
    elif image.geometry.axis_codes != label.geometry.axis_codes:
        yield "orientation_mismatch", f"does not lie on its image: {difference}"
    else:
        yield "affine_mismatch", f"does not lie on its image: {difference}"


def largest_shear(info: ImageInfo) -> float:
    """Return the largest departure of the axes from right angles, in degrees."""
    axes = info.geometry.affine[:3, :3] / np.linalg.norm(info.geometry.affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(1.0, cosines))))


def _millimeters(spacing: Iterable[float]) -> str:
    return "x".join(f"{value:.4g}" for value in spacing) + " mm"
