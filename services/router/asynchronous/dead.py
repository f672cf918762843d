"""Dead letters: read them, send them back to the queue, or throw them away.

Any router does it, for the command line over the bus and for HTTP on the admin
port. A letter that goes back is the same invocation at the same location, in
its next run; it is taken from the dead last, and only if no later death of the
same invocation has replaced it meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from schemas import subjects
from schemas.events import Event, new_event
from schemas.invocations import DeadLetter, DeadReply, DeadRequest, Invocation, location
from schemas.streams import DAY_S, DEAD
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.feed import open_feed
from services.router.asynchronous.report import result_of
from services.router.asynchronous.store import Name, Store
from services.router.table import Key

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode
_QUEUE: Final = "router"
_AT_ONCE: Final = 64
LISTED: Final = 1000


class DeadLetters:
    """The dead letters, and what may be done with them."""

    def __init__(
        self, bus: Bus, store: Store, emit: Callable[[Event], None], stored: Callable[[Key], None]
    ) -> None:
        self._bus = bus
        self._store = store
        self._emit = emit
        self._stored = stored
        self._tasks: set[asyncio.Task[None]] = set()

    async def listed(self, namespace: str | None, function: str | None) -> list[DeadLetter]:
        """Return dead letters without their bodies, the oldest first, at most `LISTED`.

        Raises:
            BusUnavailable, FeedLost, nats.errors.Error, TimeoutError: they cannot be read now.
        """
        given = {"namespace": namespace, "function": function}
        tokens = {token: text for token, text in given.items() if text is not None}
        letters: list[DeadLetter] = []
        async with open_feed(self._bus, DEAD.name, [subjects.DEAD.filter(**tokens)]) as feed:
            async for entry in feed.snapshot():
                if entry.payload:
                    with contextlib.suppress(msgspec.DecodeError):
                        letters.append(
                            bodiless(msgspec.json.decode(entry.payload, type=DeadLetter))
                        )
                if len(letters) >= LISTED:
                    break
        return letters

    async def get(self, name: Name) -> DeadLetter | None:
        """Return one dead letter, whole. BusUnavailable if it cannot be read."""
        return await self._store.dead(name)

    async def act(self, name: Name, request: DeadRequest) -> DeadReply:
        """Do what is asked for. Does not raise."""
        try:
            found = await self._store.dead_at(name)
            if found is None:
                return DeadReply(False, f"there is no dead letter {request.id} of {name[1]}")
            letter, sequence = found
            if request.action == "discard":
                await self._store.remove_dead(name, sequence)
                self._tell(letter, "dead-letter-discarded", "was thrown away")
                return DeadReply(True, f"threw away {request.id}")
            if letter.invocation is None:
                return DeadReply(False, "it cannot be read, so it can only be thrown away")
            return await self._redrive(letter.invocation, letter, name, sequence)
        except BusError as error:
            return DeadReply(False, str(error))

    async def _redrive(
        self, invocation: Invocation, letter: DeadLetter, name: Name, sequence: int
    ) -> DeadReply:
        again = msgspec.structs.replace(invocation, run=invocation.run + 1, repeatable=True)
        # Told first: what the new run writes at the location must come after it.
        told = result_of(again, "accepted", datetime.now(UTC), message="it was sent back")
        await self._store.put_result(told, DAY_S)
        await self._store.enqueue(again)
        await self._store.remove_dead(name, sequence)
        self._stored(name[:2])
        self._tell(letter, "dead-letter-redriven", f"went back to the queue as run {again.run}")
        return DeadReply(True, f"sent {invocation.id} back", location(*name))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Answer requests over the bus while inside."""
        subscription = await self._bus.nc.subscribe(
            subjects.DEAD_REQUESTS.wildcard, queue=_QUEUE, cb=self._take
        )
        try:
            yield
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
            for task in tuple(self._tasks):
                task.cancel()

    async def _take(self, msg: Msg) -> None:
        if len(self._tasks) >= _AT_ONCE:
            await msg.respond(_encode(DeadReply(False, "too much is asked at once; ask again")))
            return
        task = asyncio.create_task(self._answer(msg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg) -> None:
        tokens = subjects.DEAD_REQUESTS.parse(msg.subject)
        try:
            request = msgspec.json.decode(msg.data, type=DeadRequest)
        except msgspec.DecodeError as error:
            reply = DeadReply(False, f"that is no such request: {error}")
        else:
            assert tokens is not None  # noqa: S101 - it came by a subscription to this family
            name = (tokens["namespace"], tokens["function"], request.id)
            reply = await self.act(name, request)
        with contextlib.suppress(nats.errors.Error):
            await msg.respond(_encode(reply))

    def _tell(self, letter: DeadLetter, what: str, message: str) -> None:
        correlation = letter.invocation.correlation if letter.invocation else ""
        self._emit(
            new_event(
                "router", letter.namespace, "function", letter.function, what,
                f"the dead letter {letter.id} of {letter.function} {message}",
                correlation=correlation, invocation=letter.id,
            )
        )  # fmt: skip


def bodiless(letter: DeadLetter) -> DeadLetter:
    """Return a letter without what may be large."""
    invocation = letter.invocation
    if invocation is None:
        return msgspec.structs.replace(letter, unreadable=b"")
    small = msgspec.structs.replace(invocation, body=b"", headers=())
    return msgspec.structs.replace(letter, invocation=small)
