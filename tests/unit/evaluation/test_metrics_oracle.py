"""Both modes against PyPI's surface-distance, DeepMind's own implementation, under rules written out here."""

import itertools

import numpy as np
import pytest
import surface_distance
from hypothesis import given
from hypothesis import strategies as st
from structures import CUBE, FOUR

from flare23_lib.evaluation.metrics import score_case
from flare23_lib.evaluation.surfaces import surfel_areas
from flare23_lib.labels import Label, LabelMap

KINDS = ("smooth", "shifted", "thin", "specks", "border", "sparse")
QUICK, THOROUGH = 25, pytest.param(150, marks=pytest.mark.slow)
"""Numbers of random volumes of each kind."""


def oracle(reference, prediction, spacing, tolerance):
    """DSC and NSD of two masks by the surface-distance package, axes in the file's order (x, y, z)."""
    reference, prediction = reference.T, prediction.T
    if not (reference.any() and prediction.any()):
        value = float(reference.any() == prediction.any())  # the package fails on an empty mask
        return {"DSC": value, "NSD": value}
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing[::-1])
    return {
        "DSC": surface_distance.compute_dice_coefficient(reference, prediction),
        "NSD": surface_distance.compute_surface_dice_at_tolerance(distances, tolerance),
    }


def challenge(reference, prediction, spacing, label):
    """The challenge's rules over the package: cut slices, and no NSD below a DSC of 0.2."""
    if label.scored == "reference_slices" and reference.any() and prediction.any():
        slices = np.flatnonzero(reference.any(axis=(1, 2)))
        first, stop = slices.min(), slices.max()
        stop = max(stop, first + 1)  # a single slice: the script fails, ours scores it
        reference, prediction = reference[first:stop], prediction[first:stop]
    score = oracle(reference, prediction, spacing, label.tolerance_mm)
    return score if score["DSC"] >= 0.2 else {"DSC": score["DSC"], "NSD": 0.0}


def largest_difference(reference, prediction, spacing, labels=FOUR):
    """Of our scores from the expected ones, in both modes."""
    differences = []
    for mode in ("plain", "flare23"):
        scores = score_case(reference, prediction, spacing, labels, mode)
        for label in labels.labels:
            masks = reference == label.value, prediction == label.value
            if mode == "plain":
                expected = oracle(*masks, spacing, label.tolerance_mm)
            else:
                expected = challenge(*masks, spacing, label)
            score = scores[label.name]
            differences += [abs(score["DSC"] - expected["DSC"]), abs(score["NSD"] - expected["NSD"])]
    return max(differences)


# Surfels


@pytest.mark.parametrize("spacing", [CUBE, (2.5, 0.8, 0.7), (0.3, 5.0, 1.1)])
def test_the_areas_of_all_256_codes_are_the_oracle_s(spacing):
    table = surface_distance.lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = surface_distance.lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()
    areas = surfel_areas(spacing)
    for code in range(256):
        assert areas[code] == pytest.approx(table[sum(kernel[bit] for bit in range(8) if code >> bit & 1)], abs=1e-12)


def test_a_flat_face_has_the_area_of_the_voxel_s_face():
    areas = surfel_areas((2.0, 3.0, 5.0))
    assert areas[0b00001111] == 15  # the four voxels below: a face across z
    assert areas[0b00110011] == 10  # across y
    assert areas[0b01010101] == 6  # across x


# Volumes


def blobs(rng, shape, values):
    """Smooth random structures that touch each other and the border, some a voxel thin."""
    field = rng.standard_normal((len(values) + 1, *shape))
    for axis, _ in itertools.product((1, 2, 3), range(rng.integers(0, 3))):
        field = field + np.roll(field, 1, axis=axis)
    return np.array([0, *values], np.uint8)[field.argmax(axis=0)]


def spacing_of(rng, index):
    """Every third drawn freely, the others so that many distances tie with the tolerances; float32, as in headers."""
    steps = (rng.choice([0.5, 0.6, 1.0, 2.5, 5.0]), *rng.choice([0.5, 0.6, 1.0, 0.78, 2.0], 2))
    if index % 3 == 0:
        steps = rng.uniform(0.4, 4, 3)
    return tuple(float(np.float32(step)) for step in steps)


def volumes(rng, kind, values):
    """A reference and a prediction of one kind; single classes are missing now and then."""
    shape = tuple(rng.integers(1, [10, 18, 20]).tolist())
    reference = blobs(rng, shape, values)
    if kind == "smooth":
        prediction = np.where(rng.random(shape) < 0.1, blobs(rng, shape, values), reference)
    elif kind == "shifted":
        prediction = np.roll(reference, rng.integers(-3, 4, 3), axis=(0, 1, 2))
    elif kind == "thin":
        reference = np.zeros(shape, np.uint8)
        for value in values:  # sheets one voxel thick, which touch
            reference[rng.integers(shape[0])] = value
            reference[:, :, rng.integers(shape[2])] = value
        prediction = np.roll(reference, rng.integers(0, 2, 3), axis=(0, 1, 2))
    elif kind == "specks":
        prediction = np.where(rng.random(shape) < 0.02, rng.choice([0, *values], shape), reference).astype(np.uint8)
    elif kind == "border":
        reference = np.full(shape, values[rng.integers(len(values))], np.uint8)
        prediction = reference.copy()
        prediction[: rng.integers(shape[0]) + 1, : rng.integers(shape[1]) + 1] = rng.choice([0, *values])
    else:
        density = [0.96, 0.01, 0.01, 0.01, 0.01]
        reference, prediction = np.array([0, *values], np.uint8)[rng.choice(5, (2, *shape), p=density)]
    if rng.random() < 0.3:
        reference = np.where(reference == rng.choice(values), 0, reference)
    if rng.random() < 0.3:
        prediction = np.where(prediction == rng.choice(values), 0, prediction)
    return reference.astype(np.uint8), prediction.astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [QUICK, THOROUGH])
def test_random_volumes_score_as_the_oracle_says_in_both_modes(kind, number):
    rng = np.random.default_rng(KINDS.index(kind))
    worst = [largest_difference(*volumes(rng, kind, FOUR.values), spacing_of(rng, index)) for index in range(number)]
    assert max(worst) < 1e-9


def test_there_are_ties_among_the_random_volumes():
    """A tolerance that is a hair smaller changes scores, so the ties above are really met."""
    rng = np.random.default_rng(0)
    less = LabelMap(tuple(Label(x.name, x.value, x.kind, x.tolerance_mm - 1e-6, x.scored) for x in FOUR.labels))
    changed = 0
    for index in range(QUICK):
        reference, prediction = volumes(rng, "shifted", FOUR.values)
        spacing = spacing_of(rng, index)
        changed += score_case(reference, prediction, spacing, FOUR) != score_case(
            reference, prediction, spacing, less
        )
    assert changed > QUICK / 10


@given(
    bits=st.lists(st.booleans(), min_size=2 * 27, max_size=2 * 27),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 3),
    tolerance=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
    scored=st.sampled_from(["volume", "reference_slices"]),
)
def test_any_small_shape_scores_as_the_oracle_says(bits, spacing, tolerance, scored):
    reference, prediction = np.array(bits, np.uint8).reshape(2, 3, 3, 3)
    labels = LabelMap((Label("liver", 1, tolerance_mm=tolerance, scored=scored),))
    assert largest_difference(reference, prediction, spacing, labels) < 1e-9
