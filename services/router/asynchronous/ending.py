"""What follows when an invocation has ended: its outcome is sent on, then its result is stored.

In this order, because a final result is what tells that nothing is left to do: a
crash before it has all of this done again, under the same ids.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

from schemas.events import Event
from schemas.invocations import Answer, Attempt, DeadLetter, Invocation, Result
from schemas.specs import Asynchronous
from services.router.asynchronous import outlet
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.outlet import Message
from services.router.asynchronous.report import event_of, result_of, sentence
from services.router.asynchronous.store import until_stored

Send = Callable[[Message], Awaitable[None]]


class Ends(Protocol):
    """Where ends are written, and what follows them; `Store` has the real ones."""

    async def enqueue(self, invocation: Invocation) -> None:
        """Store one on the queue."""

    async def put_result(self, result: Result, ttl_s: float, expected: int | None = None) -> None:
        """Say how far one is; Conflict if the last word is not the `expected` one."""


class Endings:
    """Ends invocations. Nothing here gives up before it is stored."""

    def __init__(
        self,
        store: Ends,
        send: Send,
        metrics: AsyncMetrics,
        emit: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._send = send
        self._metrics = metrics
        self._emit = emit

    async def done(
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
        self._emit(event_of(invocation, "invocation-done", sentence(last, "is done"), last))

    async def cancelled(
        self, invocation: Invocation, attempts: tuple[Attempt, ...], rules: Asynchronous
    ) -> None:
        """Say that an unwanted invocation has ended."""
        message = "it was cancelled while an attempt was under way"
        result = result_of(invocation, "cancelled", datetime.now(UTC), attempts, message=message)
        await self._keep(result, rules.result_ttl_s)
        self._metrics.ended(invocation, "cancelled")
        self._emit(event_of(invocation, "invocation-cancelled", message))

    async def dead(
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
        said = sentence(last, f"is a dead letter now ({letter.reason})")
        self._emit(event_of(invocation, "invocation-dead", said, last, level="error"))

    async def _send_on(self, outlets: list[Invocation | Message], invocation: Invocation) -> None:
        for thing in outlets:
            if isinstance(thing, Message):
                message = thing
                await self._send(message)
            else:
                following = thing
                await until_stored(lambda: self._store.enqueue(following))  # noqa: B023 - awaited here
                self._metrics.accepted(following)
                said = f"accepted, as the outcome of {invocation.function} goes to it"
                self._emit(event_of(following, "invocation-accepted", said))

    async def _keep(self, result: Result, ttl_s: float) -> None:
        await until_stored(lambda: self._store.put_result(result, ttl_s))
