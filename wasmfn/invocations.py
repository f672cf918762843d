"""Asynchronous invocations as a person sees them: where each is, and the dead ones.

The three places are read from the bus like everything else. What becomes of a
dead letter, and that nobody wants an invocation any more, is asked of a router:
routers alone write there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import msgspec
import nats.errors
from nats.js import errors as js_errors

from schemas import subjects
from schemas.invocations import (
    FINAL,
    CancelReply,
    CancelRequest,
    DeadLetter,
    DeadReply,
    DeadRequest,
    Result,
)
from schemas.streams import DEAD, INVOCATIONS, RESULTS, Stream
from services.bus.feed import FeedLost, open_feed
from wasmfn import access
from wasmfn.client import Client
from wasmfn.errors import DeadlineError, MissingError, RejectedError, UnreachableError

_ASK_S: Final = 30.0

R = TypeVar("R", Result, DeadLetter)


class Place(msgspec.Struct, frozen=True, order=True):
    """The name of an invocation."""

    namespace: str
    function: str
    id: str


class Queued(msgspec.Struct, frozen=True):
    """One that waits or runs, of which nothing else is written yet."""

    namespace: str
    function: str
    id: str
    state: str = "accepted"


class Invocations:
    """Reads invocations and dead letters over the connection of a client."""

    def __init__(self, client: Client) -> None:
        self._bus = client.bus

    async def listed(self, namespace: str, function: str | None = None) -> list[Queued | Result]:
        """Return what is known, by function: first what waits, then by the time of a change."""
        tokens = {"namespace": namespace} | ({"function": function} if function else {})
        with access.translated():
            waiting = await self._names(INVOCATIONS, tokens)
            told = await self._all(RESULTS, tokens, Result)
        known = {Place(one.namespace, one.function, one.id) for one in told}
        told.sort(key=lambda one: (one.function, one.changed_at))
        return [
            *(Queued(name.namespace, name.function, name.id) for name in waiting - known),
            *told,
        ]

    async def get(self, name: Place) -> Queued | Result:
        """Return one.

        Raises:
            MissingError: there is none, or its result has expired.
        """
        with access.translated():
            for _ in range(2):
                result = await self._read(RESULTS, name, Result)
                if result is not None:
                    return result
                if name in await self._names(INVOCATIONS, msgspec.structs.asdict(name)):
                    return Queued(name.namespace, name.function, name.id)
        raise MissingError(
            f"there is no invocation {name.id} of {name.function}, or its result has expired"
        )

    async def wait(self, name: Place, within_s: float, tell: Callable[[str], None]) -> Result:
        """Return what became of one, once it has ended; `tell` hears how far it is meanwhile.

        Raises:
            MissingError: there is none, or its result has expired.
            DeadlineError: it had not ended in time. It goes on.
        """
        subject = RESULTS.template.subject(**msgspec.structs.asdict(name))
        found = await self.get(name)
        try:
            async with asyncio.timeout(within_s):
                while True:
                    with contextlib.suppress(FeedLost, TimeoutError):
                        async for result in self._results(subject):
                            tell(f"{result.state}: {result.message}".removesuffix(": "))
                            found = result
                            if result.state in FINAL:
                                return result
        except TimeoutError:
            raise DeadlineError(
                f"it is {found.state} after {within_s:g} s and goes on; `wasmfn invocations wait"
                f" {name.function} {name.id}` waits again"
            ) from None

    async def cancel(self, name: Place) -> CancelReply:
        """Have one cancelled. What became of that is in the reply: it may have been too late.

        Raises:
            MissingError: there is none.
            UnreachableError: no router answers, or none knows.
        """
        subject = subjects.CANCEL_REQUESTS.subject(namespace=name.namespace, function=name.function)
        raw = await self._ask(subject, msgspec.json.encode(CancelRequest(name.id)))
        reply = msgspec.json.decode(raw, type=CancelReply)
        if reply.outcome == "missing":
            raise MissingError(f"{reply.message}, or its result has expired")
        if reply.outcome == "unknown":
            raise UnreachableError(reply.message)
        return reply

    async def prune(self, namespace: str, function: str | None, older_than_s: float) -> int:
        """Throw away the dead letters that are older, and return how many those were.

        Errors are those of `act`.
        """
        tokens = {"namespace": namespace} | ({"function": function} if function else {})
        with access.translated():
            functions = sorted({name.function for name in await self._names(DEAD, tokens)})
        pruned = 0
        for one in functions:
            request = DeadRequest("", "prune", older_than_s)
            while True:
                reply = await self.act(Place(namespace, one, ""), request)
                pruned += reply.pruned
                if not reply.more:
                    break
        return pruned

    async def dead(self, namespace: str, function: str | None = None) -> list[DeadLetter]:
        """Return the dead letters, the oldest first."""
        tokens = {"namespace": namespace} | ({"function": function} if function else {})
        with access.translated():
            letters = await self._all(DEAD, tokens, DeadLetter)
        return sorted(letters, key=lambda letter: letter.time)

    async def get_dead(self, name: Place) -> DeadLetter:
        """Return one dead letter, whole.

        Raises:
            MissingError: there is none.
        """
        with access.translated():
            letter = await self._read(DEAD, name, DeadLetter)
        if letter is None:
            raise MissingError(
                f"there is no dead letter {name.id} of {name.function}; `wasmfn dead list -n"
                f" {name.namespace}` shows what is there"
            )
        return letter

    async def act(self, name: Place, request: DeadRequest) -> DeadReply:
        """Have a dead letter sent back or thrown away.

        Raises:
            RejectedError: a router says no.
            UnreachableError: no router answers.
        """
        subject = subjects.DEAD_REQUESTS.subject(namespace=name.namespace, function=name.function)
        raw = await self._ask(subject, msgspec.json.encode(request))
        reply = msgspec.json.decode(raw, type=DeadReply)
        if not reply.done:
            raise RejectedError(reply.message)
        return reply

    async def _ask(self, subject: str, request: bytes) -> bytes:
        try:
            raw = await self._bus.nc.request(subject, request, timeout=_ASK_S)
        except (nats.errors.NoRespondersError, TimeoutError) as error:
            raise UnreachableError(
                "no router answers; `wasmfn doctor` tells whether one runs"
            ) from error
        return raw.data

    async def _results(self, subject: str) -> AsyncIterator[Result]:
        """Yield the last word on a subject and each that follows; FeedLost if that breaks."""
        async with open_feed(self._bus, RESULTS.name, [subject]) as feed:
            async for entry in feed.snapshot():
                if entry.payload:
                    yield msgspec.json.decode(entry.payload, type=Result)
            while True:
                news = await feed.next()
                if news is not None and news.payload:
                    yield msgspec.json.decode(news.payload, type=Result)

    async def _names(self, stream: Stream, tokens: dict[str, str]) -> set[Place]:
        info = await self._bus.js.stream_info(stream.name, stream.template.filter(**tokens))
        found = (stream.template.parse(subject) for subject in info.state.subjects or {})
        return {Place(**name) for name in found if name is not None}

    async def _all(self, stream: Stream, tokens: dict[str, str], of: type[R]) -> list[R]:
        """Return what a stream holds of some invocations, in one go."""
        found: list[R] = []
        try:
            async with open_feed(
                self._bus, stream.name, [stream.template.filter(**tokens)]
            ) as feed:
                async for entry in feed.snapshot():
                    if entry.payload:
                        with contextlib.suppress(msgspec.DecodeError):
                            found.append(msgspec.json.decode(entry.payload, type=of))
        except FeedLost as error:
            raise UnreachableError(f"what there is could not be read: {error}; ask again") from None
        return found

    async def _read(self, stream: Stream, name: Place, of: type[R]) -> R | None:
        subject = stream.template.subject(**msgspec.structs.asdict(name))
        try:
            raw = await self._bus.js.get_last_msg(stream.name, subject)
        except js_errors.NotFoundError:
            return None
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(raw.data, type=of) if raw.data else None
        return None
