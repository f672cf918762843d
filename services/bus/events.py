"""Tell the event log what happens, without ever holding up what happens.

Emitting is a plain call that cannot fail. Events wait in a bounded queue for
the bus; when it is full the newest are dropped and counted, because a service
must not grow or stall when NATS is away.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from schemas import subjects
from schemas.events import Event
from services.bus.connection import Bus
from services.bus.errors import BusRefused, BusUnavailable
from services.bus.publish import publish

log = logging.getLogger(__name__)

_QUEUE: Final = 10_000
_DRAIN_S: Final = 2.0


class EventLog:
    """The outgoing side of the event log. Made by `event_log`."""

    def __init__(self, bus: Bus, limit: int = _QUEUE) -> None:
        self._bus = bus
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(limit)
        self.dropped = 0
        """How many events were dropped since the start."""

    def emit(self, event: Event) -> None:
        """Have `event` published soon, once."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            if self.dropped == 0:
                log.warning("the event queue is full; events are dropped until NATS is back")
            self.dropped += 1

    async def run(self) -> None:
        """Publish what was emitted, in order, for ever."""
        while True:
            event = await self._waiting.get()
            try:
                await self._publish(event)
            finally:
                self._waiting.task_done()

    async def drain(self) -> None:
        """Return when everything emitted so far is stored."""
        await self._waiting.join()

    async def _publish(self, event: Event) -> None:
        subject = subjects.EVENTS.subject(
            service=event.service,
            namespace=event.namespace,
            kind=event.kind,
            name=event.name,
            what=event.what,
        )
        payload = msgspec.json.encode(event)
        while True:
            try:
                await publish(self._bus, subject, payload, message_id=event.id)
            except BusUnavailable:
                continue
            except BusRefused as error:
                log.error("an event was not stored: %s", error)  # noqa: TRY400
                self.dropped += 1
            return


@contextlib.asynccontextmanager
async def event_log(bus: Bus) -> AsyncIterator[EventLog]:
    """Run an event log; when left, give what still waits 2 s to be stored."""
    events = EventLog(bus)
    running = asyncio.create_task(events.run(), name="event log")
    try:
        yield events
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await events.drain()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
