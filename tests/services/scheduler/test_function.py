from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.function import Function


@given(st.floats(0.1, 100))
def test_a_function_that_fails_for_ever_is_never_retried_more_often_than_each_minute(
    step: float,
) -> None:
    failing = Function()
    delays = [failing.fail(1, "it broke", number * step) for number in range(2000)]
    assert delays == sorted(delays)
    assert delays[-1] == 60
