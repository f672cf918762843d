"""Put one cold start together from the event log: what the router and the scheduler told.

Pure. All events of one cold start carry its request id as their correlation.
The steps overlap only where one waits for the other, so what a waiting step
does itself is what remains of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas.events import Event

_KEEPER = "keeper."


class ColdStart(msgspec.Struct, frozen=True):
    """The first answer of a function that ran nowhere."""

    total_ms: float
    """From the request's arrival at the router to the first byte of the answer."""
    steps_ms: dict[str, float]
    """In the order in which they happened; together about `total_ms`."""


def cold_start(events: Iterable[Event]) -> ColdStart | None:
    """Return the cold start that `events` of one correlation tell of, or None if none does."""
    by_what = {event.what: event for event in events}
    told = by_what.get("cold-start")
    if told is None or told.duration_ms is None:
        return None
    loaded = by_what.get("instance-loaded")
    steps = _numbers(loaded.fields.get("steps_ms")) if loaded is not None else {}
    keeper = {f"keeper: {k.removeprefix(_KEEPER)}": v for k, v in steps.items() if _KEEPER in k}
    loading = steps.get("total", 0.0)
    ordered = {
        "router asks, over the bus": _number(told, "parked_ms") - loading,
        "scheduler: place": steps.get("place", 0.0),
        "scheduler: signed call": steps.get("call", 0.0) - sum(keeper.values()),
        **keeper,
        "connect": _number(told, "connect_ms"),
        "sandbox, run, first byte": _number(told, "first_byte_ms"),
    }
    return ColdStart(
        total_ms=told.duration_ms,
        steps_ms={name: took for name, took in ordered.items() if took > 0},
    )


def _number(event: Event, field: str) -> float:
    value = event.fields.get(field)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {str(k): float(v) for k, v in value.items() if isinstance(v, (int, float))}
