"""One message of the queue, from its delivery to the moment it may leave the queue.

The steps, and what a crash between two of them leads to:

1. delivered: the attempt has a number, counted by the server;
2. claimed: its result says `running`, unless somebody has cancelled it or it has ended;
3. run: a crash now or before 6 delivers it again, as the next attempt;
4. its dead letter is stored, if that is what it comes to;
5. its outcome is sent on, under ids of its own: sent again, it is the same;
   then its result is stored (see `ending`);
6. it is acknowledged: a crash before is found by the final result, and nothing runs again.

While any of this goes on the lease is extended, also while NATS is full and a
result cannot be stored: then nothing new is taken either.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

import msgspec

from schemas.events import Event
from schemas.invocations import FINAL, Attempt, DeadLetter, Invocation, Result
from schemas.specs import Asynchronous
from schemas.subjects import INVOCATIONS
from schemas.unreadable import UNREADABLE
from services.bus.errors import BusUnavailable, Conflict
from services.router.asynchronous import policy
from services.router.asynchronous.attempting import Outcome, Runner, attempt
from services.router.asynchronous.ending import Endings, Ends, Send
from services.router.asynchronous.interruption import Interruption, Interruptions
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.policy import Again, Cancelled, Dead, Done
from services.router.asynchronous.report import event_of, letter_of, result_of, sentence
from services.router.asynchronous.store import MEMORY_S, Name, name_of, until_stored
from services.router.state import Function

log = logging.getLogger(__name__)

_UNREADABLE_BYTES: Final = 64 * 1024
_READ_PAUSE_S: Final = 0.5
_ACK_TRIES: Final = 60
T = TypeVar("T")
Found = tuple[Result, int] | None
"""The last word about an invocation, and its sequence."""


class Places(Ends, Protocol):
    """Where invocations are kept; `Store` has the real ones."""

    async def result_at(self, name: Name) -> tuple[Result, int] | None:
        """Return how far one is, and the sequence of that word."""

    async def dead(self, name: Name) -> DeadLetter | None:
        """Return a dead letter."""

    async def put_dead(self, letter: DeadLetter) -> None:
        """Store a dead letter."""


class Delivered(Protocol):
    """A message of the queue; `services.bus.pull` has the real one."""

    subject: str
    data: bytes
    number: int

    async def acknowledge(self) -> bool:
        """Take it off the queue."""

    async def extend(self) -> None:
        """Begin its lease anew."""

    async def put_back(self, delay_s: float) -> None:
        """Have it delivered again, not before `delay_s`."""


class Deliveries:
    """Carries deliveries to their end. Each call of `carry` is independent of the others."""

    def __init__(
        self,
        store: Places,
        runner: Runner,
        send: Send,
        metrics: AsyncMetrics,
        emit: Callable[[Event], None],
        interruptions: Interruptions,
    ) -> None:
        self._store = store
        self._runner = runner
        self._interruptions = interruptions
        self._endings = Endings(store, send, metrics, emit)
        self._metrics = metrics
        self._emit = emit

    async def carry(
        self, msg: Delivered, function: Function | None, lease_s: float, turn: asyncio.Semaphore
    ) -> None:
        """Make one attempt and act on what it came to.

        Args:
            msg: as it was delivered.
            function: what is in force, None if nothing is.
            lease_s: how long the lease of the message is.
            turn: what has to be waited for before anything is done.
        """
        async with self._leased(msg, lease_s), turn:
            try:
                leave = await self._carry(msg, function)
            except asyncio.CancelledError:
                # This router ends: another may go on at once.
                await msg.put_back(0.0)
                raise
            if leave is None:
                await self._take_off(msg)
            else:
                await msg.put_back(leave)

    async def _take_off(self, msg: Delivered) -> None:
        """Have a message leave the queue, also if NATS is away for a moment.

        Whoever got it again would find its result, if that has not expired by then.
        """
        for _ in range(_ACK_TRIES):
            if await msg.acknowledge():
                return
            await asyncio.sleep(_READ_PAUSE_S)

    async def _carry(self, msg: Delivered, function: Function | None) -> float | None:
        """Return None once the message may leave the queue, or when to deliver it again."""
        try:
            invocation = msgspec.json.decode(msg.data, type=Invocation)
        except (ValueError, *UNREADABLE) as error:
            await self._bury_unreadable(msg, str(error))
            return None
        with self._interruptions.of(name_of(invocation), invocation.run) as interruption:
            return await self._go_through(invocation, msg.number, function, interruption)

    async def _go_through(
        self,
        invocation: Invocation,
        number: int,
        function: Function | None,
        interruption: Interruption,
    ) -> float | None:
        """Make attempt `number`, unless it is not to be made, and act on it."""
        rules = function.asynchronous if function is not None else Asynchronous()
        timeout_s = function.timeout_s if function is not None else 0.0
        # Of a first delivery nothing is known, as a rule: if there is, its claim is refused.
        found: Found = None
        if number > 1 or invocation.repeatable:
            found = await self._recall(self._store.result_at, invocation)
        while True:
            if _has_ended(found, invocation):
                return None
            mine = found[0] if found and found[0].run == invocation.run else None
            before = policy.with_lost(mine.attempts if mine else (), number)
            if number > 1 or mine is not None:
                letter = await self._recall(self._store.dead, invocation)
                buried = letter.invocation if letter is not None else None
                if letter is not None and buried is not None and buried.run == invocation.run:
                    await self._endings.dead(invocation, letter, None, rules)
                    return None
            if mine is not None and mine.unwanted:
                await self._endings.cancelled(invocation, before, rules)
                return None
            if number > rules.retry.attempts:
                # The last attempt was under way when its router ended.
                lost = Outcome(before[-1], None)
                return await self._settle(invocation, lost, before, rules, interruption)
            running = result_of(
                invocation, "running", datetime.now(UTC), before,
                message=f"attempt {number} is under way",
            )  # fmt: skip
            ttl_s = rules.result_ttl_s + timeout_s + MEMORY_S
            if await self._put_after(running, ttl_s, found):
                break
            found = await self._recall(self._store.result_at, invocation)
        outcome = await attempt(self._runner, invocation, function, number, interruption)
        attempts = (*before, outcome.attempt)
        return await self._settle(invocation, outcome, attempts, rules, interruption)

    async def _settle(
        self,
        invocation: Invocation,
        outcome: Outcome,
        attempts: tuple[Attempt, ...],
        rules: Asynchronous,
        interruption: Interruption,
    ) -> float | None:
        attempt = outcome.attempt
        self._metrics.attempted(invocation, attempt, interrupted=interruption.asked)
        chance = random.random()  # noqa: S311 - jitter
        while True:
            found = await self._recall(self._store.result_at, invocation)
            if _has_ended(found, invocation):
                # A server that was killed may have forgotten that it had delivered a message, and a
                # lease may have run out: two attempts were under way, and the first end stands.
                return None
            now = datetime.now(UTC)
            # Who was told may not find the note: NATS may have lost it.
            unwanted = interruption.asked or (found is not None and found[0].unwanted)
            verdict = policy.judge(attempt, rules.retry, chance, unwanted=unwanted)
            match verdict:
                case Done():
                    assert outcome.answer is not None  # noqa: S101 - what is done was answered
                    await self._endings.done(invocation, outcome.answer, attempts, rules, now)
                    return None
                case Again(delay):
                    waiting = result_of(
                        invocation, "retrying", now, attempts,
                        message=attempt.error, next_attempt_at=now + timedelta(seconds=delay),
                    )  # fmt: skip
                    ttl_s = rules.result_ttl_s + delay + MEMORY_S
                    if await self._put_after(waiting, ttl_s, found):
                        said = sentence(attempt, f"failed and is tried again in {delay:.1f} s")
                        self._emit(
                            event_of(invocation, "attempt-failed", said, attempt, level="warning")
                        )
                        return delay
                case Cancelled():
                    await self._endings.cancelled(invocation, attempts, rules)
                    return None
                case Dead():
                    letter = letter_of(invocation, verdict, now, attempts)
                    await until_stored(lambda: self._store.put_dead(letter))  # noqa: B023 - awaited here
                    await self._endings.dead(invocation, letter, outcome.answer, rules)
                    return None

    async def _bury_unreadable(self, msg: Delivered, error: str) -> None:
        tokens = INVOCATIONS.parse(msg.subject)
        if tokens is None:
            log.error("dropping what is on %s, which names no invocation", msg.subject)
            return
        letter = DeadLetter(
            namespace=tokens["namespace"],
            function=tokens["function"],
            id=tokens["id"],
            time=datetime.now(UTC),
            reason="unreadable",
            message=f"what is stored is no invocation of this version: {error}",
            invocation=None,
            unreadable=msg.data[:_UNREADABLE_BYTES],
        )
        await until_stored(lambda: self._store.put_dead(letter))

    async def _put_after(self, result: Result, ttl_s: float, found: Found) -> bool:
        """Say how far an invocation is, and return True; False if `found` is not the last word."""
        expected = found[1] if found else 0
        try:
            await until_stored(lambda: self._store.put_result(result, ttl_s, expected))
        except Conflict:
            return False
        return True

    async def _recall(
        self, read: Callable[[Name], Awaitable[T | None]], invocation: Invocation
    ) -> T | None:
        """Read what is known of an invocation, for as long as NATS is away."""
        while True:
            try:
                return await read(name_of(invocation))
            except BusUnavailable:
                await asyncio.sleep(_READ_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _leased(self, msg: Delivered, lease_s: float) -> AsyncIterator[None]:
        """Extend the lease while inside."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(lease_s / 3)
                await msg.extend()

        keeping = asyncio.create_task(keep(), name="lease")
        try:
            yield
        finally:
            keeping.cancel()


def _has_ended(found: tuple[Result, int] | None, invocation: Invocation) -> bool:
    """Return whether what was found is the end of this run, or of a later one."""
    return found is not None and found[0].run >= invocation.run and found[0].state in FINAL
