"""The whole chain on sources of seven layouts, each with numbers of its own, and no case with every label."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import yaml
from cohorts import write
from conftest import flare23, run_snakemake
from seven_sources import AFFINE, BOXES, FILES, LABELS, NAMES, expected, overrides, write_cohort

from flare23_lib.dataset.cases import annotated_of, read_cases
from flare23_lib.io.label_maps import read_label_map
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv

pytestmark = pytest.mark.slow

OVERLAP = BOXES["spleen"][0], BOXES["spleen"][1], 24


def cover_spleen_with_pancreas(cohort):
    """Let two masks overlap whose order by name is not the table's, where the pancreas comes later."""
    for number in (1, 2, 3):
        path = cohort / FILES["totalsegmentator"][1].format(f"{number:03d}").replace("{mask}", "pancreas")
        mask = read_labels(path).array.copy()
        mask[OVERLAP] = 1
        write(path, mask, AFFINE)


@pytest.mark.timeout(1800)
def test_partial_labels_of_seven_sources_become_a_student_and_scores(tmp_path):
    write_cohort(tmp_path / "cohort")
    cover_spleen_with_pancreas(tmp_path / "cohort")
    values = overrides() | {
        "cohort": "cohort",
        "results": "results",
        "validation": {"share": 0.34, "seed": 0, "sources": ["btcv", "lits"]},
        "completions": {name: None for name in ("tumor", "all_organs", "five_organs", "unlabeled")}
        | {name: {"category": name, "teacher": "teacher"} for name in NAMES},
        "models": {name: None for name in ("organ_teacher", "tumor_teacher", "student_2200")}
        | {
            "teacher": {"train_on": {"manual_labels": list(NAMES)}},
            "student": {"train_on": {"label_completions": list(NAMES), "manual_labels": []}, "evaluate": True},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    done = run_snakemake(tmp_path, "--config", "smoke=true", configfile=tmp_path / "mine.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    results = tmp_path / "smoke" / "results"

    cases = {case.case: case for case in read_cases(results / "cohort" / "cases.csv")}
    assert Counter(case.split for case in cases.values())["validation"] == 2
    assert not any(len(annotated_of(case)) == len(LABELS.names) for case in cases.values())
    completed = 0
    for name in NAMES:
        for row in read_csv(results / "completed_labels" / name / "conflicts.csv"):
            completed += 1
            labels = read_label_map(results / "completed_labels" / name / f"{row['case']}.nii.gz").array
            original = expected(name, 10 * NAMES.index(name) + int(row["case"][-1]))
            if name == "totalsegmentator":
                original[OVERLAP] = LABELS.value_of("pancreas")
            kept = original > 0
            assert np.array_equal(labels[kept], original[kept]), row["case"]
    assert completed > len(NAMES)

    scored = {row["class"] for row in read_csv(results / "evaluation" / "student" / "summary.csv")}
    assert {"liver", "spleen"} <= scored

    status = flare23(tmp_path, "status", "--configfile", "mine.yaml", "--config", "smoke=true")
    assert "Everything is there" in status.stdout, status.stdout
