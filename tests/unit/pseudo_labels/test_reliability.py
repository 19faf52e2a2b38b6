import numpy as np
import pytest

from flare23_lib.config.training_models import LeaveOut
from flare23_lib.pseudo_labels.components import remove_small_components
from flare23_lib.pseudo_labels.pseudo_label import change_between, most_changed, pass_change


def specked():
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    labels[4, 4, 4] = 1  # touches the cube at a corner: part of it
    labels[5, 7, 9] = 1
    labels[0, 0, 7:9] = 2
    return labels


def test_components_below_a_volume_are_dropped_class_by_class():
    labels = specked()
    result, dropped = remove_small_components(labels, {1: 0.1, 3: 5.0}, spacing=(5.0, 2.0, 2.0))
    expected = labels.copy()
    expected[5, 7, 9] = 0
    assert np.array_equal(result, expected)
    assert dropped == {1: 1}
    assert labels[5, 7, 9] == 1, "the input is left alone"


def test_a_component_of_just_the_volume_stays():
    result, dropped = remove_small_components(specked(), {2: 0.04}, spacing=(5.0, 2.0, 2.0))
    assert dropped == {}
    assert (result == 2).sum() == 2
    assert remove_small_components(specked(), {2: 0.0401}, spacing=(5.0, 2.0, 2.0))[1] == {2: 2}


def test_a_voxels_volume_is_the_product_of_all_three_spacings():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 1
    assert remove_small_components(labels, {1: 0.031}, spacing=(5.0, 2.0, 3.0))[1] == {1: 1}
    assert remove_small_components(labels, {1: 0.029}, spacing=(5.0, 2.0, 3.0))[1] == {}


def test_nothing_is_dropped_without_volumes():
    labels = specked()
    result, dropped = remove_small_components(labels, {}, (1, 1, 1))
    assert result is labels
    assert not dropped


def test_the_change_between_labels_is_one_minus_the_mean_dice():
    one, other = np.zeros((1, 1, 10), np.uint8), np.zeros((1, 1, 10), np.uint8)
    one[..., :4], other[..., 2:4] = 1, 1
    one[..., 6] = 2
    assert change_between(one, other, [1, 2, 3]) == pytest.approx(1 - (2 * 2 / 6 + 0) / 2)
    assert change_between(one, one, [1, 2, 3]) == 0
    assert change_between(one, other, [3]) == 0


def test_classes_that_no_pass_holds_do_not_count_as_change():
    assert pass_change({"results": {"agreement": {"1": 0.9, "3": 0.7, "14": None}}}) == pytest.approx(0.2)
    assert pass_change({"results": {"agreement": {"1": None}}}) == 0


def test_the_share_that_is_left_out_is_rounded_down():
    counts = [(0.2, 5), (0.4, 5), (0.19, 5), (0.29, 100)]
    assert [LeaveOut(share=share, changed_between="passes").count(cases) for share, cases in counts] == [1, 2, 0, 29]


def test_of_cases_that_changed_equally_the_first_stay():
    changes = {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.2, "e": 0.0}
    assert [most_changed(changes, count) for count in (0, 1, 2)] == [set(), {"c"}, {"b", "c"}]
