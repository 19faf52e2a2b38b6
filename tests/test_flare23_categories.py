"""FLARE23's label sets, as files, give the paper's Table 2.

The sets and how often each occurs are counted in the case list that the FLARE23 runner-up published
(luckieucas/FLARE23), its 888 cases already merged with pseudo-labels set back to tumor only.
"""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cohorts import SETTINGS, write

from flare23_lib.cohort.summary import ALL, category_rows
from flare23_lib.cohort.survey import survey

ALL_ORGANS = frozenset(range(1, 14))
FIVE = frozenset({1, 2, 3, 4, 13})
TUMOR = frozenset({14})
LABEL_SETS = {
    "tumor": {
        TUMOR: 888,
        FIVE | TUMOR: 592,
        FIVE - {2} | TUMOR: 10,
        FIVE - {13} | TUMOR: 5,
        FIVE - {3} | TUMOR: 2,
    },
    "all_organs": {
        ALL_ORGANS: 219,
        ALL_ORGANS - {9}: 21,
        ALL_ORGANS - {2}: 4,
        ALL_ORGANS - {3}: 2,
        ALL_ORGANS - {3, 9}: 1,
        ALL_ORGANS - {8}: 1,
        ALL_ORGANS - {13}: 1,
        frozenset({1, 2, 3, 4, 5, 6, 7, 10, 11}): 1,
    },
    "five_organs": {FIVE: 438, FIVE - {2}: 9, FIVE - {13}: 6},
}
TABLE_2 = {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800}


@pytest.fixture(scope="module")
def flare23(tmp_path_factory):
    """4,000 images of a few voxels, all different, and 2,200 labels with these sets, in the dataset's folders."""
    root = tmp_path_factory.mktemp("flare23")
    sets = [present for rows in LABEL_SETS.values() for present, number in rows.items() for _ in range(number)]
    random = np.random.default_rng(0)
    random.shuffle(sets)
    for number in range(1, 4001):
        labeled = number <= len(sets)
        folder = f"imagesTr2200/{(number - 1) // 500 * 500 + 1}-{(number - 1) // 500 * 500 + 500}"
        name = f"{folder if labeled else 'unlabelTr1800'}/FLARE23_{number:04}_0000.nii.gz"
        write(root / name, random.integers(-1000, 1000, (2, 4, 4)).astype(np.int16))
        if labeled:
            label = np.zeros((2, 4, 4), np.uint8)
            label.ravel()[: len(sets[number - 1])] = sorted(sets[number - 1])
            write(root / f"labelsTr2200/FLARE23_{number:04}.nii.gz", label)
    return root


def test_the_four_categories_have_the_papers_numbers(flare23, tmp_path):
    found = survey(flare23, SETTINGS, tmp_path / "memory.jsonl", processes=2)
    rows = [row for row in category_rows(found) if row["split"] == "training"]
    assert {row["category"]: row["cases"] for row in rows if row["labels_present"] == ALL} == TABLE_2
    assert sum(row["quarantined"] for row in rows) == 0
    assert found.faults == []
    for category, sets in LABEL_SETS.items():
        expected = {" ".join(map(str, sorted(present))): number for present, number in sets.items()}
        assert expected == {
            row["labels_present"]: row["cases"]
            for row in rows
            if row["category"] == category and row["labels_present"] != ALL
        }


def test_the_sets_are_those_of_the_published_case_list():
    facts = Path(os.environ.get("FLARE23_FACTS", Path(__file__).resolve().parents[2] / "shared" / "facts"))
    if not (facts / "flare23_label_sets.csv").exists():
        pytest.skip("the case list is not here; set FLARE23_FACTS to its folder")
    with (facts / "flare23_label_sets.csv").open(newline="") as handle:
        published = Counter(frozenset(map(int, row["labels"].split())) for row in csv.DictReader(handle))
    assert published == {present: number for sets in LABEL_SETS.values() for present, number in sets.items()}
