"""Preprocessed cases as nnU-Net's data loader reads them: images and labels apart.

An image is made once for a spacing, orientation and intensity, however many models and rounds of labels use it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path, link_to
from flare23_lib.io.label_maps import LabelFiles, read_label_map
from flare23_lib.io.nifti import MAX_VOXELS, is_finite, read_volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import SOFT_CHANNELS, label_indices, unpack_soft
from flare23_lib.preprocessing.resampling import (
    Intensity,
    prepare_image,
    resample_labels,
    resampled_shape,
    write_nearest,
)

MIN_VOXELS, MIN_SHARE = 10_000, 0.01
"""Voxels of a class that are kept: at least so many, at least this share, or all there are (nnU-Net's numbers)."""

SEED = 1234
"""nnU-Net's."""


def _save(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> None:
    """Save (c, z, y, x) for access patch by patch."""
    blocks, chunks = comp_blosc2_params(array.shape, tuple(patch_size), array.itemsize)
    compressed = blosc2.asarray(
        np.ascontiguousarray(array), blocks=blocks, chunks=chunks, cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5}
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(compressed.to_cframe())  # blosc2 itself passes over failed writes


@dataclass(frozen=True)
class TrainingGrid:
    """The grid of a model's preprocessed cases.

    Attributes:
        spacing: (z, y, x) in mm.
        orientation: "stored" or "canonical".
        patch_size: (z, y, x); only how files are divided into chunks, not what they hold.
        label_factor: voxels (z, y, x) of the labels in a voxel of the image.
    """

    spacing: Sequence[float]
    orientation: str
    patch_size: Sequence[int]
    label_factor: Sequence[int] = (1, 1, 1)


def preprocess_image(source: Path, target: Path, grid: TrainingGrid, intensity: Intensity) -> dict[str, list]:
    """Orient, normalize and resample an image and save it as float32 (1, z, y, x).

    Returns:
        `shape` and `spacing` before resampling, as the network sees the axes.
    """
    volume = read_volume(source)
    turn = Orientation.of(volume.geometry.affine, grid.orientation)
    array = turn.forward(volume.array)
    if not is_finite(array):
        raise ImageError(f"{source}: has NaN or infinite voxels")
    source_spacing = turn.spacing(volume.geometry.spacing)
    shape = resampled_shape(array.shape, source_spacing, grid.spacing)
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(
            f"{source}: would have {math.prod(shape):.2g} voxels {shape} (z, y, x) at the model's spacing"
        )
    image = prepare_image(array, intensity, shape)
    _save(target, image.numpy()[None], grid.patch_size)
    return {"shape": list(array.shape), "spacing": list(source_spacing)}


def preprocess_labels(
    source: LabelFiles | Path,
    target: Path,
    grid: TrainingGrid,
    label_values: Sequence[int],
    image_spacing: Sequence[float] | None = None,
    soft: Path | None = None,
) -> list[int]:
    """Orient and resample a label map, and record where its classes are, for the sampling of patches.

    Args:
        source: label map; 255 stands for voxels to ignore.
        target: `.b2nd` file of indices (1, z, y, x): the position in `label_values` counted from 1, and the index
            after the last for voxels to ignore. Finer labels have several channels (`packed`), as has each of the
            channels of soft labels. A `.pkl` file of the same name gets nnU-Net's `class_locations`.
        label_values: the label map's values in order.
        image_spacing: (z, y, x) in mm of the image as stored; None for the label's own, which may differ from it
            within the tolerance and so give another shape.
        soft: file of soft labels (`labels.pack_soft`), which become three more channels, at the nearest voxel: the
            first class's index, the second's, and the share of the first in 255ths, 0 where the label alone counts.

    Returns:
        The indices that have voxels, without background; the last one may be that of voxels to ignore.
    """
    volume = read_label_map(source)
    turn = Orientation.of(volume.geometry.affine, grid.orientation)
    try:
        indices = label_indices(turn.forward(volume.array), label_values)
    except ImageError as error:
        raise ImageError(f"{getattr(source, 'path', source)}: {error}", error.kind) from error
    shape = resampled_shape(indices.shape, turn.spacing(image_spacing or volume.geometry.spacing), grid.spacing)
    fine = tuple(size * one for size, one in zip(shape, grid.label_factor, strict=True))
    labels = resample_labels(torch.from_numpy(indices), fine).numpy()
    classes = list(range(1, len(label_values) + 1))
    locations = class_locations(labels, classes)
    if fine != shape:
        locations = {key: np.unique(places // [1, *grid.label_factor], axis=0) for key, places in locations.items()}
    with atomic_path(target.with_suffix(".pkl")) as temporary:
        temporary.write_bytes(pickle.dumps({"class_locations": locations, "spacing": list(grid.spacing)}))
    voxels = math.prod(grid.label_factor)
    channels = np.empty((voxels if soft is None else SOFT_CHANNELS * voxels, *shape), np.int16)
    channels[:voxels] = packed(labels, grid.label_factor)
    if soft is not None:
        nearest = np.empty(fine, np.int32)
        write_nearest(turn.forward(read_volume(soft).array), nearest)
        first, second, share = unpack_soft(nearest)
        del nearest
        planes = label_indices(first, label_values), label_indices(second, label_values), share
        for number, plane in enumerate(planes, start=1):
            channels[number * voxels : (number + 1) * voxels] = packed(plane, grid.label_factor)
    _save(target, channels, grid.patch_size)
    ignored = len(classes) + 1
    present = [index for index in classes if len(locations[index])]
    return [*present, ignored] if (labels == ignored).any() else present


def class_locations(labels: np.ndarray, classes: Sequence[int]) -> dict[int | tuple[int, ...], np.ndarray]:
    """Draw voxels of each class, and of all that is not to be ignored: nnU-Net's `class_locations`.

    nnU-Net 2.8.1 (`DefaultPreprocessor._sample_foreground_locations`) lists and sorts the coordinates of all voxels,
    about 100 bytes for each. Here voxels are drawn by their rank within the class, and found slice by slice.

    The labels are (z, y, x) uint8 indices; what is neither 0 nor one of `classes`, the foreground, is to be ignored.

    Returns:
        For each class (n, 4) integers: channel (0), z, y, x, sorted. Under the key (-1, 0, *classes) the same for all
        voxels that are not ignored, where nnU-Net draws the patches that are not forced onto foreground; 10,000 of
        them are enough, since any voxel serves.
    """
    rng = np.random.default_rng(SEED)
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in labels])

    def draw(values: Sequence[int], wanted: int) -> np.ndarray:
        """Draw voxels that hold one of the values, each equally likely and none twice; all if there are fewer."""
        ends = np.cumsum(counts[:, list(values)].sum(axis=1))
        total = int(ends[-1])
        ranks = np.sort(rng.choice(total, min(wanted, total), replace=False))
        chosen = np.isin(np.arange(256), values)
        rows = [np.empty((0, 4), np.int32)]
        for z in np.unique(np.searchsorted(ends, ranks, side="right")):
            first = ends[z - 1] if z else 0
            inside = ranks[np.searchsorted(ranks, first) : np.searchsorted(ranks, ends[z])] - first
            y, x = np.unravel_index(np.flatnonzero(chosen[labels[z]])[inside], labels.shape[1:])
            rows.append(np.stack([np.zeros_like(y), np.full_like(y, z), y, x], axis=1).astype(np.int32))
        return np.concatenate(rows)

    found: dict[int | tuple[int, ...], np.ndarray] = {}
    for value in classes:
        total = int(counts[:, value].sum())
        found[value] = draw([value], max(MIN_VOXELS, int(np.ceil(MIN_SHARE * total))))
    found[(-1, 0, *classes)] = draw([0, *classes], MIN_VOXELS)
    return found


def packed(labels: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Return labels as channels of a coarser grid: (voxels within a voxel, z, y, x) of (z, y, x) on the fine grid.

    nnU-Net's data loader cuts images and labels alike, so labels have the shape of the image.
    """
    z, y, x = factor
    depth, height, width = (size // one for size, one in zip(labels.shape, factor, strict=True))
    parts = labels.reshape(depth, z, height, y, width, x).transpose(1, 3, 5, 0, 2, 4)
    return parts.reshape(-1, depth, height, width)


def identifier(case: str) -> str:
    """Return a case's name in nnU-Net's folder, where names that end in `_seg` stand for labels: one of another end.

    Different cases have different ones.
    """
    return case + "_" if case.rstrip("_").endswith("_seg") else case


def annotated_classes(label_values: Sequence[int], cases: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Return the indices of the classes that are annotated in each case, by its name in nnU-Net's folder.

    The first of the label values has index 1; a case has `case` and `annotated` (values, as text).
    """
    index_of = {str(value): index for index, value in enumerate(label_values, start=1)}
    return {identifier(row["case"]): [index_of[value] for value in row["annotated"].split()] for row in cases}


def link_dataset(folder: Path, root: Path, cases: Sequence[Mapping[str, str]]) -> None:
    """Lay out a folder of preprocessed cases in nnU-Net's own way, as relative links to the files in the store.

    Args:
        folder: nnU-Net's folder of a configuration; links of cases that are not listed are removed.
        root: what the cases' paths are relative to.
        cases: `case`, `image` (`.b2nd`) and `label` (`.b2nd`, with its `.pkl` in the same folder).
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Path] = {}
    for row in cases:
        label, name = root / row["label"], identifier(row["case"])
        wanted[name + ".b2nd"] = root / row["image"]
        wanted[name + "_seg.b2nd"] = label
        wanted[name + ".pkl"] = label.with_name(label.name.removesuffix(".b2nd") + ".pkl")
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, target in wanted.items():
        link_to(folder / name, target)
