from hypothesis import given
from hypothesis import strategies as st

from schemas.specs import Scaling
from services.scheduler.scaling import Idleness, Peak, bounds, processes_for, surplus


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    least = draw(st.integers(0, 20))
    return Scaling(
        min_instances=least,
        max_instances=draw(st.integers(max(1, least), 30)),
        concurrency=draw(st.integers(1, 64)),
        processes=draw(st.integers(1, 8)),
        idle_timeout_s=draw(st.floats(0.1, 1000)),
    )


SERVING = st.lists(st.builds(Idleness, st.uuids().map(str), st.floats(0, 1000)), max_size=40)


@given(scalings(), st.integers(0, 10_000))
def test_the_number_is_within_its_bounds_and_whole_instances(scaling: Scaling, load: int) -> None:
    least, most = bounds(scaling)
    number = processes_for(scaling, load)
    assert least <= number <= most
    assert number % scaling.processes == 0


@given(scalings(), st.integers(0, 5000), st.integers(0, 5000))
def test_more_load_never_needs_fewer(scaling: Scaling, one: int, more: int) -> None:
    assert processes_for(scaling, one) <= processes_for(scaling, one + more)


@given(scalings(), st.integers(0, 10_000))
def test_what_is_planned_for_holds_the_load_unless_it_is_the_most(
    scaling: Scaling, load: int
) -> None:
    number = processes_for(scaling, load)
    assert number * scaling.concurrency >= load or number == bounds(scaling)[1]


@given(scalings(), SERVING, st.integers(0, 1000), st.floats(0, 2000))
def test_nobody_is_asked_below_the_minimum_and_the_last_only_after_the_whole_timeout(
    scaling: Scaling, serving: list[Idleness], peak: int, now: float
) -> None:
    ask, again = surplus(scaling, serving, peak, now)
    if ask is not None:
        assert again is None
        assert len(serving) > bounds(scaling)[0]
        assert ask.instance in {one.instance for one in serving}
        if ask.idle_s == 0:
            assert len(serving) > max(processes_for(scaling, peak), scaling.processes)
        else:
            assert ask.idle_s == scaling.idle_timeout_s
    elif len(serving) > bounds(scaling)[0]:
        assert again is not None, "somebody is asked some time"
        assert again > 0


def test_a_peak_is_kept_for_one_to_two_windows() -> None:
    peak = Peak(10.0)
    peak.see(7, 100.0)
    peak.see(0, 101.0)
    assert peak.value(109.0) == 7
    assert peak.value(112.0) == 7
    peak.see(1, 113.0)
    assert peak.value(123.0) == 1
    assert peak.value(200.0) == 0
