"""Dead letters: read them, send them back to the queue, throw them away, or prune the old ones.

Any router does it, for the command line over the bus and for HTTP on the admin
port. A letter that goes back is the same invocation at the same location, in
its next run; it is taken from the dead last, and only if no later death of the
same invocation has replaced it meanwhile.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import nats.errors

from schemas import subjects
from schemas.events import NO_NAMESPACE, Event, new_event
from schemas.invocations import DeadLetter, DeadReply, DeadRequest, Invocation, location
from schemas.streams import DAY_S, DEAD
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.feed import FeedLost, open_feed
from services.bus.state import Entry
from services.router.asynchronous.answering import answering
from services.router.asynchronous.report import result_of
from services.router.asynchronous.store import Name, Store
from services.router.table import Key

LISTED: Final = 1000
"""Of dead letters no more are listed, or pruned, at once."""


class DeadLetters:
    """The dead letters, and what may be done with them."""

    def __init__(
        self, bus: Bus, store: Store, emit: Callable[[Event], None], stored: Callable[[Key], None]
    ) -> None:
        self._bus = bus
        self._store = store
        self._emit = emit
        self._stored = stored

    async def listed(self, namespace: str | None, function: str | None) -> list[DeadLetter]:
        """Return dead letters without their bodies, the oldest first, at most `LISTED`.

        Raises:
            BusUnavailable, FeedLost, nats.errors.Error, TimeoutError: they cannot be read now.
        """
        letters: list[DeadLetter] = []
        async with self._entries(namespace, function) as entries:
            async for entry in entries:
                with contextlib.suppress(*UNREADABLE):
                    letters.append(bodiless(msgspec.json.decode(entry.payload, type=DeadLetter)))
                if len(letters) >= LISTED:
                    break
        return letters

    async def prune(
        self, namespace: str | None, function: str | None, older_than_s: float
    ) -> DeadReply:
        """Throw away those that are older, at most `LISTED` of them. Does not raise."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        sequences: list[int] = []
        pruned = 0
        try:
            async with self._entries(namespace, function) as entries:
                async for entry in entries:
                    # They come in the order in which they died.
                    if entry.time > before or len(sequences) > LISTED:
                        break
                    sequences.append(entry.sequence)
            for sequence in sequences[:LISTED]:
                await self._store.remove_dead(sequence)
                pruned += 1
        except (BusError, FeedLost, nats.errors.Error, TimeoutError) as error:
            said = f"threw away {pruned}, and then: {error or 'NATS did not answer'}"
            return DeadReply(False, said, pruned=pruned)
        finally:
            if pruned:
                self._tell_pruned(namespace, function, pruned)
        more = len(sequences) > LISTED
        return DeadReply(True, f"threw away {pruned}", pruned=pruned, more=more)

    @contextlib.asynccontextmanager
    async def _entries(
        self, namespace: str | None, function: str | None
    ) -> AsyncIterator[AsyncIterator[Entry]]:
        given = {"namespace": namespace, "function": function}
        tokens = {token: text for token, text in given.items() if text is not None}
        async with open_feed(self._bus, DEAD.name, [subjects.DEAD.filter(**tokens)]) as feed:
            yield (entry async for entry in feed.snapshot() if entry.payload)

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
                await self._store.remove_dead(sequence)
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
        await self._store.remove_dead(sequence)
        self._stored(name[:2])
        self._tell(letter, "dead-letter-redriven", f"went back to the queue as run {again.run}")
        return DeadReply(True, f"sent {invocation.id} back", location(*name))

    def listening(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Answer requests over the bus while inside."""

        async def act(name: Name, request: DeadRequest) -> DeadReply:
            if request.action == "prune":
                return await self.prune(*name[:2], request.older_than_s)
            return await self.act(name, request)

        def refusal(message: str) -> DeadReply:
            return DeadReply(False, message)

        return answering(self._bus, subjects.DEAD_REQUESTS, DeadRequest, act, refusal)

    def _tell_pruned(self, namespace: str | None, function: str | None, pruned: int) -> None:
        self._emit(
            new_event(
                "router", namespace or NO_NAMESPACE, "function", function or "any",
                "dead-letters-pruned", f"{pruned} dead letters were thrown away for their age",
                pruned=pruned,
            )
        )  # fmt: skip

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
