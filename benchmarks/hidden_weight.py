"""Which weight should a tumor have in an organ's annotation that may cover it? A voxel-wise trial.

    python benchmarks/hidden_weight.py [--output FILE]

A small network sees single voxels: features of a tissue (background, `ORGANS` organs, tumors in them), noise, and an
offset by site, which in one setting is strong enough to tell sites apart and in the other is none. A third of the
cases has tumors annotated and nothing else, a third organs alone (tumors are labeled as the organ), a third both.
The loss is `label_sets`; `hidden_weight` is constant, or is 0.01 for a share of the iterations and then higher
(`LATER`). Scored on cases of which only organs were annotated: organs that are called tumor, organs and
tumors that are found; beside it the tumors found in cases with annotated tumors. A trial of minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from flare23_lib.io.atomic import write_json
from flare23_lib.nnunet.losses import LabelSetLoss, admissible_sets

ORGANS, TUMOR, CLASSES = 11, 12, 13
HIDDEN_IN = {TUMOR: range(1, ORGANS + 1)}
FEATURES, WIDTH, SHAPE, BATCH, ITERATIONS = 16, 32, (6, 6, 6), 6, 1000
TUMOR_SHARE, ORGAN_SHARE, NOISE = 0.05, 0.5, 0.7
SITES = ({TUMOR}, set(range(1, ORGANS + 1)), set(range(1, CLASSES)))
"""Classes that are annotated at each site."""

WEIGHTS = (0.0, 0.01, 0.1, 0.5, 1.0)
LATER = ((0.1, 0.1), (0.1, 0.5), (0.1, 1.0), (0.5, 1.0))
"""Share of the iterations with 0.01, and the weight after it."""

SEEDS = (0, 1)

COLUMNS = ("organs_called_tumor", "organs_found", "tumors_found", "tumors_found_where_annotated")


class World:
    """Tissues and sites of a seed."""

    def __init__(self, seed: int, offset: float) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.tissues = torch.randn((CLASSES, FEATURES), generator=self.random)
        self.lesion = torch.randn(FEATURES, generator=self.random)
        self.offsets = offset * torch.randn((len(SITES), FEATURES), generator=self.random)

    def case(self, site: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features (FEATURES, z, y, x), organs and true classes (z, y, x) of a case of a site."""
        organs = torch.randint(1, ORGANS + 1, SHAPE, generator=self.random)
        organs[torch.rand(SHAPE, generator=self.random) > ORGAN_SHARE] = 0
        tumors = (organs > 0) & (torch.rand(SHAPE, generator=self.random) < TUMOR_SHARE)
        features = self.tissues[organs] + tumors[..., None] * self.lesion + self.offsets[site]
        features = features + NOISE * torch.randn(features.shape, generator=self.random)
        return features.movedim(-1, 0), organs, torch.where(tumors, TUMOR, organs)


def annotation(site: int, organs: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the labels of a case of a site: a tumor is its organ where tumors are not annotated."""
    labels = true if TUMOR in SITES[site] else organs
    kept = torch.tensor([value in SITES[site] for value in range(CLASSES)])
    return torch.where(kept[labels], labels, 0)


def train(world: World, first: float, share: float, last: float) -> torch.nn.Module:
    """Train a network whose weight of hidden classes is the first value for a share of the iterations."""
    network = torch.nn.Sequential(
        torch.nn.Conv3d(FEATURES, WIDTH, 1), torch.nn.ReLU(), torch.nn.Conv3d(WIDTH, CLASSES, 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, ITERATIONS, 0.9)
    loss = LabelSetLoss()
    for iteration in range(ITERATIONS):
        weight = first if iteration < share * ITERATIONS else last
        sets = [admissible_sets(found, CLASSES, HIDDEN_IN, weight) for found in SITES]
        sites = [int(site) for site in torch.randint(len(SITES), (BATCH,), generator=world.random)]
        batch = []
        for site in sites:
            features, organs, true = world.case(site)
            batch.append((features, annotation(site, organs, true)))
        images, labels = (torch.stack(parts) for parts in zip(*batch, strict=True))
        optimizer.zero_grad()
        loss(network(images), labels[:, None], torch.stack([sets[site] for site in sites])).backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def score(world: World, network: torch.nn.Module, cases: int = 40) -> dict[str, float]:
    """Return shares of voxels: of organs called tumor and of organs found, of tumors found, by kind of site."""
    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for _ in range(cases):
        for site in (1, 2):
            features, _, true = world.case(site)
            predicted = network(features[None])[0].argmax(0)
            organs, tumors = (true > 0) & (true < TUMOR), true == TUMOR
            recall = float((predicted[tumors] == TUMOR).float().mean())
            if site == 2:
                found["tumors_found_where_annotated"].append(recall)
                continue
            found["tumors_found"].append(recall)
            found["organs_found"].append(float((predicted[organs] == true[organs]).float().mean()))
            found["organs_called_tumor"].append(float((predicted[organs] == TUMOR).float().mean()))
    return {name: float(np.nanmean(values)) for name, values in found.items()}  # some cases have no tumor


def main() -> None:
    """Run all weights and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON with the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    arms = [(weight, 1.0, weight) for weight in WEIGHTS] + [(WEIGHTS[1], *later) for later in LATER]
    print(f"{'sites':<10}{'weight':<24}" + "".join(f"{column:>30}" for column in COLUMNS))
    for sites, offset in (("alike", 0.0), ("different", 1.0)):
        for first, share, last in arms:
            runs = []
            for seed in SEEDS:
                torch.manual_seed(seed)
                world = World(seed, offset)
                runs.append(score(world, train(world, first, share, last)))
            means = {column: round(float(np.mean([run[column] for run in runs])), 3) for column in COLUMNS}
            name = f"{first:g}" if share == 1 else f"{first:g} for {share:g}, then {last:g}"
            rows.append({"sites": sites, "first": first, "share": share, "last": last, **means, "seeds": runs})
            print(f"{sites:<10}{name:<24}" + "".join(f"{means[column]:>30.3f}" for column in COLUMNS), flush=True)
            if args.output:
                write_json(args.output, {**provenance(), "rows": rows})


if __name__ == "__main__":
    main()
