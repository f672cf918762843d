"""The event log: what happened, when, to what, and why, in one human sentence each."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from schemas.names import new_correlation_id

Level = Literal["info", "warning", "error"]

NO_NAMESPACE = "-"
"""The namespace token of objects that have none, such as pods and leases."""


class Event(msgspec.Struct, frozen=True):
    """One event. `id` de-duplicates it on the bus."""

    time: datetime
    id: str
    service: str
    namespace: str
    kind: str
    """What it is about: function, route, environment, build, pod, endpoint, lease."""
    name: str
    what: str
    """A dashed word, such as `cold-start`; also the last token of the subject."""
    level: Level
    message: str
    correlation: str
    duration_ms: float | None = None
    fields: dict[str, Any] = {}


def new_event(
    service: str,
    namespace: str,
    kind: str,
    name: str,
    what: str,
    message: str,
    *,
    level: Level = "info",
    correlation: str = "",
    duration_ms: float | None = None,
    **fields: Any,
) -> Event:
    """Return an event that happened now. Without a correlation it begins one of its own."""
    event_id = new_correlation_id()
    return Event(
        time=datetime.now(UTC),
        id=event_id,
        service=service,
        namespace=namespace,
        kind=kind,
        name=name,
        what=what,
        level=level,
        message=message,
        correlation=correlation or event_id,
        duration_ms=duration_ms,
        fields=fields,
    )


class LogLine(msgspec.Struct, frozen=True):
    """One line that a function wrote to stderr, or that its keeper says about it."""

    time: datetime
    namespace: str
    function: str
    instance: str
    stream: Literal["stderr", "keeper"]
    text: str
    level: Level = "info"
    request_id: str = ""
    dropped: int = 0
    """Lines that were dropped before this one because the log was full."""
