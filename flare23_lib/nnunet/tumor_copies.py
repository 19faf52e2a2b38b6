"""Marked tumors, copied into patches of cases that are known to have none, with a soft border.

The idea is that of TumorCP (Yang et al., MICCAI 2021). A tumor here is a connected component of the configured label.
Images are preprocessed alike, so that their values carry over. Random numbers are those of numpy's global state, as
in nnU-Net's data loader.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import crop_and_pad_nd
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from scipy import ndimage

from flare23_lib.axes import CONNECTIVITY
from flare23_lib.config.training_models import TumorCopies

BORDER = 3
"""Voxels across the surface of a copy over which it is blended."""

MARGIN = 3
"""Voxels around a copy that are cut out with it; more than half the border."""

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Copied:
    """What is copied from where to where.

    Attributes:
        label: index of the label.
        hosts: indices of the labels that it can lie in.
        donors: cases that have it.
        recipients: cases in which it is annotated and absent.
    """

    label: int
    hosts: Sequence[int]
    donors: Sequence[str]
    recipients: Collection[str]


@dataclass(frozen=True)
class Tumor:
    """A tumor with a margin: float32 image and bool mask, (z, y, x), and the label that it lies in (0 for none)."""

    image: np.ndarray
    mask: np.ndarray
    host: int


class NamedCases(nnUNetDatasetBlosc2):
    """nnU-Net's dataset, which knows the case that was loaded last: transforms are not given it."""

    loaded = ""

    def load_case(self, identifier: str) -> tuple:
        """Return image, labels, labels of a previous stage and properties, and remember the case."""
        self.loaded = identifier
        return super().load_case(identifier)


def opacity(mask: np.ndarray) -> np.ndarray:
    """Return the share of a copy in each voxel, float32 (z, y, x), by the distance to its surface; over 0.5 in it."""
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.clip(0.5 + (depth - 0.5 * np.sign(depth)) / BORDER, 0, 1).astype(np.float32)


def paste(image: np.ndarray, labels: np.ndarray, tumor: Tumor, seat: Sequence[int], label: int) -> None:
    """Blend a tumor into a patch, in place, its center at a voxel (z, y, x).

    What lies beyond the patch, or in its padding (labels below 0), is left out.
    """
    starts = [int(place) - size // 2 for place, size in zip(seat, tumor.mask.shape, strict=True)]
    ends = [start + size for start, size in zip(starts, tumor.mask.shape, strict=True)]
    into = tuple(slice(max(0, a), min(b, n)) for a, b, n in zip(starts, ends, image.shape, strict=True))
    part = tuple(slice(one.start - start, one.stop - start) for one, start in zip(into, starts, strict=True))
    inside = labels[into] >= 0
    image[into] += opacity(tumor.mask)[part] * inside * (tumor.image[part] - image[into])
    labels[into][inside & tumor.mask[part]] = label


class CopyTumors(BasicTransform):
    """Copies tumors into patches of a dataset; the first transform of a patch.

    The patch size, (z, y, x), is that of the patch that augmentation leaves; copies are centered within it.
    """

    def __init__(self, options: TumorCopies, copied: Copied, dataset: NamedCases, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.options = options
        self.copied = copied
        self.dataset = dataset
        self.patch_size = tuple(patch_size)
        self._donors = nnUNetDatasetBlosc2(dataset.source_folder, sorted(copied.donors))
        self._boxes: dict[str, list[Box]] = {}

    def apply(self, data_dict: dict, **params: Any) -> dict:
        """Copy a tumor into the patch, if its case is a recipient."""
        if self.dataset.loaded in self.copied.recipients and np.random.uniform() < self.options.probability:
            self._copy(data_dict["image"][0].numpy(), data_dict["segmentation"][0].numpy())
        return data_dict

    def _copy(self, image: np.ndarray, labels: np.ndarray) -> None:
        tumor = self._draw()
        seats = self._seats(image, labels, tumor)
        if len(seats) and tumor.mask.any():
            paste(image, labels, tumor, seats[np.random.randint(len(seats))], self.copied.label)

    def _draw(self) -> Tumor:
        """Draw a case, one of its tumors, a size, and axes to mirror along."""
        case = self._donors.identifiers[np.random.randint(len(self._donors.identifiers))]
        boxes = self.boxes(case)
        box = boxes[np.random.randint(len(boxes))]
        tumor = self.read(case, box, np.random.uniform(*self.options.size))
        flips = tuple(np.flatnonzero(np.random.uniform(size=3) < 0.5).tolist())
        return Tumor(np.flip(tumor.image, flips), np.flip(tumor.mask, flips), tumor.host)

    def boxes(self, case: str) -> list[Box]:
        """Return the box (z, y, x) of each of a case's tumors; its label map is read once."""
        if case not in self._boxes:
            marked = self._donors.load_case(case)[1][:][0] == self.copied.label
            around = ndimage.find_objects(marked.view(np.uint8))[0]
            found = ndimage.find_objects(ndimage.label(marked[around], CONNECTIVITY)[0])
            starts = [part.start for part in around]
            self._boxes[case] = [
                tuple(slice(part.start + start, part.stop + start) for part, start in zip(box, starts, strict=True))
                for box in found
            ]
        return self._boxes[case]

    def read(self, case: str, box: Box, size: float) -> Tumor:
        """Read the tumor in a box, with a margin, in a share of its size; beyond the volume its edge is repeated."""
        images, labels, _, _ = self._donors.load_case(case)
        margin = math.ceil(MARGIN / size)
        reach = [[part.start - margin, part.stop + margin] for part in box]
        image, labels = crop_and_pad_nd(images, reach, pad_mode="edge")[0], crop_and_pad_nd(labels, reach, -1)[0]
        components = ndimage.label(labels == self.copied.label, CONNECTIVITY)[0]
        own = tuple(slice(margin, n - margin) for n in labels.shape)
        mask = components == ndimage.find_objects(components).index(own) + 1
        hosts = labels[np.isin(labels, self.copied.hosts)]
        shape = [max(1, round(n * size)) for n in mask.shape]
        whole = torch.from_numpy(np.stack([image, mask]).astype(np.float32))
        resized = F.interpolate(whole[None], shape, mode="trilinear")[0].numpy()
        share = resized[1]
        mask = share > min(0.5, np.nextafter(share.max(), 0))  # of a small tumor the voxel that it fills most
        return Tumor(resized[0], mask, int(np.bincount(hosts).argmax()) if len(hosts) else 0)

    def _seats(self, image: np.ndarray, labels: np.ndarray, tumor: Tumor) -> np.ndarray:
        """Return the voxels, (n, 3), that the center of a copy may lie at.

        Those of the organ that the tumor was in; without those, of any organ that can have it; without those,
        unlabeled ones as bright as what was around it (between its quartiles).
        """
        outer = [(n - size) // 2 for n, size in zip(image.shape, self.patch_size, strict=True)]
        inner = tuple(slice(start, start + size) for start, size in zip(outer, self.patch_size, strict=True))
        image, labels = image[inner], labels[inner]
        low, high = np.percentile(tumor.image[~tumor.mask], (25, 75))
        for found in (
            (labels == tumor.host) & (tumor.host > 0),
            np.isin(labels, self.copied.hosts),
            (labels == 0) & (image >= low) & (image <= high),
        ):
            if found.any():
                return np.argwhere(found) + outer
        return np.empty((0, 3), int)
