"""The three places of an invocation: the queue, the results, the dead letters.

Thin: each function is one write or one read, under the invocation's own
subject, so that repeating any of them changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from schemas.invocations import DeadLetter, Invocation, Result
from schemas.streams import DEAD, INVOCATIONS, RESULTS, Stream
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.enqueue import enqueue
from services.bus.errors import BusRefused, BusUnavailable
from services.bus.publish import publish

_READ_S: Final = 2.0
_ENVELOPE_BYTES: Final = 96 * 1024
"""What a stored message has besides a body, at most: headers, and the attempts of a dead letter."""
MEMORY_S: Final = 24 * 3600.0
"""How much longer than a pause or a timeout the word about an invocation is kept that has not
ended: the memory of its attempts."""
_NO_MESSAGE: Final = 10057
"""Server error code: the message to be deleted is not there."""
LEASE_S: Final = 9.0
"""How long a message is its router's without a word. It is extended each third of this while it
is worked on, so the lease is no longer than it takes to be sure that a router is gone, however
long its functions may run."""

T = TypeVar("T")
Name = tuple[str, str, str]
"""Namespace, function and id of an invocation."""


def name_of(thing: Invocation | Result | DeadLetter) -> Name:
    """Return what `thing` is called in all three places."""
    return (thing.namespace, thing.function, thing.id)


def consumer_name(namespace: str, function: str) -> str:
    """Return the name of a function's consumer. Names hold no underscore, so it is unique."""
    return f"{namespace}_{function}"


