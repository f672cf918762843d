"""Report what is in flight and parked, and how far this router has read what is in force.

Functions scale up by the first; by the second the scheduler knows when every
router serves what it put in force, and only then calls it active. So a report
goes out each second, and at once when something in force was applied. What was
answered since the last one is in it as well: nobody can be asked whether an
image of its own (`executor: deployment`) is idle.

A report is a hint and may be lost. While NATS is away none is sent, so that no
old ones pile up for its return.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import nats.errors

from schemas import subjects
from schemas.control import Activity, FunctionActivity
from services.bus.connection import Bus
from services.router.slots import Slots
from services.router.table import Key

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_GAP_S = 0.005
"""Shortest time between two reports: a thousand changes a second are not a thousand reports."""


class Progress:
    """How far ACTIVE has been applied."""

    def __init__(self) -> None:
        self.sequence = 0
        self.news = asyncio.Event()

    def applied(self, sequence: int) -> None:
        """Note that everything up to `sequence` is applied."""
        if sequence > self.sequence:
            self.sequence = sequence
            self.news.set()


def read_activity(
    router: str, slots: Slots, sequence: int = 0, served: Mapping[Key, int] = MappingProxyType({})
) -> Activity:
    """Return what this router has at this moment; functions without any are left out."""
    parked = dict(slots.lot.functions())
    in_flight = slots.in_flight
    return Activity(
        router,
        [
            FunctionActivity(*key, in_flight.get(key, 0), parked.get(key, 0), served.get(key, 0))
            for key in dict.fromkeys((*in_flight, *parked, *served))
        ],
        sequence,
    )


def served_since(before: Mapping[Key, int], now: Mapping[Key, int]) -> dict[Key, int]:
    """Return how many answers each function has given that has given any."""
    return {
        function: count - before.get(function, 0)
        for function, count in now.items()
        # Fewer: it was deleted and is there again.
        if count > before.get(function, 0)
    }


async def report(bus: Bus, router: str, slots: Slots, progress: Progress) -> None:
    """Publish the activity each second and with each progress, for ever."""
    subject = subjects.ACTIVITY.subject(router=router)
    before: dict[Key, int] = {}
    while True:
        await asyncio.sleep(_GAP_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVERY_S):
                await progress.news.wait()
        progress.news.clear()
        if not bus.connected:
            continue
        answers = slots.state.answers()
        activity = read_activity(router, slots, progress.sequence, served_since(before, answers))
        try:
            await bus.nc.publish(subject, msgspec.json.encode(activity))
        except nats.errors.Error as error:
            log.warning("the activity was not reported: %s", error)
        else:
            before = answers
