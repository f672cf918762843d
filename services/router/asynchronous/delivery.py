"""One message of the queue, from its delivery to the moment it may leave the queue.

The steps, and what a crash between two of them leads to:

1. delivered: the attempt has a number, counted by the server;
2. claimed: its result says `running`, unless somebody has cancelled it or it has ended;
3. run: a crash now or before 6 delivers it again, as the next attempt;
4. its outcome is sent on, under ids of its own: sent again, it is the same;
5. its result or its dead letter and then its result are stored;
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

from schemas.events import Event, Level, new_event
from schemas.invocations import FINAL, Answer, Attempt, DeadLetter, Invocation, Result
from schemas.specs import Asynchronous
from schemas.subjects import INVOCATIONS
from schemas.unreadable import UNREADABLE
from services.bus.errors import BusUnavailable, Conflict
from services.router.asynchronous import outlet, policy
from services.router.asynchronous.attempting import Outcome, Runner, attempt
from services.router.asynchronous.interruption import Interruption, Interruptions
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.outlet import Message
from services.router.asynchronous.policy import Again, Cancelled, Dead, Done
from services.router.asynchronous.report import letter_of, result_of
from services.router.asynchronous.store import MEMORY_S, Name, name_of, until_stored
from services.router.state import Function

log = logging.getLogger(__name__)

_UNREADABLE_BYTES: Final = 64 * 1024
_READ_PAUSE_S: Final = 0.5
_ACK_TRIES: Final = 60
T = TypeVar("T")
Found = tuple[Result, int] | None
"""The last word about an invocation, and its sequence."""


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


class Places(Protocol):
    """Where invocations are kept; `Store` has the real ones."""

    async def enqueue(self, invocation: Invocation) -> None:
        """Store one on the queue."""

    async def result_at(self, name: Name) -> tuple[Result, int] | None:
        """Return how far one is, and the sequence of that word."""

    async def dead(self, name: Name) -> DeadLetter | None:
        """Return a dead letter."""

    async def put_result(self, result: Result, ttl_s: float, expected: int | None = None) -> None:
        """Say how far one is; Conflict if the last word is not the `expected` one."""

    async def put_dead(self, letter: DeadLetter) -> None:
        """Store a dead letter."""


Send = Callable[[Message], Awaitable[None]]


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
        self._send = send
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
                    await self._mourn(invocation, letter, None, rules)
                    return None
            if mine is not None and mine.unwanted:
                await self._cancel(invocation, before, rules)
                return None
            if number > rules.retry.attempts:
                # The last attempt was under way when its router ended.
                return await self._settle(invocation, Outcome(before[-1], None), before, rules)
            running = result_of(
                invocation, "running", datetime.now(UTC), before,
                message=f"attempt {number} is under way",
            )  # fmt: skip
            ttl_s = rules.result_ttl_s + timeout_s + MEMORY_S
            if await self._put_after(running, ttl_s, found):
                break
            found = await self._recall(self._store.result_at, invocation)
        outcome = await attempt(self._runner, invocation, function, number, interruption)
        return await self._settle(invocation, outcome, (*before, outcome.attempt), rules)

    async def _settle(
        self,
        invocation: Invocation,
        outcome: Outcome,
        attempts: tuple[Attempt, ...],
        rules: Asynchronous,
    ) -> float | None:
        attempt = outcome.attempt
        self._metrics.attempted(invocation, attempt)
        chance = random.random()  # noqa: S311 - jitter
        while True:
            found: Found = None
            if attempt.outcome != "done":
                found = await self._recall(self._store.result_at, invocation)
                if _has_ended(found, invocation):
                    # A server that was killed may have forgotten that it had delivered a message,
                    # and a lease may have run out: two attempts were under way.
                    return None
            now = datetime.now(UTC)
            unwanted = found is not None and found[0].unwanted
            verdict = policy.judge(attempt, rules.retry, chance, unwanted=unwanted)
            match verdict:
                case Done():
                    assert outcome.answer is not None  # noqa: S101 - what is done was answered
                    await self._finish(invocation, outcome.answer, attempts, rules, now)
                    return None
                case Again(delay):
                    waiting = result_of(
                        invocation, "retrying", now, attempts,
                        message=attempt.error, next_attempt_at=now + timedelta(seconds=delay),
                    )  # fmt: skip
                    ttl_s = rules.result_ttl_s + delay + MEMORY_S
                    if await self._put_after(waiting, ttl_s, found):
                        said = _sentence(attempt, f"failed and is tried again in {delay:.1f} s")
                        self._tell(invocation, "attempt-failed", said, attempt, level="warning")
                        return delay
                case Cancelled():
                    await self._cancel(invocation, attempts, rules)
                    return None
                case Dead():
                    letter = letter_of(invocation, verdict, now, attempts)
                    await until_stored(lambda: self._store.put_dead(letter))  # noqa: B023 - awaited here
                    await self._mourn(invocation, letter, outcome.answer, rules)
                    return None

    async def _finish(
        self,
        invocation: Invocation,
        answer: Answer,
        attempts: tuple[Attempt, ...],
        rules: Asynchronous,
        now: datetime,
    ) -> None:
        """Do what follows a success."""
        await self._send_on(outlet.of_success(invocation, answer, rules, now), invocation)
        done = result_of(invocation, "done", now, attempts, answer=answer)
        await self._keep(done, rules.result_ttl_s)
        self._metrics.ended(invocation, "done")
        last = attempts[-1]
        self._tell(invocation, "invocation-done", _sentence(last, "is done"), last)

    async def _cancel(
        self, invocation: Invocation, attempts: tuple[Attempt, ...], rules: Asynchronous
    ) -> None:
        """Say that an unwanted invocation has ended."""
        message = "it was cancelled while an attempt was under way"
        result = result_of(invocation, "cancelled", datetime.now(UTC), attempts, message=message)
        await self._keep(result, rules.result_ttl_s)
        self._metrics.ended(invocation, "cancelled")
        self._tell(invocation, "invocation-cancelled", message)

    async def _mourn(
        self, invocation: Invocation, letter: DeadLetter, answer: Answer | None, rules: Asynchronous
    ) -> None:
        """Do what follows once a dead letter is stored."""
        attempts, message, time = letter.attempts, letter.message, letter.time
        await self._send_on(
            outlet.of_failure(invocation, letter.reason, message, attempts, rules, time), invocation
        )
        result = result_of(invocation, "dead", time, attempts, message=message, answer=answer)
        await self._keep(result, rules.result_ttl_s)
        self._metrics.ended(invocation, "dead")
        last = attempts[-1]
        said = _sentence(last, f"is a dead letter now ({letter.reason})")
        self._tell(invocation, "invocation-dead", said, last, level="error")

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

    async def _send_on(self, outlets: list[Invocation | Message], invocation: Invocation) -> None:
        for thing in outlets:
            if isinstance(thing, Message):
                message = thing
                await self._send(message)
            else:
                following = thing
                await until_stored(lambda: self._store.enqueue(following))  # noqa: B023 - awaited here
                self._metrics.accepted(following)
                self._tell(
                    following, "invocation-accepted",
                    f"accepted, as the outcome of {invocation.function} goes to it",
                )  # fmt: skip

    async def _keep(self, result: Result, ttl_s: float) -> None:
        await until_stored(lambda: self._store.put_result(result, ttl_s))

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

    def _tell(
        self,
        invocation: Invocation,
        what: str,
        message: str,
        attempt: Attempt | None = None,
        level: Level = "info",
    ) -> None:
        """Tell the event log; nothing of the request or its answer is in it."""
        fields = {"status": attempt.status, "attempt": attempt.number} if attempt else {}
        self._emit(
            new_event(
                "router", invocation.namespace, "function", invocation.function, what,
                f"invocation {invocation.id} of {invocation.function}: {message}",
                level=level, correlation=invocation.correlation,
                duration_ms=attempt.duration_ms if attempt else None,
                invocation=invocation.id, origin=invocation.origin, **fields,
            )
        )  # fmt: skip


def _has_ended(found: tuple[Result, int] | None, invocation: Invocation) -> bool:
    """Return whether what was found is the end of this run, or of a later one."""
    return found is not None and found[0].run >= invocation.run and found[0].state in FINAL


def _sentence(attempt: Attempt, what: str) -> str:
    status = f" with status {attempt.status}" if attempt.status else ""
    return f"attempt {attempt.number}{status} {what}"
