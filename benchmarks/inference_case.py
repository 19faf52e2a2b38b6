"""The CT and the model that the inference benchmarks run on: made once and kept in a folder outside the repository.

    python benchmarks/inference_case.py --folder FOLDER

The CT has the geometry of the case in the paper's Figure 4, 448x512x512 voxels at 1.5x0.875x0.875 mm: a phantom of
about 360 by 250 mm is drawn at half of that resolution, interpolated, and given noise. The model is a STU-Net-S (or
another one) of 15 classes at 2.5x1.5x1.5 mm with a patch of 48x128x160, trained for some minutes on other phantoms
(random weights would make nearly every voxel foreground), so that its labels have the extent and borders of organs.
STU-Net-L has the teacher's spacing and patch, 2.5x0.82x0.82 mm and 48x192x192.
`--network stunet_tiny` makes a small and coarse one, which learns most in the least time, for `parity.py`.
`--device cuda` trains on a GPU, where less than a minute is enough; `--coarseness 4` makes a CT and a model of voxels
four times as large on each side, to see in seconds whether a benchmark runs.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance
from scipy import ndimage

from flare23_lib.axes import as_triple
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.model import InferenceDefaults, Model, ModelLabel
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.locks import lock
from flare23_lib.io.nifti import header_for, read_volume, write_volume
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.phantom import FLARE23_VALUES, Variation, draw_phantom
from flare23_lib.preprocessing.resampling import Intensity, prepare_image

log = logging.getLogger(__name__)

SHAPE, SPACING = (448, 512, 512), (1.5, 0.875, 0.875)
INTENSITY = Intensity(-970, 279, 80.3, 141.4)
NNUNET_PRECISION = {"cpu": "float32", "cuda": "float16"}
"""What nnU-Net's predictor computes in, by device."""


@dataclass(frozen=True)
class Recipe:
    """How a network is laid out and trained; (z, y, x), spacing in mm.

    Attributes:
        patch: the window.
        spacing: the resolution that it sees.
        strides: of its stages.
        crop: what one training step sees.
        phantoms: that it learns from.
        margin_mm: the most air that is added on each side in the plane, as in scans with a large field of view.
        learning_rate: the first one; larger networks want smaller ones.
    """

    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]
    strides: list[list[int]]
    crop: tuple[int, int, int]
    phantoms: int
    margin_mm: float = 0.0
    learning_rate: float = 2e-3


