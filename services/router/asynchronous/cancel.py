"""Cancel what nobody wants any more: what has not begun never will, and what runs is ended.

Whether an attempt is under way is what the result says, and a router changes
that word only if it is still the last one, as we do here: so either we were
first, and no attempt begins, or it was: then we leave a note that it reads when
the attempt is over, and tell every router, one of which ends it. They are told in
either case: a router that was cut off for longer than its lease may still be at an
attempt that the last word does not speak of. If that one does not hear, it finds
that there is an end already, and what it comes to counts no more.

The message leaves the queue after the word is stored. If it does not, whoever
gets it finds the word, and runs nothing.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas import subjects
from schemas.events import Event
from schemas.invocations import FINAL, CancelReply, CancelRequest, Invocation, Result
from schemas.specs import Asynchronous
from services.bus.connection import Bus
from services.bus.errors import BusError, Conflict
from services.router.asynchronous.answering import answering
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.report import event_of, result_of
from services.router.asynchronous.store import MEMORY_S, Name, Store
from services.router.state import Function
from services.router.table import Key

log = logging.getLogger(__name__)

CANCELLED: Final = "it was cancelled, and no attempt is made any more"
UNWANTED: Final = "an attempt is under way and is being ended; there will be no other one"


class Cancellations:
    """Cancels, for HTTP on the data port and for the command line over the bus."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        look: Callable[[Key], Function | None],
        metrics: AsyncMetrics,
        emit: Callable[[Event], None],
        interrupt: Callable[[Name, int], Awaitable[None]],
    ) -> None:
        """Take what it works with; `interrupt` ends a run of an invocation, wherever that is."""
        self._bus = bus
        self._store = store
        self._look = look
        self._metrics = metrics
        self._emit = emit
        self._interrupt = interrupt

    async def cancel(self, name: Name) -> CancelReply:
        """Cancel one invocation, whatever is becoming of it. Does not raise."""
        try:
            while True:
                with contextlib.suppress(Conflict):
                    return await self._cancel(name)
        except BusError as error:
            return CancelReply("unknown", f"whether it is cancelled is not known: {error}")

    def listening(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Answer requests over the bus while inside."""

        async def act(name: Name, request: CancelRequest) -> CancelReply:
            return await self.cancel(name)

        def refusal(message: str) -> CancelReply:
            return CancelReply("unknown", message)

        return answering(self._bus, subjects.CANCEL_REQUESTS, CancelRequest, act, refusal)

    async def _cancel(self, name: Name) -> CancelReply:
        """Decide by the last word, and have the next one. Conflict if it was not the last."""
        found = await self._store.result_at(name)
        queued = None if found else await self._store.queued(name)
        if found is None and queued is None:
            # A result is written before the message leaves the queue.
            found = await self._store.result_at(name)
        if found is None and queued is None:
            return CancelReply("missing", f"there is no invocation {name[2]} of {name[1]}")
        known, sequence = found or (_first(queued), 0)
        if known.state in FINAL:
            return CancelReply("ended", f"it is {known.state}, so there is nothing to cancel")
        function = self._look(name[:2])
        ttl_s = (function.asynchronous if function else Asynchronous()).result_ttl_s
        if known.state == "running":
            until_over_s = MEMORY_S + (function.timeout_s if function else 0.0)
            noted = msgspec.structs.replace(known, unwanted=True, message=UNWANTED)
            await self._store.put_result(noted, ttl_s + until_over_s, sequence)
            await self._interrupt(name, known.run)
            return CancelReply("unwanted", UNWANTED)
        cancelled = msgspec.structs.replace(
            known, state="cancelled", changed_at=datetime.now(UTC), message=CANCELLED,
            next_attempt_at=None,
        )  # fmt: skip
        # Kept for longer than a result: until its message is gone it is what keeps it from running.
        await self._store.put_result(cancelled, ttl_s + MEMORY_S, sequence)
        self._metrics.ended(cancelled, "cancelled")
        self._emit(event_of(cancelled, "invocation-cancelled", CANCELLED))
        await self._interrupt(name, known.run)
        try:
            await self._store.remove_queued(name, known.run)
        except BusError as error:
            log.info("a cancelled invocation leaves the queue when its turn comes: %s", error)
        return CancelReply("cancelled", f"{name[2]} is cancelled: no attempt will be made")


def _first(queued: Invocation | None) -> Result:
    """Return the word about an invocation that none was written of yet."""
    assert queued is not None  # noqa: S101 - otherwise there is none
    return result_of(queued, "accepted", queued.accepted_at)
