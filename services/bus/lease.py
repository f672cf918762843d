"""Lead under a lease: run something while this process, and no other, is the leader.

The decisions are in `services.bus.election`. This shell follows the lease's
subject, so a standby sees a release at once, and writes with an expectation.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from schemas import subjects
from schemas.leases import Lease
from schemas.streams import LEASES
from schemas.unreadable import UNREADABLE
from services.bus import election
from services.bus.connection import Bus
from services.bus.election import Contender, StepDown, Wait, Write
from services.bus.errors import BusError, BusUnavailable, Conflict
from services.bus.follow import follow
from services.bus.publish import publish
from services.bus.state import Deleted, Entry, Put, Replaced, Snapshot

log = logging.getLogger(__name__)

_RELEASE_S = 1.0
_RETRY_S = 0.2
_CANCEL_AGAIN_S = 5.0


class Reign:
    """One term of leading."""

    def __init__(
        self, term: int, holds: Callable[[], bool], resign: Callable[[int], None] = lambda _: None
    ) -> None:
        self.term = term
        """Grows with every new leader. Keepers refuse calls of lower terms."""
        self.lost = asyncio.Event()
        """Set when the term is over, before what runs under it is cancelled."""
        self._holds = holds
        self._resign = resign

    @property
    def holds(self) -> bool:
        """Whether the term still holds, by the clock.

        True to the moment even in a process that was paused: ask before acting.
        """
        return not self.lost.is_set() and self._holds()

    def resign(self, later: int = 0) -> None:
        """End the term, whatever the lease says: a `later` one is known to have begun."""
        self.lost.set()
        self._resign(later)


async def lead(
    bus: Bus, name: str, holder: str, govern: Callable[[Reign], Awaitable[None]]
) -> None:
    """Contend for the lease `name`, and run `govern(reign)` whenever it is won.

    When the lease is lost, `govern` is cancelled and contending goes on after it
    has ended. When `govern` returns, or this is cancelled, the lease is released,
    so that a standby takes over at once. What `govern` raises is raised, in an
    ExceptionGroup.

    Args:
        bus: the connection.
        name: of the lease, such as `scheduler`.
        holder: who we are, for people; made unique here.
        govern: what a leader does.
    """
    contest = _Contest(bus, name, holder)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(contest.watch())
        try:
            while not await contest.reign(govern):
                pass
        finally:
            watching.cancel()


class _Contest:
    """What one contender knows, kept up to date by following and by writing."""

    def __init__(self, bus: Bus, name: str, holder: str) -> None:
        self._bus = bus
        self._name = name
        self._subject = subjects.LEASES.subject(name=name)
        self._me = Contender(f"{holder}/{bus.nc.new_inbox().rpartition('.')[2]}")
        self._news = asyncio.Event()
        self._known = asyncio.Event()

    async def watch(self) -> None:
        """Take in what is on the subject, for ever."""
        async for update in follow(self._bus, LEASES.name, [self._subject]):
            match update:
                case Snapshot(entries):
                    for entry in entries:
                        self._observe(entry)
                case Put(entry):
                    self._observe(entry)
                case Deleted() | Replaced():
                    self._me = election.emptied(self._me, time.monotonic())
            self._known.set()
            self._news.set()

    def _observe(self, entry: Entry) -> None:
        try:
            lease = msgspec.json.decode(entry.payload, type=Lease)
        except UNREADABLE:
            log.error("the lease %s holds what is no lease; ignoring it", self._name)  # noqa: TRY400
            lease = Lease("?", self._me.top_term)
        self._me = election.observe(self._me, entry.sequence, lease, time.monotonic())

    async def reign(self, govern: Callable[[Reign], Awaitable[None]]) -> bool:
        """Win the lease, govern, and lose it. Return True if `govern` has returned by itself."""
        await self._known.wait()
        while self._me.renewed_at is None:
            await self._step(None)
        assert self._me.lease is not None  # noqa: S101 - a leader has one
        reign = Reign(
            self._me.lease.term,
            lambda: election.leads(self._me, time.monotonic()),
            self._resigned,
        )
        log.info("leading", extra={"lease": self._name, "term": reign.term})
        body = asyncio.ensure_future(govern(reign))
        try:
            while self._me.renewed_at is not None and not (body.done() or reign.lost.is_set()):
                await self._step(body)
        finally:
            finished = body.done()
            if reign.lost.is_set():
                # A renewal may have been under way. The next claim is for a higher term.
                self._me = election.step_down(self._me)
            reign.lost.set()
            while not body.done():
                # One may be lost in a library, as when it comes together with what was waited for;
                # then we would neither lead nor contend for ever.
                body.cancel()
                await asyncio.wait({body}, timeout=_CANCEL_AGAIN_S)
            log.info("no longer leading", extra={"lease": self._name, "term": reign.term})
            await self._release()
        if finished:
            body.result()
        elif not body.cancelled() and (error := body.exception()) is not None:
            raise error
        return finished

    def _resigned(self, later: int) -> None:
        self._me = election.outdone(self._me, later)
        self._news.set()

    async def _step(self, body: asyncio.Future[None] | None) -> None:
        """Do one thing that the rules say, or wait for the time, for news, or for `body`."""
        self._news.clear()
        now = time.monotonic()
        match election.decide(self._me, now, first_term=int(time.time())):
            case StepDown():
                log.warning("the lease %s could not be renewed in time", self._name)
                self._me = election.step_down(self._me)
            case Write() as write:
                await self._write(write, now)
            case Wait(until):
                await self._pause(until - now, body)

    async def _write(self, write: Write, now: float) -> None:
        try:
            sequence = await publish(
                self._bus,
                self._subject,
                msgspec.json.encode(write.lease),
                expected=write.expected,
                deadline_s=write.by - now,
            )
        except Conflict:
            await self._pause(_RETRY_S, None)  # What it conflicts with is on its way.
        except BusUnavailable:
            pass  # The deadline has passed: deciding anew is right.
        except BusError as error:
            log.error("cannot write the lease %s: %s", self._name, error)  # noqa: TRY400
            await asyncio.sleep(_RETRY_S)
        else:
            self._me = election.stored(self._me, sequence, write.lease, now)

    async def _pause(self, for_s: float, body: asyncio.Future[None] | None) -> None:
        news = asyncio.ensure_future(self._news.wait())
        ends: set[asyncio.Future[Any]] = {news, body} if body else {news}
        try:
            await asyncio.wait(ends, timeout=for_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _release(self) -> None:
        """Tell standbys that they need not wait. Harmless if it fails: they wait then."""
        me = self._me
        if me.lease is None or not election.leads(me, time.monotonic()):
            return
        self._me = election.step_down(me)
        released = msgspec.json.encode(Lease(election.NOBODY, me.lease.term))
        try:
            await publish(
                self._bus,
                self._subject,
                released,
                expected=me.sequence,
                deadline_s=_RELEASE_S,
            )
        except BusError as error:
            log.info("the lease %s was not released: %s", self._name, error)
