"""Call functions at the times that their timers say: the leading scheduler puts calls on the queue.

Once for each due time: the due time is part of the call's id, so a leader that
dies between a call and its mark leaves nothing that its successor does twice.
The wall clock is looked at each second and never added to, so that a step of it
is seen as what it is: forward, due times were missed; back, they are done.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas import subjects
from schemas.active import ActiveTimer
from schemas.invocations import Invocation, invocation_id
from schemas.names import new_correlation_id
from schemas.streams import TIMERS
from schemas.timers import TimerMark
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.feed import FeedLost, open_feed
from services.scheduler.metrics import TIMER_CALLS
from services.scheduler.record import DeposedError, Record
from services.scheduler.schedule import LATE_S, ScheduleError, begin, due, next_due
from services.scheduler.world import FunctionName, World

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_SOONEST_S: Final = 0.01
DUE_HEADER: Final = "x-due"
"""Tells a function which due time it is called for."""


class Plan(msgspec.Struct, frozen=True):
    """When a timer is due next, worked out once: the clock is compared with it each second."""

    revision: int
    after: datetime
    at: datetime

    def follows(self, revision: int, after: datetime) -> bool:
        """Return whether it is still what follows."""
        return (self.revision, self.after) == (revision, after)


class Timers:
    """The timers of one term."""

    def __init__(self, bus: Bus, world: World, record: Record) -> None:
        self._bus = bus
        self._world = world
        self._record = record
        self._marks: dict[FunctionName, TimerMark] = {}
        self._next: dict[FunctionName, Plan] = {}

    async def run(self) -> None:
        """Call what is due, as long as the term holds."""
        await self._recall()
        # A leader that was paused may wake when another leads: then it does nothing more.
        with contextlib.suppress(DeposedError):
            while True:
                now = datetime.now(UTC)
                for name, timer in tuple(self._world.timers.items()):
                    try:
                        await self._look(name, timer, now)
                    except (BusError, ScheduleError) as error:
                        log.warning("the timer %s waits: %s", name[1], error)
                await self._forget_gone()
                await asyncio.sleep(self._pause_s(datetime.now(UTC)))

    async def _forget_gone(self) -> None:
        for gone in [name for name in self._marks if name not in self._world.timers]:
            with contextlib.suppress(BusError):
                await self._record.forget_timer(gone)
                del self._marks[gone]
                self._next.pop(gone, None)

    async def _recall(self) -> None:
        while True:
            try:
                async with open_feed(self._bus, TIMERS.name, []) as feed:
                    async for entry in feed.snapshot():
                        tokens = subjects.TIMERS.parse(entry.subject)
                        if tokens is not None and entry.payload:
                            mark = msgspec.json.decode(entry.payload, type=TimerMark)
                            self._marks[tokens["namespace"], tokens["name"]] = mark
            except (FeedLost, TimeoutError, *UNREADABLE) as error:
                log.warning("the marks of the timers are read again: %s", error)
                await asyncio.sleep(_LOOK_S)
            else:
                return

    def _pause_s(self, now: datetime) -> float:
        soonest = min((plan.at for plan in self._next.values()), default=None)
        left = _LOOK_S if soonest is None else (soonest - now).total_seconds()
        return min(_LOOK_S, max(_SOONEST_S, left))

    async def _look(self, name: FunctionName, timer: ActiveTimer, now: datetime) -> None:
        """Make the calls of one timer that are due, and settle them."""
        mark = self._marks.get(name)
        if mark is None or mark.revision != timer.revision:
            # A new schedule begins now: nothing of the time before it was missed.
            await self._settle(name, timer, now)
            mark = self._marks[name]
        after = begin(mark.until, now)
        planned = self._next.get(name)
        if timer.spec.paused:
            return
        if planned is not None and planned.follows(timer.revision, after) and now < planned.at:
            return
        found = due(timer.spec, after, now)
        if found is not None:
            for time in found.times:
                await self._call(name, timer, time, now)
            await self._settle(name, timer, found.until)
            after = found.until
        self._next[name] = Plan(timer.revision, after, next_due(timer.spec, after))

    async def _call(
        self, name: FunctionName, timer: ActiveTimer, time: datetime, now: datetime
    ) -> None:
        """Put one call on the queue."""
        namespace, _ = name
        spec = timer.spec
        stamp = time.isoformat()
        correlation = new_correlation_id()
        invocation = Invocation(
            namespace=namespace,
            function=spec.function,
            id=invocation_id(namespace, spec.function, "timer", f"{name[1]} {stamp}"),
            accepted_at=now,
            origin="timer",
            origin_name=name[1],
            correlation=correlation,
            traceparent=f"00-{correlation}-{correlation[:16]}-01",
            headers=(("content-type", spec.content_type), (DUE_HEADER, stamp)),
            body=spec.body.encode(),
            repeatable=True,
        )
        await self._record.enqueue(invocation)
        TIMER_CALLS.labels(namespace, name[1]).inc()
        late_s = (now - time).total_seconds()
        self._record.event(
            ("timer", *name),
            "timer-due",
            f"timer {name[1]}: due at {stamp}, so {spec.function} is called"
            + (f", {late_s:.0f} s late" if late_s > LATE_S else ""),
            correlation=correlation,
            invocation=invocation.id,
            due=stamp,
        )

    async def _settle(self, name: FunctionName, timer: ActiveTimer, until: datetime) -> None:
        mark = TimerMark(until, timer.revision)
        await self._record.mark_timer(name, mark)
        self._marks[name] = mark
