"""Read a log on the bus: what was, since a time, and on request what comes, for ever.

A broken connection loses nothing: reading goes on after the last message seen.
"""

import asyncio
import collections
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final

import nats.errors

from schemas.events import Event
from services.bus.connection import Bus
from services.bus.feed import FeedLost, open_feed
from services.bus.state import Entry

_CORRELATIONS: Final = 1000
"""How many stories of a function are remembered at once."""
_PAUSE_S: Final = 0.3
"""Before the next try, once a connection broke."""


async def read_log(
    bus: Bus, stream: str, filters: Sequence[str], since: datetime, *, follow: bool
) -> AsyncGenerator[Entry, None]:
    """Yield what `stream` holds since `since`, and with `follow` what comes after, without end.

    Raises:
        TimeoutError: NATS does not answer; with `follow` that is outlasted.
        nats.js.errors.NotFoundError: there is no such stream.
    """
    last = 0
    created: datetime | None = None
    while True:
        try:
            async with open_feed(bus, stream, filters, since=since) as feed:
                if created != feed.created:
                    # Another stream counts from 1 again.
                    last, created = 0, feed.created
                async for entry in feed.snapshot():
                    if entry.sequence > last:
                        last, since = entry.sequence, entry.time
                        yield entry
                while follow:
                    new = await feed.next()
                    if new is not None and new.sequence > last:
                        last, since = new.sequence, new.time
                        yield new
                return
        except FeedLost:
            pass
        except (TimeoutError, nats.errors.Error):
            if not follow:
                raise
        await asyncio.sleep(_PAUSE_S)


class About:
    """Tells which events are about one function, be it of its builds, instances or calls.

    A build knows no function, for it may serve several; what it has in common
    with the function's own events is the correlation.
    """

    def __init__(self, namespace: str, function: str) -> None:
        """Take events of `function` in `namespace`."""
        self._namespace = namespace
        self._function = function
        self._correlations: collections.deque[str] = collections.deque(maxlen=_CORRELATIONS)

    def takes(self, event: Event) -> bool:
        """Whether `event` is one of them, given those that came before it."""
        named = event.name if event.kind == "function" else event.fields.get("function")
        if event.namespace == self._namespace and named == self._function:
            if event.correlation not in self._correlations:
                self._correlations.append(event.correlation)
            return True
        return event.correlation in self._correlations
