"""Labels and volumes to score."""

import numpy as np

from flare23_lib.labels import Label, LabelMap

FOUR = LabelMap(
    (
        Label("liver", 3, tolerance_mm=5.0),
        Label("aorta", 1, tolerance_mm=2.0, scored="reference_slices"),
        Label("duodenum", 200, tolerance_mm=7.0),
        Label("tumor", 14, kind="tumor", tolerance_mm=2.0),
    )
)
CUBE = (1.0, 1.0, 1.0)


def box(start, stop, value=1, shape=(12, 14, 16)):
    volume = np.zeros(shape, dtype=np.uint8)
    volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return volume
