"""What a request went through that waited for an instance to come up."""

import msgspec

from schemas.events import Event, new_event
from services.router.table import Key


class ColdStart(msgspec.Struct, frozen=True):
    """The wait, and what it was for. Milliseconds."""

    parked_ms: float
    demand_ms: float
    steps_ms: dict[str, float]


def cold_start_event(
    function: Key, cold: ColdStart, connect_ms: float, first_byte_ms: float, correlation: str
) -> Event:
    """Return the event of a cold start that ended with the first byte of an answer."""
    # Everything from parking on lies in these; the demand lies within the parking.
    total = cold.parked_ms + connect_ms + first_byte_ms
    return new_event(
        "router", function[0], "function", function[1], "cold-start",
        f"first answer of {function[1]} after {total:.1f} ms: parked {cold.parked_ms:.1f},"
        f" connected in {connect_ms:.1f}, first byte in {first_byte_ms:.1f}",
        correlation=correlation, duration_ms=total,
        parked_ms=cold.parked_ms, demand_ms=cold.demand_ms, scheduler_ms=cold.steps_ms,
        connect_ms=connect_ms, first_byte_ms=first_byte_ms, total_ms=total,
    )  # fmt: skip
