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
from places import SHARED

from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.dataset.summary import ALL, category_rows

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


def write_cohort(root, sets, images):
    """Write images of a few voxels, all different, and labels with these sets, in the dataset's folders."""
    random = np.random.default_rng(0)
    for number in range(1, images + 1):
        labeled = number <= len(sets)
        folder = f"imagesTr2200/{(number - 1) // 500 * 500 + 1}-{(number - 1) // 500 * 500 + 500}"
        name = f"{folder if labeled else 'unlabelTr1800'}/FLARE23_{number:04}_0000.nii.gz"
        write(root / name, random.integers(-1000, 1000, (8, 8, 8)).astype(np.int16))
        if labeled:
            label = np.zeros((8, 8, 8), np.uint8)
            label.ravel()[: len(sets[number - 1])] = sorted(sets[number - 1])
            write(root / f"labelsTr2200/FLARE23_{number:04}.nii.gz", label)


def categories(root, memory):
    """Return how many training cases each category has, and each of its sets of labels."""
    found = scan_cohort(root, SETTINGS, memory, processes=2)
    assert found.issues == []
    rows = [row for row in category_rows(found) if row["split"] == "training"]
    assert sum(row["quarantined"] for row in rows) == 0
    return {(row["category"], row["labels_present"]): row["cases"] for row in rows}


def words(present):
    return " ".join(map(str, sorted(present)))


def test_each_set_of_labels_falls_into_its_category_and_their_numbers_are_the_papers(tmp_path):
    sets = [present for rows in LABEL_SETS.values() for present in rows]
    write_cohort(tmp_path, sets, len(sets) + 2)
    expected = {(name, words(present)): 1 for name, rows in LABEL_SETS.items() for present in rows}
    expected |= {(name, ALL): len(rows) for name, rows in LABEL_SETS.items()}
    found = categories(tmp_path, tmp_path / "memory.jsonl")
    assert found == expected | {("unlabeled", ALL): 2}
    totals = {name: sum(rows.values()) for name, rows in LABEL_SETS.items()}
    assert totals | {"unlabeled": 4000 - sum(totals.values())} == TABLE_2


@pytest.mark.slow  # 6,200 files
def test_the_four_categories_have_the_papers_numbers(tmp_path):
    sets = [present for rows in LABEL_SETS.values() for present, number in rows.items() for _ in range(number)]
    np.random.default_rng(1).shuffle(sets)
    write_cohort(tmp_path, sets, 4000)
    found = categories(tmp_path, tmp_path / "memory.jsonl")
    assert {name: cases for (name, present), cases in found.items() if present == ALL} == TABLE_2
    for name, rows in LABEL_SETS.items():
        expected = {words(present): number for present, number in rows.items()}
        assert expected == {key[1]: cases for key, cases in found.items() if key[0] == name and key[1] != ALL}


def test_the_sets_are_those_of_the_published_case_list():
    facts = Path(os.environ.get("FLARE23_FACTS", SHARED / "facts"))
    if not (facts / "flare23_label_sets.csv").exists():
        pytest.skip("the case list is not here; set FLARE23_FACTS to its folder")
    with (facts / "flare23_label_sets.csv").open(newline="") as handle:
        published = Counter(frozenset(map(int, row["labels"].split())) for row in csv.DictReader(handle))
    assert published == {present: number for sets in LABEL_SETS.values() for present, number in sets.items()}
