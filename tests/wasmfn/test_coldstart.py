"""wasmfn.coldstart: one cold start out of the events of its request."""

import pytest

from schemas.events import Event, new_event
from wasmfn.coldstart import cold_start


def told(what: str, duration_ms: float, **fields: object) -> Event:
    return new_event(
        "x", "default", "function", "sort", what, "", duration_ms=duration_ms, **fields
    )


ROUTER = told("cold-start", 10.0, parked_ms=8.0, connect_ms=0.5, first_byte_ms=1.5)
LOADED = told(
    "instance-loaded",
    6.0,
    steps_ms={"place": 0.5, "call": 5.5, "keeper.fork": 3.0, "keeper.confine": 1.5, "total": 6.0},
)


def test_the_steps_follow_one_another_and_add_up_to_the_whole() -> None:
    cold = cold_start([LOADED, ROUTER])
    assert cold is not None
    assert list(cold.steps_ms) == [
        "router asks, over the bus",
        "scheduler: place",
        "scheduler: signed call",
        "keeper: fork",
        "keeper: confine",
        "connect",
        "sandbox, run, first byte",
    ]
    assert sum(cold.steps_ms.values()) == pytest.approx(cold.total_ms)


def test_without_the_schedulers_part_the_routers_is_shown() -> None:
    cold = cold_start([ROUTER])
    assert cold is not None
    assert cold.steps_ms["router asks, over the bus"] == 8.0


def test_a_warm_call_is_no_cold_start() -> None:
    assert cold_start([LOADED]) is None
    assert cold_start([told("cold-start", 1.0, parked_ms="soon")]) is not None
