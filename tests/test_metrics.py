import itertools

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from flare23_lib.errors import EvaluationError
from flare23_lib.evaluation.metrics import NSD_LEAST_DSC, Score, score_case, surfel_areas
from flare23_lib.labels import Label, LabelMap

ONE = LabelMap((Label("liver", 1, tolerance_mm=1.0),))
AORTA = LabelMap((Label("aorta", 1, tolerance_mm=1.0, scored="reference_slices"),))
FOUR = LabelMap(
    (
        Label("liver", 3, tolerance_mm=5.0),
        Label("aorta", 1, tolerance_mm=2.0, scored="reference_slices"),
        Label("duodenum", 200, tolerance_mm=7.0),
        Label("tumor", 14, kind="tumor", tolerance_mm=2.0),
    )
)
CUBE = (1.0, 1.0, 1.0)


def box(start, stop, shape=(12, 14, 16), value=1):
    volume = np.zeros(shape, dtype=np.uint8)
    volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return volume


def oracle(reference, prediction, spacing, tolerance):
    """DSC and NSD of two masks by the surface-distance package, axes in the file's order (x, y, z)."""
    reference, prediction = reference.T, prediction.T
    if not (reference.any() and prediction.any()):
        value = float(reference.any() == prediction.any())  # the package fails on an empty mask
        return Score(value, value)
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing[::-1])
    return Score(
        surface_distance.compute_dice_coefficient(reference, prediction),
        surface_distance.compute_surface_dice_at_tolerance(distances, tolerance),
    )


def assert_plain_scores_are_the_oracle_s(reference, prediction, spacing, labels):
    scores = score_case(reference, prediction, spacing, labels, "plain")
    for label in labels.labels:
        expected = oracle(reference == label.value, prediction == label.value, spacing, label.tolerance_mm)
        assert scores[label.name].dsc == pytest.approx(expected.dsc, abs=1e-12)
        assert scores[label.name].nsd == pytest.approx(expected.nsd, abs=1e-9)


# Surfels


@pytest.mark.parametrize("spacing", [CUBE, (2.5, 0.8, 0.7), (0.3, 5.0, 1.1)])
def test_the_areas_of_all_256_codes_are_the_oracle_s(spacing):
    table = surface_distance.lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = surface_distance.lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()
    areas = surfel_areas(spacing)
    for code in range(256):
        assert areas[code] == pytest.approx(table[sum(kernel[bit] for bit in range(8) if code >> bit & 1)], abs=1e-12)


def test_a_code_and_its_complement_have_the_same_area():
    areas = surfel_areas((2.0, 0.9, 0.7))
    assert areas[::-1] == pytest.approx(areas)


def test_a_block_that_is_filled_or_empty_has_no_area():
    assert surfel_areas(CUBE)[[0, 255]].tolist() == [0, 0]


def test_a_flat_face_has_the_area_of_the_voxel_s_face():
    areas = surfel_areas((2.0, 3.0, 5.0))
    assert areas[0b00001111] == 15  # the four voxels below: a face across z
    assert areas[0b00110011] == 10  # across y
    assert areas[0b01010101] == 6  # across x


# Known answers


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_identical_volumes_score_one(mode):
    volume = box((2, 2, 2), (6, 7, 8))
    assert score_case(volume, volume, CUBE, ONE, mode) == {"liver": Score(1, 1)}


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_a_class_in_neither_volume_scores_one(mode):
    empty = np.zeros((3, 4, 5), np.uint8)
    assert score_case(empty, empty, CUBE, ONE, mode) == {"liver": Score(1, 1)}


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_a_class_in_one_volume_only_scores_zero(mode):
    empty, full = np.zeros((12, 14, 16), np.uint8), box((2, 2, 2), (6, 7, 8))
    assert score_case(empty, full, CUBE, ONE, mode) == {"liver": Score(0, 0)}
    assert score_case(full, empty, CUBE, ONE, mode) == {"liver": Score(0, 0)}


