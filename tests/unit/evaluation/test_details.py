import math

import numpy as np
import pytest
import surface_distance
from structures import box

from flare23_lib.evaluation.details import detection, hausdorff, measure_details, tumor_components, write_details
from flare23_lib.labels import Label, LabelMap

LIVER, SPLEEN = Label("liver", 1), Label("spleen", 3)
TUMOR = Label("tumor", 14, kind="tumor")
LABELS = LabelMap((LIVER, SPLEEN, TUMOR))
SPACING = (2.0, 1.0, 0.5)


def test_a_box_shifted_along_x_has_that_distance():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 6), (8, 8, 12))
    assert hausdorff(first, second, SPACING, [LIVER]) == {"liver": pytest.approx(4 * 0.5)}
    assert hausdorff(first, first, SPACING, [LIVER]) == {"liver": 0}


@pytest.mark.parametrize("seed", range(30))
def test_random_volumes_have_the_oracle_s_robust_distance(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 14, 3))
    reference, prediction = rng.choice([0, 1, 3], (2, *shape), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    spacing = tuple(rng.choice([0.6, 1.0, 2.5], 3).tolist())
    distances = hausdorff(reference, prediction, spacing, [LIVER, SPLEEN])
    for label in (LIVER, SPLEEN):
        masks = (reference == label.value).T, (prediction == label.value).T
        expected = surface_distance.compute_surface_distances(*masks, spacing[::-1])
        assert distances[label.name] == pytest.approx(
            surface_distance.compute_robust_hausdorff(expected, 95), abs=1e-9
        )


def test_volumes_are_in_milliliters_and_absent_classes_have_no_distance():
    reference, prediction = box((0, 0, 0), (10, 10, 10)), box((0, 0, 0), (10, 10, 12))
    prediction[11, 13, 15] = 3
    liver, spleen, tumor = measure_details("a", reference, prediction, SPACING, LABELS).distances
    assert (liver["reference_ml"], liver["prediction_ml"], liver["difference_ml"]) == (1.0, 1.2, 0.2)
    assert (spleen["reference_ml"], spleen["prediction_ml"], spleen["HD95_mm"]) == (0.0, 0.001, None)
    assert (tumor["reference_ml"], tumor["HD95_mm"]) == (0.0, None)


def test_tumors_are_found_missed_and_false_one_by_one():
    shape = (6, 30, 30)
    reference = box((1, 1, 1), (4, 5, 5), 1, shape) | box((1, 20, 20), (3, 22, 22), 1, shape)
    prediction = box((1, 1, 3), (4, 5, 9), 1, shape) | box((4, 12, 12), (5, 13, 13), 1, shape)
    rows = tumor_components(reference > 0, prediction > 0, (1, 1, 1))
    outcomes = [(row["side"], row["ml"], row["overlap"], row["outcome"]) for row in rows]
    assert outcomes == [
        ("reference", 0.048, 0.5, "found"),
        ("reference", 0.008, 0.0, "missed"),
        ("prediction", 0.072, 0.3333, "hit"),
        ("prediction", 0.001, 0.0, "false"),
    ]
    assert rows[0]["diameter_mm"] == pytest.approx((6 * 48 / math.pi) ** (1 / 3), abs=0.01)


def test_voxels_that_touch_by_a_corner_are_one_tumor():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert len(tumor_components(mask, np.zeros_like(mask), (1, 1, 1))) == 1


def tumor(outcome, diameter):
    return {"class": "tumor", "outcome": outcome, "diameter_mm": diameter}


def test_detection_is_counted_by_size():
    rows = [tumor("found", 25), tumor("missed", 9.9), tumor("missed", 10), tumor("hit", 30), tumor("false", 3)]
    table = {row["diameter"]: row for row in detection(rows, LABELS)}
    assert list(table) == ["under 10 mm", "10 to 20 mm", "20 mm and more", "all"]
    assert (table["under 10 mm"]["missed"], table["under 10 mm"]["false"]) == (1, 1)
    assert table["10 to 20 mm"]["sensitivity"] == 0
    assert table["all"] == {
        "class": "tumor", "diameter": "all", "tumors": 3, "found": 1, "missed": 2, "sensitivity": 0.3333,
        "predicted": 2, "false": 1,
    }  # fmt: skip


def test_no_tumor_in_the_references_has_no_sensitivity():
    assert detection([], LABELS)[-1]["sensitivity"] is None
    assert detection([], LabelMap((LIVER,))) == []


def test_tables_of_an_earlier_evaluation_are_removed_and_a_users_own_kept(tmp_path, caplog):
    write_details(tmp_path, [], LABELS, LABELS)
    assert {path.name for path in tmp_path.iterdir()} == {"distances.csv", "tumors.csv", "detection.csv"}
    (tmp_path / "tumors.csv").write_text("patient,size\nanna,3\n")
    write_details(tmp_path, None, LABELS, LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["tumors.csv"]
    assert f"{tmp_path / 'tumors.csv'}: is kept; it is no table of an evaluation" in caplog.text
