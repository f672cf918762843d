"""Tell facts on the bus until they are stored, newest first thought of, none twice.

One queue holds at most one fact for each pod: what is not told yet is replaced
by what is newer, so the queue is as long as there are pods, however long NATS
is away. Facts leave in the order in which their pods came up, one at a time:
for one pod no older fact can follow a newer one.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from schemas import subjects
from schemas.pods import PodFact
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.publish import publish

log = logging.getLogger(__name__)

DEAD_KEPT_S: Final = 600.0
"""How long a dead pod's last fact stays on the stream: longer than anyone still
holds an endpoint of it, and not for ever, for pods come and go."""
_PAUSE_S: Final = 0.2


class Announcer:
    """Publishes pod facts. `told` is called with each one that is stored, and its sequence."""

    def __init__(self, bus: Bus, told: Callable[[PodFact, int], None]) -> None:
        self._bus = bus
        self._told = told
        self._waiting: dict[str, PodFact] = {}
        self._sending: PodFact | None = None
        self._work = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many pods have a fact that is not stored yet."""
        return len(self._waiting)

    def put(self, fact: PodFact) -> None:
        """Have `fact` told instead of any other one of this pod that is not told yet."""
        if fact == self._sending:
            self._waiting.pop(fact.uid, None)
            return
        self._waiting[fact.uid] = fact
        self._work.set()

    async def run(self) -> None:
        """Publish what is put, for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                uid, fact = next(iter(self._waiting.items()))
                self._sending = self._waiting.pop(uid)
                try:
                    sequence = await self._publish(fact)
                except BusError as error:
                    log.warning("cannot tell of pod %s yet: %s", uid, error)
                    # Behind the others, so that one refused fact does not hold up all.
                    self._waiting.setdefault(uid, fact)
                    self._sending = None
                    await asyncio.sleep(_PAUSE_S)
                else:
                    self._sending = None
                    self._told(fact, sequence)

    async def _publish(self, fact: PodFact) -> int:
        return await publish(
            self._bus,
            subjects.PODS.subject(node=fact.node, uid=fact.uid),
            msgspec.json.encode(fact),
            ttl_s=DEAD_KEPT_S if fact.phase == "dead" else None,
        )
