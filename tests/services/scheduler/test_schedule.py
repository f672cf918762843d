"""Schedules: every due time once, in the zone that was meant, whatever the clock does."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.specs import TimerSpec
from services.scheduler.schedule import LATE_S, MADE_UP_MOST, begin, due, next_due, schedule_problem

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def timer(schedule: str = "* * * * *", **fields: object) -> TimerSpec:
    return TimerSpec(function="f", schedule=schedule, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["", "* * * *", "61 * * * *", "x", "0 0 31 2 *", "* " * 7])
def test_what_is_no_schedule_is_refused_by_its_field(schedule: str) -> None:
    problem = schedule_problem(timer(schedule))
    assert problem is not None
    assert problem[0] == "$.schedule"


@pytest.mark.parametrize("zone", ["Mars/Base", "../etc/passwd", "/etc/localtime", "Europe", ""])
def test_what_is_no_time_zone_is_refused_by_its_field(zone: str) -> None:
    problem = schedule_problem(timer(timezone=zone))
    assert problem is not None
    assert problem[0] == "$.timezone"


def test_a_time_zone_decides_when_it_is_eight_in_the_morning() -> None:
    berlin = timer("0 8 * * *", timezone="Europe/Berlin")
    assert next_due(berlin, datetime(2026, 1, 15, tzinfo=UTC)).hour == 7
    assert next_due(berlin, datetime(2026, 7, 15, tzinfo=UTC)).hour == 6


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_daily_timer_is_due_once_a_day_through_every_change_of_the_clocks(zone: str) -> None:
    daily = timer("30 2 * * *", timezone=zone)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    days = []
    while len(days) < 365:
        time = next_due(daily, time)
        days.append(time)
    gaps = {later - earlier for earlier, later in itertools.pairwise(days)}
    assert all(timedelta(hours=22) < gap < timedelta(hours=26) for gap in gaps)


times = st.floats(0, 3600).map(lambda s: NOON + timedelta(seconds=s))


@given(times, times, times)
def test_each_due_time_is_told_once_however_often_one_looks(
    one: datetime, two: datetime, three: datetime
) -> None:
    looks = sorted((one, two, three))
    after = looks[0]
    told = []
    for now in looks[1:]:
        found = due(timer(missed="all"), after, now)
        if found is not None:
            told += found.times
            after = found.until
    assert told == sorted(set(told))
    minutes = int((looks[2] - NOON).total_seconds() // 60) - int(
        (looks[0] - NOON).total_seconds() // 60
    )
    assert len(told) == minutes


@pytest.mark.parametrize(("missed", "made_up"), [("skip", 0), ("last", 1), ("all", 9)])
def test_the_policy_says_what_is_made_up_for(missed: str, made_up: int) -> None:
    # Ten minutes away: nine due times are more than a minute old, two at most are in time.
    found = due(timer(missed=missed), NOON, NOON + timedelta(minutes=10, seconds=30))
    assert found is not None
    assert found.missed == made_up
    late = [t for t in found.times if t < NOON + timedelta(minutes=10, seconds=30 - LATE_S)]
    assert len(late) == made_up
    assert found.until == NOON + timedelta(minutes=10)


def test_a_year_away_costs_no_more_than_the_most_that_is_made_up_for() -> None:
    found = due(timer("* * * * * *", missed="all"), NOON - timedelta(days=365), NOON)
    assert found is not None
    assert found.missed == MADE_UP_MOST


def test_a_clock_that_was_set_back_a_little_makes_nothing_due_again() -> None:
    settled = NOON + timedelta(seconds=30)
    assert begin(settled, NOON) == settled
    assert due(timer("* * * * * *"), begin(settled, NOON), NOON) is None


def test_a_mark_far_ahead_of_the_clock_does_not_silence_a_timer() -> None:
    assert begin(NOON + timedelta(days=300), NOON) == NOON
    assert begin(None, NOON) == NOON
