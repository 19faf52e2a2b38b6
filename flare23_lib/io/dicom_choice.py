"""Which of the series that a search found are segmented; a list of them for users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flare23_lib.errors import ImageError
from flare23_lib.io.dicom import MIN_SLICES, Series
from flare23_lib.io.dicom_search import DicomSearch


def choose_series(found: DicomSearch, root: Path, wanted: str | None) -> list[Series]:
    """Return the series to segment; ImageError for no CT volume, several of them and no choice, or no such series.

    `wanted` is "all", a Series Instance UID, or a number of the list that the error shows; None if there must be one.
    """
    volumes = [series for series in found.series if series.is_volume]
    if not volumes:
        raise ImageError(f"{root}: holds no CT series ({_what_else(found)})")
    if wanted == "all":
        return volumes
    if wanted is None:
        if len(volumes) > 1:
            raise ImageError(
                f"{root}: holds {len(volumes)} CT series; choose with --series NUMBER, UID or all\n"
                + format_series(volumes)
            )
        return volumes
    chosen = [volume for number, volume in enumerate(volumes, 1) if wanted in (str(number), volume.uid)]
    if len(chosen) != 1:
        problem = "is no series" if not chosen else f"has {len(chosen)} parts of different orientation or matrix"
        raise ImageError(f"{root}: {wanted!r} {problem}; the series are\n{format_series(volumes)}")
    return chosen


def format_series(series: Sequence[Series]) -> str:
    """Return a numbered list of series for users."""
    rows = [("", "series", "description", "slices", "matrix", "spacing (mm)", "UID")]
    for number, one in enumerate(series, 1):
        columns = "x".join(f"{value:.4g}" for value in (*one.pixel_spacing[::-1], one.distance))
        matrix = f"{one.matrix[1]}x{one.matrix[0]}"
        rows.append((str(number), one.number, one.description[:40], str(len(one.frames)), matrix, columns, one.uid))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(f"  {line}" for line in lines)


def _what_else(found: DicomSearch) -> str:
    counts = found.passed_over.copy()
    if found.annotations:
        counts["segmentation or structure set"] = len(found.annotations)
    for series in found.series:
        kind = "localizer" if series.modality == "CT" else f"series of modality {series.modality or 'unknown'}"
        if series.modality == "CT" and not series.is_localizer:
            kind = f"CT series of fewer than {MIN_SLICES} slices"
        counts[kind] += 1
    return ", ".join(f"{count} x {what}" for what, count in counts.items()) or "it is empty"
