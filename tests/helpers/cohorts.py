"""Small cohorts for tests: files of a few voxels in FLARE23's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.config.load import merge
from flare23_lib.dataset.scan import CohortScan, scan_cohort
from flare23_lib.io import nifti

SETTINGS = Config.load([RECIPE]).cohort_settings()


def changed(settings, **changes):
    """Return a stage's settings with changes, tables merged."""
    return type(settings).from_json(merge(settings.to_json(by_alias=False), changes))


def with_folders(**folders):
    """Return the recipe's settings with other folders of its source, by key; FLARE23's where none are given."""
    patterns = {
        key: [f"{folder}/**/{{case}}{'_0000' * key.endswith('images')}.nii.gz" for folder in names]
        for key, names in folders.items()
    }
    return changed(SETTINGS, sources={"flare23": patterns})


AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])
SHAPE = (8, 9, 10)


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nifti.write_volume(path, array, nifti.header_for(array.shape, affine, array.dtype))


def image_array(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 500, SHAPE).astype(np.int16)


def label_array(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array.ravel()[: len(values)] = values
    return array


class Cohort:
    """A cohort in a folder: `image` and `label` add files, `scan` looks at them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory = root / "memory.jsonl"
        self.settings = SETTINGS

    def image_path(self, case: str, folder: str = "imagesTr2200") -> Path:
        return self.root / folder / f"{case}_0000.nii.gz"

    def label_path(self, case: str, folder: str = "labelsTr2200") -> Path:
        return self.root / folder / f"{case}.nii.gz"

    def image(self, case: str, folder: str = "imagesTr2200", **options) -> Path:
        write(self.image_path(case, folder), image_array(len(case) + sum(map(ord, case))), **options)
        return self.image_path(case, folder)

    def label(self, case: str, *values: int, folder: str = "labelsTr2200", **options) -> Path:
        write(self.label_path(case, folder), label_array(*values), **options)
        return self.label_path(case, folder)

    def scan(self, processes: int = 1) -> CohortScan:
        return scan_cohort(self.root, self.settings, self.memory, processes)


def small_cohort(root: Path) -> Cohort:
    """One good case of each category (a tumor, b all organs, c five organs, d unlabeled), and a validation case v."""
    made = Cohort(root)
    for case, values in {"a": (1, 14), "b": (1, 5), "c": (2, 13)}.items():
        made.image(case)
        made.label(case, *values)
    made.image("d", folder="unlabeledTr1800")
    made.image("v", folder="validation")
    made.label("v", 1, folder="validation-gt")
    return made
