import numpy as np

from flare23_lib.pseudo_labels.components import remove_small_components


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
