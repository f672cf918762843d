import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.statistics import percentile, ratio, spread, thinned

numbers = st.lists(st.floats(0.001, 1e6), min_size=1)


@given(numbers)
def test_a_spread_is_in_order_and_of_values_that_were_measured(samples):
    found = spread(samples)
    assert found.n == len(samples)
    assert min(samples) == found.min <= found.p50 <= found.max == max(samples)
    assert found.p99 in samples


@given(numbers, st.floats(0.1, 100))
def test_a_percentile_is_not_exceeded_by_that_share(samples, percent):
    found = percentile(sorted(samples), percent)
    assert sum(s <= found for s in samples) >= len(samples) * percent / 100 - 1e-9


def test_the_99th_percentile_of_a_hundred_leaves_out_one():
    assert percentile(list(range(100)), 99) == 98


@pytest.mark.parametrize("of", [spread, lambda s: percentile(s, 50)])
def test_nothing_measured_is_an_error(of):
    with pytest.raises(ValueError, match="nothing"):
        of([])


def test_runs_in_turns_are_compared_turn_by_turn():
    # The machine was three times as slow in the last turn; that says nothing of the two.
    assert ratio([50, 50, 150], [100, 100, 300]) == 0.5
    assert ratio([50, 60, 90], [100, 100, 100]) == 0.6


def test_samples_that_are_no_pairs_are_compared_by_their_medians():
    assert ratio([1, 2, 3], [4, 4]) == 0.5


@given(st.lists(st.floats(0.001, 1e6), max_size=5000))
def test_thinned_samples_are_in_order_and_keep_the_largest(samples):
    found = thinned(samples, 100)
    assert len(found) <= 100
    assert found == sorted(found)
    assert set(found) <= set(samples)
    assert found[-1:] == sorted(samples)[-1:]
