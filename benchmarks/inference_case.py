"""The CT and the model that the inference benchmarks run on: made once and kept in a folder outside the repository.

    python benchmarks/inference_case.py --folder FOLDER

The CT has the geometry of the case in the paper's Figure 4, 448x512x512 voxels at 1.5x0.875x0.875 mm: a phantom of
about 360 by 250 mm is drawn at half of that resolution, interpolated, and given noise. The model is a STU-Net-S (or
another one) of 15 classes at 2.5x1.5x1.5 mm with a patch of 48x128x160, trained for some minutes on other phantoms
(random weights would make nearly every voxel foreground), so that its labels have the extent and borders of organs.
`--network stunet_tiny` makes a small and coarse one, which learns most in the least time, for `parity.py`.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance
from scipy import ndimage

from flare23_lib.images import header_for, read_volume, write_volume
from flare23_lib.inference.bundle import InferenceDefaults, Model, ModelLabel, write_bundle
from flare23_lib.networks import Architecture
from flare23_lib.networks.stunet import STUNet
from flare23_lib.phantom import FLARE23_VALUES, Variation, draw
from flare23_lib.resampling import Intensity, prepare_image
from flare23_lib.store import write_json

log = logging.getLogger(__name__)

SHAPE, SPACING = (448, 512, 512), (1.5, 0.875, 0.875)
INTENSITY = Intensity(-970, 279, 80.3, 141.4)


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
    """

    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]
    strides: list[list[int]]
    crop: tuple[int, int, int]
    phantoms: int
    margin_mm: float = 0.0


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


def recipe_of(network: str) -> Recipe:
    """Return how a network is laid out."""
    return TINY if network == "stunet_tiny" else STUDENT


def case_path(folder: Path) -> Path:
    """Return where the CT lies."""
    return folder / "images" / "case_0000.nii.gz"


def draw_case(folder: Path) -> None:
    """Draw the CT."""
    half = [size * 2 for size in SPACING]
    variation = Variation(
        z_spacings=(half[0],), plane_spacings=(half[1],), plane_view=(448.0, 448.0), z_view=(672.0, 672.0),
        shift=(8.0, 8.0), size=(1.12, 1.13), proportion=0.0, fat=(16.0, 17.0),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    image, _, _ = draw(rng, tumors=True, flipped=True, variation=variation)
    fine = ndimage.zoom(image.astype(np.float32), 2, order=1, grid_mode=True, mode="nearest")[
        tuple(map(slice, SHAPE))
    ]
    assert fine.shape == SHAPE
    for plane in fine:
        plane += 8 * rng.standard_normal(plane.shape, dtype=np.float32)
    array = np.clip(np.rint(fine), -1024, 3071).astype(np.int16)
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    write_volume(case_path(folder), array, header_for(array.shape, affine, array.dtype))


def training_volumes(recipe: Recipe) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw phantoms at the network's resolution: images and label indices."""
    depth, side = recipe.spacing[:2]
    variation = Variation(z_spacings=(depth,), plane_spacings=(side,), size=(0.9, 1.2))
    volumes: list[tuple[torch.Tensor, torch.Tensor]] = []
    for index in range(recipe.phantoms):
        rng = np.random.default_rng([7, index])
        image, labels, _ = draw(rng, tumors=index % 2 == 0, flipped=True, variation=variation)
        margins = [(0, 0), *rng.integers(0, int(recipe.margin_mm / side) + 1, (2, 2))]
        image, labels = np.pad(image, margins, constant_values=-1000), np.pad(labels, margins)
        volumes.append((prepare_image(image, INTENSITY, image.shape), torch.from_numpy(labels)))
    return volumes


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
    volumes: list[tuple[torch.Tensor, torch.Tensor]],
    crop: tuple[int, int, int],
    seconds: float,
) -> dict[str, float]:
    """Train for a time; crops are centered on voxels of random classes."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    places = [[np.flatnonzero(labels.numpy() == value) for value in range(15)] for _, labels in volumes]
    began, steps, losses = time.monotonic(), 0, []
    while (spent := time.monotonic() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * max(0.02, 1 - spent / seconds) ** 0.9
        index = int(rng.integers(len(volumes)))
        image, labels = volumes[index]
        value = int(rng.integers(15))
        seats = places[index][value] if len(places[index][value]) else places[index][0]
        center = np.unravel_index(int(rng.choice(seats)), labels.shape)
        corner = [int(np.clip(c - size // 2, 0, whole - size))
                  for c, size, whole in zip(center, crop, labels.shape, strict=True)]  # fmt: skip
        box = tuple(slice(start, start + size) for start, size in zip(corner, crop, strict=True))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image[box][None, None])
        loss = loss_of(logits, labels[box][None].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        steps += 1
        losses.append(loss.item())
        if steps % 50 == 0:
            log.info("step %d, %.0f of %.0f s, loss %.3f", steps, spent, seconds, np.mean(losses[-50:]))
    return {"steps": steps, "loss": float(np.mean(losses[-50:]))}


def make_model(folder: Path, minutes: float, network: str) -> None:
    """Train a model and write its bundle."""
    torch.manual_seed(0)
    recipe = recipe_of(network)
    architecture = Architecture.from_spec({"name": network, "strides": recipe.strides})
    net = STUNet(1, 15, **architecture.to_json())
    net.apply(net.initialize)
    result = train(net, training_volumes(recipe), recipe.crop, 60 * minutes)
    labels = (ModelLabel("background", 0), *(ModelLabel(name, value) for name, value in FLARE23_VALUES.items()))
    model = Model(
        name=network, network=architecture, patch_size=recipe.patch, spacing=recipe.spacing, intensity=INTENSITY,
        orientation="canonical", labels=labels, mirror_axes=(0, 1, 2),
        inference=InferenceDefaults(0.8, windows="body"),
        provenance={"trained_on": "phantoms", "minutes": minutes, **result},
    )  # fmt: skip
    write_bundle(folder / network, model, net.state_dict())


def make(folder: Path, network: str = "stunet_small", minutes: float = 10) -> None:
    """Make what is not there yet."""
    if not case_path(folder).exists():
        log.info("drawing the CT")
        draw_case(folder)
    if not (folder / network / "model.json").exists():
        log.info("training %s for %.0f minutes", network, minutes)
        make_model(folder, minutes, network)
    if not (folder / "about.json").exists():
        image = read_volume(case_path(folder))
        write_json(folder / "about.json", {**provenance(), "shape": list(image.array.shape)})


def main() -> None:
    """Make the case and the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where they are kept")
    parser.add_argument(
        "--network", default="stunet_small", choices=["stunet_tiny", "stunet_small", "stunet_base", "stunet_large"]
    )
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(args.folder, args.network, args.minutes)


if __name__ == "__main__":
    main()
