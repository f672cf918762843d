"""Endpoint choice and ejection."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import Endpoint
from services.router.choice import (
    FOREVER,
    choose,
    eject,
    next_return,
    shortage,
    silent_instances,
)
from services.router.fleet import Candidate, Fleet

NOW = 100.0
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def candidate(
    instance: str = "i", revision: int = 1, concurrency: int = 4, **fields: Any
) -> Candidate:
    endpoint = Endpoint(
        "default", "f", instance, "127.0.0.1", 1, "pod", "node", revision, concurrency, "t", TIME
    )
    return Candidate(endpoint, Fleet(("default", "f")), **fields)


candidates = st.lists(
    st.builds(
        candidate,
        instance=st.uuids().map(str),
        revision=st.integers(1, 3),
        concurrency=st.integers(1, 4),
        in_flight=st.integers(0, 5),
        ejected_until=st.sampled_from((0.0, NOW, NOW + 1, FOREVER)),
    ),
    max_size=8,
)


@given(candidates, st.integers(1, 3), st.integers(0, 100))
def test_the_choice_is_free_healthy_of_the_active_revision_if_any_and_least_loaded(
    made: list[Candidate], active: int, turn: int
) -> None:
    usable = [c for c in made if c.ejected_until <= NOW and c.in_flight < c.endpoint.concurrency]
    chosen = choose(made, active, NOW, turn)
    if not usable:
        assert chosen is None
        return
    assert chosen is not None
    pool = [c for c in usable if c.endpoint.revision == active] or usable
    assert any(c is chosen for c in pool)
    assert chosen.in_flight == min(c.in_flight for c in pool)


def test_equal_endpoints_take_turns() -> None:
    made = [candidate(str(i)) for i in range(3)]
    chosen = [choose(made, 1, NOW, turn) for turn in range(6)]
    assert [c.endpoint.instance for c in chosen if c] == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.parametrize("cause", ["wrong-instance", "draining"])
def test_an_instance_that_says_it_is_the_wrong_one_or_draining_is_out_for_good(cause: Any) -> None:
    ejection = eject(candidate(), cause, NOW)
    assert (ejection.cause, ejection.until) == (cause, FOREVER)
    again = eject(candidate(ejected_until=FOREVER, cause=cause), "refused", NOW)
    assert again.until == FOREVER


def test_a_failing_endpoint_is_left_alone_for_longer_each_time_but_not_for_ever() -> None:
    pauses = []
    made = candidate()
    for _ in range(12):
        ejection = eject(made, "refused", NOW)
        made.failures = ejection.failures
        pauses.append(ejection.until - NOW)
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] <= 30


def test_busy_is_no_failure_and_never_shortens_an_ejection() -> None:
    ejection = eject(candidate(ejected_until=NOW + 5, failures=2), "busy", NOW)
    assert (ejection.until, ejection.failures) == (NOW + 5, 2)
    assert eject(candidate(), "busy", NOW).until < NOW + 0.1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([], "cold"),
        ([candidate(in_flight=4)], "saturated"),
        ([candidate(ejected_until=NOW + 1, cause="busy")], "saturated"),
        ([candidate(ejected_until=NOW + 1, cause="refused")], "failed"),
        ([candidate(ejected_until=NOW + 1, cause="timeout"), candidate(in_flight=4)], "saturated"),
        ([candidate(ejected_until=FOREVER, cause="draining")], "cold"),
    ],
)
def test_a_demand_says_why_there_is_nothing(made: list[Candidate], reason: str) -> None:
    assert shortage(made, NOW) == reason


def test_the_scheduler_is_told_which_instances_gave_no_answer() -> None:
    made = [
        candidate("refused", ejected_until=NOW + 1, cause="refused"),
        candidate("back", ejected_until=NOW - 1, cause="failed"),
        candidate("busy", ejected_until=NOW + 1, cause="busy"),
    ]
    assert silent_instances(made, NOW) == ["refused"]
    assert next_return(made, NOW) == NOW + 1
    assert next_return([candidate(ejected_until=FOREVER)], NOW) is None