STUDENT = Recipe(
    (48, 128, 160),
    (2.5, 1.5, 1.5),
    [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    # Smaller than the patch, as only the share of foreground has to come out right.
    (32, 96, 96),
    phantoms=10,
)
TINY = Recipe(
    (32, 64, 64),
    (5.0, 4.0, 4.0),
    [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    (32, 64, 64),
    phantoms=300,
    margin_mm=100.0,
)


TEACHER = replace(STUDENT, patch=(48, 192, 192), spacing=(2.5, 0.82, 0.82), phantoms=6, learning_rate=5e-4)
RECIPES = {
    "stunet_tiny": TINY,
    "stunet_small": STUDENT,
    "stunet_base": replace(STUDENT, learning_rate=1e-3),
    "stunet_large": TEACHER,
}


@dataclass(frozen=True)
class Making:
    """How case and model are made.

    Attributes:
        minutes: of training.
        device: where to train.
        precision: "bfloat16" or "float32", what the training computes in.
        processes: that draw phantoms.
        phantoms: to learn from; None for the recipe's number.
        coarseness: factor on the size of voxels, the CT's and the model's.
    """

    minutes: float = 10
    device: str = "cpu"
    precision: str = "bfloat16"
    processes: int = 1
    phantoms: int | None = None
    coarseness: float = 1


def case_path(folder: Path) -> Path:
    """Return where the CT lies."""
    return folder / "images" / "case_0000.nii.gz"


def draw_case(folder: Path, coarseness: float = 1) -> None:
    """Draw the CT if it is not there yet; of several processes one does it."""
    with lock(folder / ".case.lock"):
        if not case_path(folder).exists():
            log.info("drawing the CT")
            _draw_case(case_path(folder), coarseness)


def _draw_case(path: Path, coarseness: float) -> None:
    spacing = [size * coarseness for size in SPACING]
    shape = tuple(round(size / coarseness) for size in SHAPE)
    half = [size * 2 for size in spacing]
    variation = Variation(
        z_spacings=(half[0],), plane_spacings=(half[1],), plane_view=(448.0, 448.0), z_view=(672.0, 672.0),
        shift=(8.0, 8.0), size=(1.12, 1.13), proportion=0.0, fat=(16.0, 17.0),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    image = draw_phantom(rng, tumors=True, flipped=True, variation=variation).image
    fine = ndimage.zoom(image.astype(np.float32), 2, order=1, grid_mode=True, mode="nearest")[
        tuple(map(slice, shape))
    ]
    assert fine.shape == shape
    for plane in fine:
        plane += 8 * rng.standard_normal(plane.shape, dtype=np.float32)
    array = np.clip(np.rint(fine), -1024, 3071).astype(np.int16)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    write_volume(path, array, header_for(array.shape, affine, array.dtype))


def training_phantom(recipe: Recipe, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a phantom at the network's resolution, as large as the crop or larger: image in HU and label indices."""
    depth, side = recipe.spacing[:2]
    variation = Variation(z_spacings=(depth,), plane_spacings=(side,), size=(0.9, 1.2))
    rng = np.random.default_rng([7, index])
    phantom = draw_phantom(rng, tumors=index % 2 == 0, flipped=True, variation=variation)
    image, labels = phantom.image, phantom.labels
    margins = np.array([(0, 0), *rng.integers(0, int(recipe.margin_mm / side) + 1, (2, 2))])
    margins[:, 1] += np.maximum(0, recipe.crop - margins.sum(1) - image.shape)
    return np.pad(image, margins, constant_values=-1000), np.pad(labels, margins)


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice of the classes present."""
    logits = logits.float()
    shares = logits.softmax(1)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    both = (shares * truth).sum((0, 2, 3, 4))
    sizes = (shares + truth).sum((0, 2, 3, 4))
    present = truth.sum((0, 2, 3, 4)) > 0
    dice = (2 * both[present] / sizes[present].clamp(min=1)).mean()
    return F.cross_entropy(logits, labels) + 1 - dice


def train(
    network: STUNet,
    phantoms: list[tuple[np.ndarray, np.ndarray]],
    recipe: Recipe,
    making: Making,
) -> dict[str, float]:
    """Train for a time; crops are centered on voxels of random classes."""
    rng = np.random.default_rng(0)
    device, crop, seconds = torch.device(making.device), recipe.crop, 60 * making.minutes
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    places = [[np.flatnonzero(labels == value) for value in range(15)] for _, labels in phantoms]
    volumes = [
        (prepare_image(image, INTENSITY, image.shape, device), torch.from_numpy(labels).to(device))
        for image, labels in phantoms
    ]
    began, spent, steps, losses = time.monotonic(), 0.0, 0, []
    while not steps or spent < seconds:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * max(0.02, 1 - spent / seconds) ** 0.9
        index = int(rng.integers(len(volumes)))
        image, labels = volumes[index]
        value = int(rng.integers(15))
        seats = places[index][value] if len(places[index][value]) else places[index][0]
        center = np.unravel_index(int(rng.choice(seats)), labels.shape)
        corner = [int(np.clip(c - size // 2, 0, whole - size))
                  for c, size, whole in zip(center, crop, labels.shape, strict=True)]  # fmt: skip
        box = tuple(slice(start, start + size) for start, size in zip(corner, crop, strict=True))
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=making.precision == "bfloat16"):
            logits = network(image[box][None, None])
        loss = loss_of(logits, labels[box][None].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        steps += 1
        losses.append(loss.item())  # waits for the device, so that the time is right
        spent = time.monotonic() - began
        if steps % 50 == 0:
            log.info("step %d, %.0f of %.0f s, loss %.3f", steps, spent, seconds, np.mean(losses[-50:]))
    network.cpu()
    return {"steps": steps, "loss": float(np.mean(losses[-50:]))}


def make_model(
    folder: Path, network: str, recipe: Recipe, phantoms: list[tuple[np.ndarray, np.ndarray]], making: Making
) -> None:
    """Train a model and write its bundle."""
    torch.manual_seed(0)
    architecture = Architecture.named(network, recipe.strides)
    net = STUNet(1, 15, **architecture.to_json())
    net.apply(net.initialize)
    result = train(net, phantoms, recipe, making)
    labels = (ModelLabel("background", 0), *(ModelLabel(name, value) for name, value in FLARE23_VALUES.items()))
    model = Model(
        name=network, network=architecture, patch_size=recipe.patch, spacing=recipe.spacing, intensity=INTENSITY,
        orientation="canonical", labels=labels, mirror_axes=(0, 1, 2),
        inference=InferenceDefaults(0.8, windows="body"),
        provenance={"trained_on": "phantoms", "minutes": making.minutes, "device": making.device, **result},
    )  # fmt: skip
    write_bundle(folder / network, model, net.state_dict())


def make(folder: Path, network: str = "stunet_small", making: Making = Making()) -> None:
    """Make what is not there yet: the CT is drawn while the model learns."""
    recipe = RECIPES[network]
    recipe = replace(recipe, spacing=as_triple(size * making.coarseness for size in recipe.spacing))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(making.processes, mp_context=context) as pool:
        case = None if case_path(folder).exists() else pool.submit(draw_case, folder, making.coarseness)
        if not (folder / network / "model.json").exists():
            count = recipe.phantoms if making.phantoms is None else making.phantoms
            phantoms = list(pool.map(partial(training_phantom, recipe), range(count)))
            log.info("training %s for %g minutes", network, making.minutes)
            make_model(folder, network, recipe, phantoms, making)
        if case is not None:
            case.result()
    if not (folder / "about.json").exists():
        image = read_volume(case_path(folder))
        write_json(folder / "about.json", {**provenance(), "shape": list(image.array.shape)})


def main() -> None:
    """Make the case and the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where they are kept")
    parser.add_argument("--network", default="stunet_small", choices=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"], help="of the training")
    parser.add_argument("--processes", type=int, default=1, help="that draw phantoms (default: %(default)s)")
    parser.add_argument("--phantoms", type=int, help="to learn from (default: the network's number)")
    parser.add_argument("--coarseness", type=float, default=1, help="factor on the size of voxels")
    parser.add_argument("--output", type=Path, help="a JSON file for what was made")
    args = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, network, output = (args.pop(name) for name in ("folder", "network", "output"))
    make(folder, network, Making(**args))
    if output:
        model = read_json(folder / network / "model.json")
        write_json(output, {**provenance(), "case": read_json(folder / "about.json")["shape"], "model": model})


if __name__ == "__main__":
    main()
