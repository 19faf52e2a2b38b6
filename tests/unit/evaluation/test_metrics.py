import numpy as np
import pytest
from structures import CUBE, FOUR, box

from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.metrics import MIN_DSC_FOR_NSD, PUBLISHED_MIN_DSC_FOR_NSD, score_case
from flare23_lib.labels import Label, LabelMap

ONE = LabelMap((Label("liver", 1, tolerance_mm=1.0),))
AORTA = LabelMap((Label("aorta", 1, tolerance_mm=1.0, scored="reference_slices"),))


# Known answers


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_identical_volumes_score_one(mode):
    volume = box((2, 2, 2), (6, 7, 8))
    assert score_case(volume, volume, CUBE, ONE, mode) == {"liver": {"DSC": 1, "NSD": 1}}


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_a_class_in_neither_volume_scores_one(mode):
    empty = np.zeros((3, 4, 5), np.uint8)
    assert score_case(empty, empty, CUBE, ONE, mode) == {"liver": {"DSC": 1, "NSD": 1}}


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_a_class_in_one_volume_only_scores_zero(mode):
    empty, full = np.zeros((12, 14, 16), np.uint8), box((2, 2, 2), (6, 7, 8))
    assert score_case(empty, full, CUBE, ONE, mode) == {"liver": {"DSC": 0, "NSD": 0}}
    assert score_case(full, empty, CUBE, ONE, mode) == {"liver": {"DSC": 0, "NSD": 0}}


@pytest.mark.parametrize("shift", range(5))
def test_two_boxes_shifted_by_k_voxels_score_as_worked_out_by_hand(shift):
    """Cubes of 6 voxels, shifted along x by k mm, tolerance 1 mm.

    A face across x has 5 x 5 whole surfels, and around them 20 of edges and 4 of corners; between the two faces
    lie 5 rings of 4 x 5 whole surfels and 4 of edges. From k = 2 on there are too far away: the outer face with its
    rim, the rings behind it that begin more than 1 mm before the other cube, and, on the face that lies inside the
    other cube, the 3 x 3 surfels that are more than 1 mm from the other's sides.
    """
    first, second = box((3, 3, 2), (9, 9, 8)), box((3, 3, 2 + shift), (9, 9, 8 + shift))
    edge, corner = np.sqrt(2) / 2, np.sqrt(3) / 8
    ring, face = 20 + 4 * edge, 25 + 20 * edge + 4 * corner
    far = 0 if shift < 2 else face + (shift - 2) * ring + 9
    score = score_case(first, second, CUBE, ONE)["liver"]
    assert score["DSC"] == pytest.approx((6 - shift) / 6)
    assert score["NSD"] == pytest.approx(1 - far / (2 * face + 5 * ring))


def ball(radius, size=25):
    z, y, x = np.ogrid[:size, :size, :size]
    middle = size // 2
    return ((z - middle) ** 2 + (y - middle) ** 2 + (x - middle) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize(("tolerance", "nsd"), [(2.0, 0), (5.5, 1)])
def test_a_sphere_and_its_dilation_by_4_mm_agree_from_that_tolerance_on(tolerance, nsd):
    labels = LabelMap((Label("liver", 1, tolerance_mm=tolerance),))
    score = score_case(ball(6), ball(10), CUBE, labels)["liver"]
    assert score["DSC"] == pytest.approx(2 * 6**3 / (6**3 + 10**3), abs=0.01)
    assert score["NSD"] == nsd


def test_a_distance_equal_to_the_tolerance_is_within_it():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 4), (8, 8, 10))
    labels = LabelMap((Label("liver", 1, tolerance_mm=3.0),))
    assert score_case(first, second, (1.0, 1.0, 1.5), labels)["liver"]["NSD"] == 1


def test_the_spacing_is_taken_as_it_is_and_not_rounded():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 7), (8, 8, 13))
    labels = LabelMap((Label("liver", 1, tolerance_mm=3.0),))
    assert float(np.float32(0.6)) > 0.6
    ties = score_case(first, second, (1.0, 1.0, 0.6), labels, "plain")["liver"]["NSD"]
    beyond = score_case(first, second, (1.0, 1.0, float(np.float32(0.6))), labels, "plain")["liver"]["NSD"]
    assert beyond < ties == 1


def test_scores_stand_in_the_order_of_the_map():
    volume = np.zeros((2, 2, 2), np.uint8)
    volume[0, 0] = 14
    assert list(score_case(volume, volume, CUBE, FOUR)) == FOUR.names


