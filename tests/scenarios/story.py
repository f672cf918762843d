"""Wait on the event log: a scenario that would have to sleep has found a missing event."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from schemas.events import Event
from wasmfn.client import Client

DEADLINE_S = 120.0


class Story:
    """What happened to one function since the story began."""

    def __init__(self, client: Client, function: str) -> None:
        self.client = client
        self.function = function
        self.begin = datetime.now(UTC)

    async def until(
        self, what: str, holds: Callable[[Event], bool] = lambda event: True
    ) -> list[Event]:
        """Return the events of the function up to the first `what` that `holds`."""
        told: list[Event] = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for event in self.client.events(self.begin, follow=True):
                    if event.kind == "function" and event.name == self.function:
                        told.append(event)
                        if event.what == what and holds(event):
                            return told
        except TimeoutError:
            pass
        raise AssertionError(
            f"no {what} of {self.function} within {DEADLINE_S:g} s; there was:\n"
            + "\n".join(f"{event.what}: {event.message}" for event in told)
        )

    def goes_on(self) -> None:
        """Begin anew: what was told so far counts no more."""
        self.begin = datetime.now(UTC)
