"""Distances as values and counts: every figure is that of the list itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.evaluation.distances import Distances

# Few distinct values, as on a voxel grid, and any.
LISTS = st.one_of(
    st.lists(st.sampled_from([0.0, 0.75, 1.0, 2.5, 4.0]), min_size=1, max_size=60),
    st.lists(st.floats(0, 500, allow_subnormal=False), min_size=1, max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(LISTS, st.sampled_from([0, 5, 50, 95, 99.5, 100]), st.floats(0, 500))
def test_figures_are_those_of_the_list(values, percent, limit):
    array = np.array(values)
    found = Distances.of(values)
    assert found.size == array.size
    assert found.mean() == pytest.approx(array.mean(), rel=1e-12)
    assert found.root_mean_square() == pytest.approx(np.sqrt(np.mean(np.square(array))), rel=1e-12)
    assert found.largest() == array.max()
    assert found.percentile(percent) == pytest.approx(np.percentile(array, percent), rel=1e-12)
    for bound in (limit, values[0]):  # a distance of exactly the limit is within
        assert found.share_within(bound) == np.count_nonzero(array <= bound) / array.size
    np.testing.assert_array_equal(found.expanded(), np.sort(array))


@settings(max_examples=60, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=4))
def test_lists_are_joined(lists):
    found = Distances.joined(Distances.of(values) for values in lists)
    np.testing.assert_array_equal(found.expanded(), np.sort(np.concatenate(lists)))
    assert (np.diff(found.values) > 0).all()


def test_a_long_list_takes_no_memory_per_distance():
    many = Distances(np.array([1.0, 3.0]), np.array([10**12, 10**12]))
    assert many.mean() == 2.0 and many.percentile(95) == 3.0 and many.share_within(1.0) == 0.5