def test_a_box_shifted_by_one_of_eight_voxels_has_a_dice_of_seven_eighths():
    first, second = box((2, 2, 2), (6, 6, 10)), box((2, 2, 3), (6, 6, 11))
    assert score_case(first, second, CUBE, ONE)["liver"].dsc == 7 / 8


@pytest.mark.parametrize(("shift", "within"), [(1, True), (2, False), (3, False)])
def test_a_shifted_box_s_surface_agrees_up_to_the_tolerance(shift, within):
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 2 + shift), (8, 8, 8 + shift))
    nsd = score_case(first, second, CUBE, ONE)["liver"].nsd
    assert (nsd == 1) if within else (0 < nsd < 1)


def test_a_distance_equal_to_the_tolerance_is_within_it():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 4), (8, 8, 10))
    labels = LabelMap((Label("liver", 1, tolerance_mm=3.0),))
    assert score_case(first, second, (1.0, 1.0, 1.5), labels)["liver"].nsd == 1


def test_the_spacing_is_taken_as_it_is_and_not_rounded():
    first, second = box((2, 2, 2), (8, 8, 8)), box((2, 2, 7), (8, 8, 13))
    labels = LabelMap((Label("liver", 1, tolerance_mm=3.0),))
    assert float(np.float32(0.6)) > 0.6
    ties = score_case(first, second, (1.0, 1.0, 0.6), labels, "plain")["liver"].nsd
    beyond = score_case(first, second, (1.0, 1.0, float(np.float32(0.6))), labels, "plain")["liver"].nsd
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
    assert 0 < challenge.dsc == plain.dsc < NSD_LEAST_DSC
    assert challenge.nsd == 0
    assert plain.nsd > 0


def test_what_lies_outside_the_reference_s_slices_does_not_count():
    reference = box((3, 4, 4), (8, 8, 8))
    prediction = reference.copy()
    prediction[:3] = prediction[8:] = 1
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": Score(1, 1)}
    assert score_case(reference, prediction, CUBE, AORTA, "plain")["aorta"].dsc < 0.5


def test_the_last_slice_of_the_reference_is_left_out():
    reference = box((3, 4, 4), (8, 8, 8))
    prediction = reference.copy()
    prediction[7] = 0
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": Score(1, 1)}
    prediction[3] = 0
    assert score_case(reference, prediction, CUBE, AORTA)["aorta"].dsc == pytest.approx(2 * 3 / 7)


def test_a_reference_of_a_single_slice_is_scored_on_that_slice():
    reference = box((5, 4, 4), (6, 8, 8))
    prediction = box((2, 4, 4), (9, 8, 8))
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": Score(1, 1)}


def test_a_prediction_in_other_slices_only_scores_zero():
    reference, prediction = box((2, 4, 4), (5, 8, 8)), box((6, 4, 4), (9, 8, 8))
    assert score_case(reference, prediction, CUBE, AORTA) == {"aorta": Score(0, 0)}


def test_cut_ends_are_surface_as_in_a_volume_that_ends_there():
    rng = np.random.default_rng(5)
    for _ in range(10):
        reference = np.zeros((14, 9, 9), np.uint8)
        reference[3:10] = blobs(rng, (7, 9, 9), [1])
        reference[3, 4, 4] = reference[9, 4, 4] = 1
        prediction = reference | blobs(rng, reference.shape, [1])
        spacing = tuple(rng.choice([0.7, 1.0, 2.0], 3).tolist())
        score = score_case(reference, prediction, spacing, AORTA)["aorta"]
        expected = oracle(reference[3:9] == 1, prediction[3:9] == 1, spacing, 1.0)
        assert score.dsc == pytest.approx(expected.dsc, abs=1e-12)
        assert score.nsd == pytest.approx(expected.nsd, abs=1e-9)


# Against the oracle


def blobs(rng, shape, values):
    """Smooth random structures that touch each other and the border, some a voxel thin."""
    field = rng.standard_normal((len(values) + 1, *shape))
    for axis, _ in itertools.product((1, 2, 3), range(rng.integers(0, 3))):
        field = field + np.roll(field, 1, axis=axis)
    return np.array([0, *values], np.uint8)[field.argmax(axis=0)]


