"""Take what is queued: for each function that has something, a lane that pulls and works.

A lane pulls one message whenever it has room for one, so a message's lease
begins when its work does. Room is the function's own: one that fails or is slow
fills its lane and nobody else's. The room of all lanes together is bounded too,
and taken in turn.

Nobody has to tell a router that there is something to do: once a second it asks
for the consumers and what they hold, and a stream with more in it than they
know of has a function without a consumer. So lanes end when they are idle.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from schemas.streams import INVOCATIONS
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.pull import ConsumerGone, Delivered, open_puller
from services.router.asynchronous.delivery import Deliveries
from services.router.asynchronous.store import LEASE_S, Lease, Store, consumer_name
from services.router.state import Function
from services.router.table import Key

log = logging.getLogger(__name__)

SURVEY_S: Final = 1.0
_PULL_S: Final = 10.0
_IDLE_PULLS: Final = 3
_PAGE: Final = 256
_REQUEST_S: Final = 2.0
_PAUSE_S: Final = 0.5
_UNKNOWN: Final = Lease(LEASE_S, 16)
"""For a function that is not in force: what it has queued becomes dead letters."""

Look = Callable[[Key], Function | None]


class Lanes:
    """The lanes of this router."""

    def __init__(
        self, bus: Bus, store: Store, deliveries: Deliveries, look: Look, total: int
    ) -> None:
        self._bus = bus
        self._store = store
        self._deliveries = deliveries
        self._look = look
        self._total = asyncio.Semaphore(total)
        self._lanes: dict[Key, asyncio.Task[None]] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._closing = False
        self._suspicious = False

    @property
    def running(self) -> int:
        """How many invocations this router works on."""
        return len(self._work)

    def wake(self, key: Key) -> None:
        """See to it that what is queued for a function is taken."""
        if key not in self._lanes and not self._closing:
            lane = asyncio.create_task(self._lane(key), name=f"lane {key[0]}/{key[1]}")
            self._lanes[key] = lane
            lane.add_done_callback(lambda _: self._lanes.pop(key, None))

    async def survey(self) -> None:
        """Look for what is queued, for ever."""
        while True:
            await self._bus.wait_connected()
            try:
                async with self._bus.bounded(_REQUEST_S):
                    await self._survey()
            except (nats.errors.Error, js_errors.APIError, TimeoutError) as error:
                log.debug("the queue could not be looked at: %s", error)
            await asyncio.sleep(SURVEY_S)

    async def drain(self, within_s: float) -> None:
        """Take nothing more, and give what is under way time to end."""
        self._closing = True
        for lane in self._lanes.values():
            lane.cancel()
        if self._lanes:
            await asyncio.wait(tuple(self._lanes.values()))
        if self._work:
            await asyncio.wait(tuple(self._work), timeout=within_s)
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(tuple(self._work))

    async def _survey(self) -> None:
        consumers: list[api.ConsumerInfo] = []
        while len(page := await self._page(len(consumers))) == _PAGE:
            consumers += page
        consumers += page
        held = 0
        for consumer in consumers:
            queued = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
            held += queued
            namespace, _, function = consumer.name.partition("_")
            key = (namespace, function)
            if queued:
                self.wake(key)
            elif self._look(key) is None and key not in self._lanes:
                await self._bus.js.delete_consumer(INVOCATIONS.name, consumer.name)
        state = (await self._bus.js.stream_info(INVOCATIONS.name)).state
        if state.messages > held and self._suspicious:
            await self._find_orphans({consumer.name for consumer in consumers})
        # What was stored between the two answers is no reason: look twice.
        self._suspicious = state.messages > held

    async def _page(self, offset: int) -> list[api.ConsumerInfo]:
        return await self._bus.js.consumers_info(INVOCATIONS.name, offset)

    async def _find_orphans(self, known: set[str]) -> None:
        info = await self._bus.js.stream_info(INVOCATIONS.name, INVOCATIONS.template.wildcard)
        for subject in info.state.subjects or {}:
            tokens = INVOCATIONS.template.parse(subject)
            if tokens is None:
                continue
            if consumer_name(tokens["namespace"], tokens["function"]) not in known:
                self.wake((tokens["namespace"], tokens["function"]))

    async def _lane(self, key: Key) -> None:
        """Work on a function's queue until there is nothing in it for a while."""
        while True:
            lease = _lease(self._look(key))
            try:
                await self._store.provide_consumer(*key, lease)
                await self._pull(key, lease)
            except (ConsumerGone, BusError, nats.errors.Error) as error:
                log.debug("pulling again for %s: %s", key[1], error)
                await asyncio.sleep(_PAUSE_S)
            else:
                if _lease(self._look(key)) == lease:
                    return

    async def _pull(self, key: Key, lease: Lease) -> None:
        """Return when the queue is idle, or when its consumer is to be another."""
        room = asyncio.Semaphore(lease.max_ack_pending)
        idle = 0
        consumer = consumer_name(*key)
        async with open_puller(self._bus, INVOCATIONS.name, consumer) as puller:
            while idle < _IDLE_PULLS:
                await room.acquire()
                if _lease(self._look(key)) != lease:
                    return
                msg = await puller.next(_PULL_S)
                if msg is None:
                    room.release()
                    idle += 1
                    continue
                idle = 0
                task = asyncio.create_task(self._work_on(msg, key, lease), name="invocation")
                self._work.add(task)
                task.add_done_callback(self._work.discard)
                task.add_done_callback(lambda _: room.release())

    async def _work_on(self, msg: Delivered, key: Key, lease: Lease) -> None:
        try:
            await self._deliveries.carry(msg, self._look(key), lease.ack_wait_s, self._total)
        except Exception:
            # It is delivered again when its lease is over.
            log.exception("an invocation of %s could not be worked on", key[1])


def _lease(function: Function | None) -> Lease:
    """Return how a function's consumer hands out messages."""
    if function is None:
        return _UNKNOWN
    return Lease(LEASE_S, function.asynchronous.concurrency)
