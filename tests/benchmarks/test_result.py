import pytest

from benchmarks.harness.result import Figure, Options, Target, compared


@pytest.mark.parametrize(
    ("value", "relation", "verdict"),
    [
        (1.0, ">=", "met"),
        (0.9, ">=", "missed"),
        (1.0, "<=", "met"),
        (1.1, "<=", "missed"),
        (None, ">=", "open"),
    ],
)
def test_a_target_is_met_missed_or_open(value, relation, verdict):
    assert Target("x", value, relation, 1.0).verdict == verdict


def test_contestants_are_compared_with_the_first():
    figure = Figure("x", "ms", {"a": [2.0], "b": [3.0]})
    assert figure.ratio("a") is None
    assert figure.ratio("b") == 1.5


def test_a_contestant_that_is_missing_leaves_the_comparison_open():
    assert compared(Figure("x", "ms", {"a": [2.0]}), "a", "nginx") is None


def test_counts_follow_the_options():
    assert Options().count(100, 500) == 100
    assert Options(full=True).count(100, 500) == 500
    assert Options(tiny=True).count(100, 500) == 5
