"""An overview of one segmented case: three planes through what was found, as image and with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare23_lib.axes import as_triple
from flare23_lib.colors import label_colors
from flare23_lib.io.label_tables import Structure
from flare23_lib.io.nifti import Volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.report.cases import overlaid, windowed
from flare23_lib.report.style import INK, PALE_INK, add_legend, display_name, new_figure, shortened

DPI = 150
PLANES = {"axial": "R", "coronal": "R", "sagittal": "A"}
"""Planes, and the side of the body at the left of each picture."""


def fullest(labels: np.ndarray, axis: int) -> int:
    """Return the index along an axis of (z, y, x) at which most structures show, and of these most voxels."""
    volume = np.moveaxis(labels, axis, 0)
    shown = np.array([np.count_nonzero(np.bincount(plane.ravel(), minlength=256)[1:]) for plane in volume])
    voxels = np.array([np.count_nonzero(plane) for plane in volume])
    best = int(np.argmax(np.where(shown == shown.max(), voxels, -1)))
    return best if shown.max() else len(volume) // 2


def draw_preview(path: Path, name: str, image: Volume, labels: np.ndarray, table: Sequence[Structure]) -> None:
    """Write a PNG of a case: axial, coronal and sagittal plane, above as image and below with labels.

    Planes are where most structures show. Axial ones are seen from the feet, front up; the others head up.

    Args:
        path: of the PNG.
        name: of the case.
        image: HU.
        labels: file values of the same shape, (z, y, x); those that are not in the table are not shown.
        table: the labels.
    """
    turn = Orientation.of(image.geometry.affine, "canonical")
    indices = np.zeros(256, np.uint8)
    indices[[structure.value for structure in table]] = np.arange(1, len(table) + 1)
    gray, marked = turn.forward(image.array), turn.forward(indices[labels])
    spacing = turn.spacing(image.geometry.spacing)
    colors = list(label_colors([structure.name for structure in table]).values())
    present = [row for row in table if (labels == row.value).any()]
    with new_figure(path, 10.8, 8.4, DPI) as figure:
        axes = figure.subplots(2, 3)
        for axis, (plane, side) in enumerate(PLANES.items()):
            at = fullest(marked, axis)
            flip = slice(None) if axis == 0 else slice(None, None, -1)
            one = windowed(np.take(gray, at, axis)[flip].astype(np.float64))
            found = np.take(marked, at, axis)[flip]
            height, width = (value for other, value in enumerate(spacing) if other != axis)
            pictures = np.repeat(one[..., None], 3, axis=-1), overlaid(one, found, colors)
            for row, picture in zip(axes, pictures, strict=True):
                row[axis].imshow(picture, aspect=height / width, interpolation="nearest")
                row[axis].set_axis_off()
                row[axis].text(
                    0.02, 0.5, side, color="white", fontsize=11, va="center", transform=row[axis].transAxes
                )
            axes[0][axis].set_title(f"{plane}, {at + 1} of {marked.shape[axis]}", fontsize=10, color=PALE_INK)
        title = shortened(name) + ("" if present else ": no structure was found")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
        shown = ((display_name(row.name), as_triple(part / 255 for part in row.color)) for row in present)
        add_legend(figure, shown, size=9)
