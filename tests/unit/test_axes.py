import pytest

from flare23_lib.axes import as_triple


def test_three_values_of_any_iterable_become_a_tuple():
    assert as_triple(size // 2 for size in (4, 6, 8)) == (2, 3, 4)


@pytest.mark.parametrize("values", [(), (1, 2), (1, 2, 3, 4)])
def test_another_number_of_values_is_refused(values):
    with pytest.raises(ValueError, match="one number per axis"):
        as_triple(values)
