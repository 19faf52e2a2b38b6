import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flare23_lib.errors import MergeError
from flare23_lib.images import Geometry
from flare23_lib.labels import IGNORE_VALUE
from flare23_lib.pseudo_labels.merge import OUTCOMES, check_geometry, merge

TUMOR = 5
VALUES = [0, 1, 2, 3, 4, TUMOR]


def row(*values):
    return np.array(values, dtype=np.uint8).reshape(1, 1, -1)


def merged(original, predicted, annotated, **options):
    return merge(original, predicted, annotated, tumors=[TUMOR], **options).labels.ravel().tolist()


def test_a_voxel_with_an_original_label_keeps_it():
    assert merged(row(1, 2), row(2, 0), [1, 2]) == [1, 2]


def test_an_annotated_class_is_not_extended():
    assert merged(row(1, 0, 0), row(1, 1, 2), [1]) == [1, 0, 2]


def test_everything_else_takes_the_prediction():
    assert merged(row(0, 0, 0), row(3, 0, TUMOR), []) == [3, 0, TUMOR]


def test_a_class_that_was_looked_for_and_is_absent_stays_absent():
    assert merged(row(1, 0), row(1, 4), [1, 4]) == [1, 0]


def test_a_dropped_voxel_can_become_the_next_class():
    assert merged(row(1, 0, 0), row(1, 1, 2), [1], dropped_to="next_class", next_class=row(3, 3, 3)) == [1, 3, 2]


def test_a_dropped_voxel_can_be_ignored():
    assert merged(row(1, 0), row(1, 1), [1], dropped_to="ignore") == [1, IGNORE_VALUE]


@pytest.mark.parametrize(("option", "result"), [("keep_organ", 1), ("ignore", IGNORE_VALUE), ("tumor", TUMOR)])
def test_a_tumor_predicted_inside_an_annotated_organ_becomes_what_is_configured(option, result):
    assert merged(row(1), row(TUMOR), [1], tumor_inside_organs=option) == [result]


def test_where_tumors_are_annotated_none_is_added_inside_organs():
    assert merged(row(1, TUMOR), row(TUMOR, TUMOR), [1, TUMOR], tumor_inside_organs="tumor") == [1, TUMOR]


def test_the_outcomes_are_counted_by_class():
    result = merge(row(1, 1, 1, 0, 0, 0), row(1, 2, TUMOR, 1, 3, 0), [1], tumors=[TUMOR])
    assert result.counts == {
        "agreed": {1: 1},
        "kept": {1: 1},
        "tumor_inside": {1: 1},
        "dropped": {1: 1},
        "taken": {3: 1},
    }
    assert result.background == 1


def test_other_shapes_are_refused():
    with pytest.raises(MergeError, match="prediction"):
        merge(row(1, 2), row(1), [1])


def test_next_class_without_the_next_classes_is_refused():
    with pytest.raises(MergeError, match="next_class"):
        merge(row(1), row(1), [1], dropped_to="next_class")


@pytest.mark.parametrize("change", ["shift", "flip", "shape"])
def test_labels_of_another_geometry_are_refused(change):
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    other = affine.copy()
    shape = (4, 5, 6)
    if change == "shift":
        other[0, 3] = 2
    elif change == "flip":
        other[1, 1] = -2
    else:
        shape = (4, 5, 7)
    check_geometry(Geometry((4, 5, 6), affine, (5, 2, 2)), Geometry((4, 5, 6), affine.copy(), (5, 2, 2)))
    with pytest.raises(MergeError):
        check_geometry(Geometry((4, 5, 6), affine, (5, 2, 2)), Geometry(shape, other, (5, 2, 2)))


volumes = arrays(np.uint8, (3, 4, 5), elements=st.sampled_from(VALUES))
options = st.fixed_dictionaries(
    {
        "dropped_to": st.sampled_from(["background", "next_class", "ignore"]),
        "tumor_inside_organs": st.sampled_from(["keep_organ", "ignore", "tumor"]),
    }
)
subsets = st.sets(st.sampled_from(VALUES[1:]))


def run(original, predicted, extra, chosen):
    annotated = extra | set(np.unique(original)) - {0}
    allowed = sorted(set(VALUES) - annotated)
    next_class = np.full_like(original, allowed[-1])
    return annotated, merge(original, predicted, annotated, tumors=[TUMOR], next_class=next_class, **chosen)


@settings(max_examples=300, deadline=None)
@given(volumes, volumes, subsets, options)
def test_no_original_voxel_changes_unless_a_tumor_inside_was_asked_for(original, predicted, extra, chosen):
    _, result = run(original, predicted, extra, chosen)
    changed = (original != 0) & (result.labels != original)
    if chosen["tumor_inside_organs"] == "keep_organ":
        assert not changed.any()
    assert (predicted[changed] == TUMOR).all()


@settings(max_examples=300, deadline=None)
@given(volumes, volumes, subsets, options)
def test_no_annotated_class_grows(original, predicted, extra, chosen):
    annotated, result = run(original, predicted, extra, chosen)
    for value in annotated:
        assert not ((result.labels == value) & (original != value)).any()


@settings(max_examples=300, deadline=None)
@given(volumes, volumes, subsets, options)
def test_the_counts_add_up_to_the_volume(original, predicted, extra, chosen):
    _, result = run(original, predicted, extra, chosen)
    assert tuple(result.counts) == tuple(sorted(OUTCOMES, key=list(result.counts).index))
    assert result.background + sum(sum(rows.values()) for rows in result.counts.values()) == original.size


@settings(max_examples=300, deadline=None)
@given(volumes, volumes, subsets)
def test_merging_again_changes_nothing(original, predicted, extra):
    annotated, once = run(
        original, predicted, extra, {"dropped_to": "background", "tumor_inside_organs": "keep_organ"}
    )
    twice = merge(once.labels, predicted, annotated, tumors=[TUMOR])
    assert np.array_equal(once.labels, twice.labels)
