"""Preprocessed cases as nnU-Net's data loader reads them: images and labels apart.

An image is made once for a spacing, orientation and intensity, however many models and rounds of labels use it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import blosc2
import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

from flare23_lib.errors import ImageError
from flare23_lib.io.atomic import atomic_path, link_to
from flare23_lib.io.nifti import MAX_VOXELS, read_labels, read_volume
from flare23_lib.io.orientation import Orientation
from flare23_lib.labels import label_indices
from flare23_lib.preprocessing.locations import class_locations
from flare23_lib.preprocessing.resampling import Intensity, prepare_image, resample_labels, resampled_shape


def _save(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> None:
    """Save (c, z, y, x) for access patch by patch."""
    blocks, chunks = comp_blosc2_params(array.shape, tuple(patch_size), array.itemsize)
    compressed = blosc2.asarray(
        np.ascontiguousarray(array), blocks=blocks, chunks=chunks, cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5}
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(compressed.to_cframe())  # blosc2 itself passes over failed writes


def preprocess_image(
    source: Path,
    target: Path,
    spacing: Sequence[float],
    orientation: str,
    intensity: Intensity,
    patch_size: Sequence[int],
) -> dict[str, list | str]:
    """Orient, normalize and resample an image and save it as float32 (1, z, y, x).

    Args:
        source: NIfTI file.
        target: `.b2nd` file.
        spacing: (z, y, x) in mm.
        orientation: "stored" or "canonical".
        intensity: normalization.
        patch_size: (z, y, x); only how the file is divided into chunks, not what it holds.

    Returns:
        `shape` and `spacing` before resampling, as the network sees the axes, and `axis_codes` of the stored ones.
    """
    volume = read_volume(source)
    turn = Orientation.of(volume.geometry.affine, orientation)
    array = turn.forward(volume.array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{source}: has NaN or infinite voxels")
    source_spacing = turn.spacing(volume.geometry.spacing)
    shape = resampled_shape(array.shape, source_spacing, spacing)
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(
            f"{source}: would have {math.prod(shape):.2g} voxels {shape} (z, y, x) at the model's spacing"
        )
    image = prepare_image(array, intensity, shape)
    _save(target, image.numpy()[None], patch_size)
    codes = volume.geometry.axis_codes
    return {"shape": list(array.shape), "spacing": list(source_spacing), "axis_codes": codes}


def preprocess_labels(
    source: Path,
    target: Path,
    properties: Path,
    spacing: Sequence[float],
    orientation: str,
    label_values: Sequence[int],
    patch_size: Sequence[int],
    image_spacing: Sequence[float] | None = None,
) -> list[int]:
    """Orient and resample a label map, and note where its classes lie, for the sampling of patches.

    Args:
        source: NIfTI file of label values; 255 stands for voxels to ignore.
        target: `.b2nd` file of indices (1, z, y, x): the position in `label_values` counted from 1, and the index
            after the last for voxels to ignore.
        properties: `.pkl` file with nnU-Net's `class_locations`.
        spacing: (z, y, x) in mm.
        orientation: "stored" or "canonical".
        label_values: the label map's values in order.
        patch_size: as `preprocess_image`.
        image_spacing: (z, y, x) in mm of the image as stored; None for the label's own, which may differ from it
            within the tolerance and so give another shape.

    Returns:
        The indices that have voxels, background left out; the last one may be that of voxels to ignore.
    """
    volume = read_labels(source)
    turn = Orientation.of(volume.geometry.affine, orientation)
    try:
        indices = label_indices(turn.forward(volume.array), label_values)
    except ImageError as error:
        raise ImageError(f"{source}: {error}", error.kind) from error
    shape = resampled_shape(indices.shape, turn.spacing(image_spacing or volume.geometry.spacing), spacing)
    labels = resample_labels(torch.from_numpy(indices), shape).numpy()
    classes = list(range(1, len(label_values) + 1))
    locations = class_locations(labels, classes)
    with atomic_path(properties) as temporary:
        temporary.write_bytes(pickle.dumps({"class_locations": locations, "spacing": list(spacing)}))
    _save(target, labels[None].astype(np.int16), patch_size)
    ignored = len(classes) + 1
    present = [index for index in classes if len(locations[index])]
    return [*present, ignored] if (labels == ignored).any() else present


def identifier(case: str) -> str:
    """Return a case's name in nnU-Net's folder, where names that end in `_seg` stand for labels: one of another end.

    Different cases have different ones.
    """
    return case + "_" if case.rstrip("_").endswith("_seg") else case


def link_dataset(folder: Path, root: Path, cases: Sequence[Mapping[str, str]]) -> None:
    """Lay out a folder of preprocessed cases in nnU-Net's own way, as relative links to the files in the store.

    Args:
        folder: nnU-Net's folder of a configuration; links of cases that are not listed are removed.
        root: what the cases' paths are relative to.
        cases: `case`, `image` (`.b2nd`) and `label` (`.b2nd`, with its `.pkl` beside it).
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