class Store:
    """Reads and writes invocations."""

    def __init__(self, bus: Bus, dead_letter_s: float) -> None:
        """Take a connection, and how long dead letters are kept; 0 is for ever."""
        self._bus = bus
        self._dead_letter_s = dead_letter_s

    async def enqueue(self, invocation: Invocation) -> None:
        """Store an invocation on the queue. One that waits there already is stored once.

        Raises:
            BusRefused: the queue is full, or the request is too large.
            BusUnavailable: NATS does not answer; it may be stored yet.
        """
        await enqueue(self._bus, invocation)

    async def queued(self, name: Name) -> Invocation | None:
        """Return an invocation that waits or runs."""
        return await self._last(INVOCATIONS, name, Invocation)

    async def result(self, name: Name) -> Result | None:
        """Return how far an invocation is, if that was ever written and has not expired."""
        return await self._last(RESULTS, name, Result)

    async def result_at(self, name: Name) -> tuple[Result, int] | None:
        """Return how far an invocation is, and the sequence of that word."""
        return await self._stored(RESULTS, name, Result)

    async def known(self, name: Name) -> Invocation | Result | None:
        """Return what there is of an invocation, or None.

        A result is written before the message leaves the queue, so whoever finds
        neither looks at the results once more.
        """
        return await self.result(name) or await self.queued(name) or await self.result(name)

    async def put_result(self, result: Result, ttl_s: float, expected: int | None = None) -> None:
        """Say how far an invocation is. Errors are those of `enqueue`, and Conflict.

        `expected` is the sequence that the last word must have, 0 if there must be none.
        """
        await publish(
            self._bus,
            _subject(RESULTS, name_of(result)),
            msgspec.json.encode(result),
            ttl_s=ttl_s,
            expected=expected,
        )

    async def dead(self, name: Name) -> DeadLetter | None:
        """Return a dead letter."""
        found = await self._stored(DEAD, name, DeadLetter)
        return found[0] if found else None

    async def dead_at(self, name: Name) -> tuple[DeadLetter, int] | None:
        """Return a dead letter and its sequence, which `remove_dead` wants."""
        return await self._stored(DEAD, name, DeadLetter)

    async def put_dead(self, letter: DeadLetter) -> None:
        """Store a dead letter. Errors are those of `enqueue`."""
        await publish(
            self._bus,
            _subject(DEAD, name_of(letter)),
            msgspec.json.encode(letter),
            # Of the message, not of the stream: a change of it throws away nothing that is kept.
            ttl_s=self._dead_letter_s or None,
        )

    async def remove_dead(self, sequence: int) -> None:
        """Take the dead letter away that was stored as `sequence`; harmless if it is gone.

        Deleted, not replaced by a tombstone: a full stream takes none.

        Raises:
            BusUnavailable: NATS does not answer.
        """
        await self._remove(DEAD, sequence)

    async def remove_queued(self, name: Name, run: int) -> None:
        """Take an invocation off the queue if it waits there in this run. Errors as before."""
        found = await self._stored(INVOCATIONS, name, Invocation)
        if found is not None and found[0].run == run:
            await self._remove(INVOCATIONS, found[1])

    async def _remove(self, stream: Stream, sequence: int) -> None:
        try:
            async with self._bus.bounded(_READ_S):
                await self._bus.js.delete_msg(stream.name, sequence)
        except js_errors.NotFoundError:
            return
        except js_errors.APIError as error:
            if error.err_code == _NO_MESSAGE:
                return
            doing = f"deleting message {sequence} of {stream.name}"
            raise BusUnavailable(doing, _READ_S, str(error)) from error
        except (nats.errors.Error, TimeoutError) as error:
            doing = f"deleting message {sequence} of {stream.name}"
            raise BusUnavailable(doing, _READ_S, str(error)) from error

    async def provide_consumer(self, namespace: str, function: str, settings: "Lease") -> None:
        """Make sure of a function's consumer. Harmless to repeat.

        Raises:
            BusUnavailable: NATS does not answer.
        """
        name = consumer_name(namespace, function)
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=INVOCATIONS.template.filter(namespace=namespace, function=function),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=settings.ack_wait_s,
            max_ack_pending=settings.max_ack_pending,
            # The server gives no message up: the last attempt is the one that we call the last.
            max_deliver=-1,
        )
        try:
            async with self._bus.bounded(_READ_S):
                await self._bus.js.add_consumer(INVOCATIONS.name, config)
        except (nats.errors.Error, js_errors.APIError, TimeoutError) as error:
            doing = f"making the consumer {name}"
            raise BusUnavailable(doing, _READ_S, str(error)) from error

    async def _last(self, stream: Stream, name: Name, of: type[T]) -> T | None:
        found = await self._stored(stream, name, of)
        return found[0] if found else None

    async def _stored(self, stream: Stream, name: Name, of: type[T]) -> tuple[T, int] | None:
        subject = _subject(stream, name)
        try:
            async with self._bus.bounded(_READ_S):
                raw = await self._bus.js.get_last_msg(stream.name, subject)
        except js_errors.NotFoundError:
            return None
        except (nats.errors.Error, js_errors.APIError, TimeoutError) as error:
            raise BusUnavailable(f"reading {subject}", _READ_S, str(error)) from error
        if not raw.data:
            return None
        try:
            return msgspec.json.decode(raw.data, type=of), raw.seq or 0
        except UNREADABLE:
            return None


def body_room(bus: Bus, wanted: int) -> int:
    """Return how many bytes of a body can be stored: `wanted`, or less if NATS takes less.

    A body is stored in base64, beside headers and attempts.
    """
    return max(0, min(wanted, (bus.nc.max_payload - _ENVELOPE_BYTES) * 3 // 4))


class Lease(msgspec.Struct, frozen=True):
    """How a function's consumer hands out its messages."""

    ack_wait_s: float
    max_ack_pending: int


async def until_stored(write: Callable[[], Awaitable[None]], pause_s: float = 1.0) -> None:
    """Repeat a write that must not be given up, for as long as NATS is away or full.

    Conflict is raised: repeating does not help.

    The message on the queue stays leased meanwhile: that is what holds back more of them.
    """
    while True:
        try:
            await write()
        except (BusUnavailable, BusRefused):
            await asyncio.sleep(pause_s)
        else:
            return


def _subject(stream: Stream, name: Name) -> str:
    namespace, function, invocation = name
    return stream.template.subject(namespace=namespace, function=function, id=invocation)