def test_the_data_type_does_not_matter():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 3, 4), (8, 9, 10))
    scores = score_case(first, second, CUBE, ONE)
    assert score_case(first.astype(np.int64), second.astype(np.int16), CUBE, ONE) == scores
    assert score_case(np.asfortranarray(first), second.astype(bool), CUBE, ONE) == scores


# The challenge's rules


def test_a_dice_below_the_limit_makes_the_surface_dice_zero_in_the_challenge_only():
    first, second = box((2, 2, 2), (6, 6, 6)), box((5, 5, 2), (9, 9, 6))
    challenge = score_case(first, second, CUBE, ONE, "flare23")["liver"]
    plain = score_case(first, second, CUBE, ONE, "plain")["liver"]
    assert 0 < challenge["DSC"] == plain["DSC"] < MIN_DSC_FOR_NSD
    assert challenge["NSD"] == 0
    assert plain["NSD"] > 0


def test_the_limit_of_2023_scores_what_today_s_does_not():
    """A Dice of 0.125: below today's limit, above that of the published results."""
    first, second = box((2, 2, 2), (6, 6, 6)), box((4, 4, 4), (8, 8, 8))
    assert score_case(first, second, CUBE, ONE)["liver"] == {"DSC": 0.125, "NSD": 0}
    published = score_case(first, second, CUBE, ONE, min_dsc_for_nsd=PUBLISHED_MIN_DSC_FOR_NSD)
    assert published == score_case(first, second, CUBE, ONE, "plain")
    assert published["liver"]["NSD"] > 0


def test_a_dice_equal_to_the_limit_has_a_surface_dice():
    first, second = box((2, 2, 2), (6, 6, 6)), box((4, 4, 4), (8, 8, 8))
    assert score_case(first, second, CUBE, ONE, min_dsc_for_nsd=0.125)["liver"]["NSD"] > 0


def test_what_lies_outside_the_reference_s_slices_does_not_count():
    reference = box((3, 4, 4), (8, 8, 8))
    prediction = reference.copy()
    prediction[:3] = prediction[8:] = 1
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": {"DSC": 1, "NSD": 1}}
    assert score_case(reference, prediction, CUBE, AORTA, "plain")["aorta"]["DSC"] < 0.5


def test_the_last_slice_of_the_reference_is_left_out():
    reference = box((3, 4, 4), (8, 8, 8))
    prediction = reference.copy()
    prediction[7] = 0
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": {"DSC": 1, "NSD": 1}}
    prediction[3] = 0
    assert score_case(reference, prediction, CUBE, AORTA)["aorta"]["DSC"] == pytest.approx(2 * 3 / 7)


def test_a_reference_of_a_single_slice_is_scored_on_that_slice():
    reference = box((5, 4, 4), (6, 8, 8))
    prediction = box((2, 4, 4), (9, 8, 8))
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": {"DSC": 1, "NSD": 1}}


def test_a_prediction_in_other_slices_only_scores_zero():
    reference, prediction = box((2, 4, 4), (5, 8, 8)), box((6, 4, 4), (9, 8, 8))
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": {"DSC": 0, "NSD": 0}}


# Bad input


def test_volumes_of_different_shape_are_refused():
    with pytest.raises(EvaluationError, match=r"\(2, 2, 3\) does not fit"):
        score_case(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), CUBE, ONE)


@pytest.mark.parametrize("value", [7, 255, 300, -1])
def test_values_outside_the_label_map_are_named_with_their_side(value):
    good, bad = np.zeros((2, 2, 2), np.int64), np.zeros((2, 2, 2), np.int64)
    bad[1, 1, 1] = value
    with pytest.raises(EvaluationError, match=f"the prediction holds .*: {value}$"):
        score_case(good, bad, CUBE, ONE)
    with pytest.raises(EvaluationError, match=f"the reference holds .*: {value}$"):
        score_case(bad, good, CUBE, ONE)


def test_volumes_of_fractions_and_planes_are_refused():
    whole = box((2, 2, 2), (6, 7, 8))
    with pytest.raises(EvaluationError, match="the prediction holds float32, not whole numbers"):
        score_case(whole, whole.astype(np.float32), CUBE, ONE)
    with pytest.raises(EvaluationError, match="does not fit"):
        score_case(whole[0], whole[0], CUBE, ONE)
