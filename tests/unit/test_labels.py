import numpy as np
import pytest

from flare23_lib.errors import ConfigError, ImageError
from flare23_lib.labels import IGNORE_VALUE, Label, LabelMap, label_indices, pack_soft, unpack_soft

LABELS = LabelMap((Label("liver", 6), Label("spleen", 1), Label("lesion", 20, kind="tumor")))


def test_indices_follow_the_order_of_the_map():
    values = np.array([0, 6, 1, 20, IGNORE_VALUE])
    assert label_indices(values, LABELS.values).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [2, -1, 300])
def test_a_value_outside_the_map_is_refused(value):
    with pytest.raises(ImageError, match=str(value)):
        label_indices(np.array([0, value]), LABELS.values)


def test_a_name_or_value_given_twice_is_refused():
    with pytest.raises(ConfigError, match="'liver' is given twice"):
        LabelMap((Label("liver", 1), Label("liver", 2)))
    with pytest.raises(ConfigError, match="value 1 is given twice"):
        LabelMap((Label("liver", 1), Label("spleen", 1)))


def test_tumors_and_organs_are_told_apart():
    assert [label.name for label in LABELS.tumors] == ["lesion"]
    assert [label.name for label in LABELS.organs] == ["liver", "spleen"]


def test_soft_labels_of_all_bytes_come_back():
    first, second, share = (np.arange(256, dtype=np.uint8).reshape(4, 8, 8)[:, ::step, ::turn]
                            for step, turn in ((1, 1), (-1, 1), (1, -1)))  # fmt: skip
    soft = pack_soft(first, second, share)
    assert soft.dtype == np.int32
    for part, expected in zip(unpack_soft(soft), (first, second, share), strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == np.uint8