@pytest.mark.parametrize("seed", range(120))
def test_random_volumes_score_as_the_oracle_says(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, [10, 18, 20]).tolist())
    reference = blobs(rng, shape, FOUR.values)
    prediction = reference
    if seed % 2:
        prediction = np.roll(reference, rng.integers(-3, 4, 3), axis=(0, 1, 2))
    changed = rng.random(shape) < 0.1
    prediction = np.where(changed, blobs(rng, shape, FOUR.values), prediction)
    spacing = (rng.choice([0.5, 1.0, 2.5, 5.0]), *rng.choice([0.5, 1.0, 0.78], 2))  # many ties at 2, 5 and 7 mm
    if seed % 3 == 0:
        spacing = rng.uniform(0.4, 4, 3)
    spacing = tuple(float(np.float32(step)) for step in spacing)
    assert_plain_scores_are_the_oracle_s(reference, prediction, spacing, FOUR)


@pytest.mark.parametrize("seed", range(30))
def test_the_challenge_s_mode_is_the_oracle_under_the_official_rules(seed):
    rng = np.random.default_rng(seed)
    shape = (12, 16, 14)
    reference = np.zeros(shape, np.uint8)
    reference[2:9] = blobs(rng, (7, *shape[1:]), FOUR.values)
    prediction = np.where(rng.random(shape) < 0.5 * (seed % 3), blobs(rng, shape, FOUR.values), reference)
    spacing = tuple(float(np.float32(step)) for step in rng.choice([0.7, 1.0, 2.0, 2.5], 3))
    scores = score_case(reference, prediction, spacing, FOUR, "flare23")
    for label in FOUR.labels:
        masks = reference == label.value, prediction == label.value
        if label.scored == "reference_slices" and masks[0].any() and masks[1].any():
            slices = np.flatnonzero(masks[0].any(axis=(1, 2)))
            masks = tuple(mask[slices.min() : slices.max()] for mask in masks)
        expected = oracle(*masks, spacing, label.tolerance_mm)
        assert scores[label.name].dsc == pytest.approx(expected.dsc, abs=1e-12)
        assert scores[label.name].nsd == pytest.approx(expected.nsd if expected.dsc >= 0.2 else 0, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_sparse_specks_score_as_the_oracle_says(seed):
    rng = np.random.default_rng(seed)
    values = np.array([0, *FOUR.values], np.uint8)
    density = [0.98, 0.005, 0.005, 0.005, 0.005]
    reference, prediction = values[rng.choice(5, (2, 16, 24, 24), p=density)]
    spacing = tuple(float(np.float32(step)) for step in rng.choice([0.6, 1.0, 2.0, 3.0], 3))
    assert_plain_scores_are_the_oracle_s(reference, prediction, spacing, FOUR)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.lists(st.booleans(), min_size=2 * 27, max_size=2 * 27),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 3),
    tolerance=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
)
def test_any_small_shape_scores_as_the_oracle_says(bits, spacing, tolerance):
    reference, prediction = np.array(bits, np.uint8).reshape(2, 3, 3, 3)
    labels = LabelMap((Label("liver", 1, tolerance_mm=tolerance),))
    assert_plain_scores_are_the_oracle_s(reference, prediction, spacing, labels)


def test_scores_do_not_depend_on_which_volume_is_the_reference():
    rng = np.random.default_rng(3)
    first, second = blobs(rng, (8, 9, 10), FOUR.values), blobs(rng, (8, 9, 10), FOUR.values)
    spacing = (2.0, 0.7, 0.9)
    one = score_case(first, second, spacing, FOUR, "plain")
    other = score_case(second, first, spacing, FOUR, "plain")
    for name in FOUR.names:
        assert one[name].dsc == other[name].dsc
        assert one[name].nsd == pytest.approx(other[name].nsd, abs=1e-12)


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


def test_an_unknown_mode_is_refused():
    volume = np.zeros((2, 2, 2), np.uint8)
    with pytest.raises(EvaluationError, match="no evaluation mode 'strict'"):
        score_case(volume, volume, CUBE, ONE, "strict")
