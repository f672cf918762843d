"""Give each request a slot of an endpoint: at once, or after a bounded wait.

This is where the pure parts meet: `state` says which endpoints there are,
`choice` picks one, `parking` keeps who waits in order, and one demand at a time
for each function asks the scheduler. A slot that comes free, an endpoint that
appears and an ejection that ends all lead to `serve`, which gives what there is
to whoever has waited longest. Nobody overtakes: while someone waits for a
function, a newcomer waits too.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Protocol

import msgspec

from schemas.control import DemandMet, DemandRefused, DemandRequest
from schemas.events import Event, new_event
from services.router.choice import (
    FOREVER,
    Shortage,
    choose,
    eject,
    next_return,
    shortage,
    silent_instances,
)
from services.router.coldstart import ColdStart
from services.router.demand import Ask
from services.router.fleet import Candidate, Cause, Fleet
from services.router.metrics import Metrics
from services.router.parking import Lot
from services.router.problems import Problem
from services.router.state import State
from services.router.table import Key

_AGAIN_S: Final = (0.1, 5.0)
"""Bounds of the pause between two demands for what is still short."""


class Grant(msgspec.Struct, frozen=True):
    """A slot of an endpoint. It must be given back with `release`."""

    candidate: Candidate
    cold: ColdStart | None = None


class Waiter(Protocol):
    """A parked request. It is told one of the two, once, unless it leaves before."""

    parked_at: float
    """On `monotonic`, as are all times that are told to people."""

    @property
    def request_id(self) -> str:
        """Ties whatever this sets off to the request."""

    def on_grant(self, grant: Grant) -> None:
        """It has a slot now."""

    def on_refusal(self, problem: Problem) -> None:
        """There is no slot for it, and there will be none."""


class NoSlot(Exception):
    """There is no slot for this request, and there will be none in time."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class _Awaiting:
    """The waiter of code that awaits."""

    def __init__(self, request_id: str, unwanted: Callable[[Grant], None]) -> None:
        self.request_id = request_id
        self.parked_at = monotonic()
        self.slot: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._unwanted = unwanted

    def on_grant(self, grant: Grant) -> None:
        if self.slot.done():
            # Cancelled, and its task has not run since.
            self._unwanted(grant)
        else:
            self.slot.set_result(grant)

    def on_refusal(self, problem: Problem) -> None:
        if not self.slot.done():
            self.slot.set_exception(NoSlot(problem))


class _Flight:
    """The running demand for one function."""

    __slots__ = ("correlation", "met", "reason", "since", "task")

    def __init__(self, correlation: str, reason: Shortage, now: float) -> None:
        self.correlation = correlation
        self.reason = reason
        self.since = now
        self.met: tuple[float, dict[str, float]] | None = None
        self.task: asyncio.Task[None] | None = None


class Slots:
    """The slots of all endpoints, and the queue for them."""

    def __init__(
        self,
        router: str,
        state: State,
        lot: Lot[Waiter],
        ask: Ask,
        metrics: Metrics,
        emit: Callable[[Event], None],
        gone: Callable[[str], None],
        park_s: float,
    ) -> None:
        """Take what it works on.

        Args:
            router: this router's id, said in demands.
            state: what there is.
            lot: the parking lot, empty.
            ask: asks the scheduler.
            metrics: counts.
            emit: takes events.
            gone: told of each instance whose connections are of no use any more.
            park_s: how long the scheduler is given for an answer.
        """
        self.state = state
        self.lot = lot
        self._router = router
        self._ask = ask
        self._metrics = metrics
        self._emit = emit
        self._gone = gone
        self._park_s = park_s
        self._loop = asyncio.get_running_loop()
        self._busy: set[Fleet] = set()
        """Those with something in flight."""
        self._flights: dict[Key, _Flight] = {}
        self._alarms: dict[Key, asyncio.TimerHandle] = {}

    @property
    def in_flight(self) -> dict[Key, int]:
        """Each function that has something in flight, with how much."""
        return {fleet.function: fleet.in_flight for fleet in self._busy}

    def take(self, fleet: Fleet, now: float, *, in_turn: bool = False) -> Candidate | None:
        """Return a slot of `fleet` if one is free.

        Args:
            fleet: of the function that is called.
            now: of `monotonic` or of the loop, which may be a turn behind it.
            in_turn: it is for who has waited longest; else nobody may be waiting.
        """
        if not in_turn and self.lot.parked and self.lot.waiting(fleet.function):
            return None
        candidates = fleet.candidates
        if len(candidates) == 1:
            # So it is for most functions, and there is no choice.
            candidate = candidates[0]
            if (
                candidate.ejected_until > now
                or candidate.in_flight >= candidate.endpoint.concurrency
            ):
                return None
        else:
            active = self.state.functions.get(fleet.function)
            fleet.turn += 1
            revision = active.revision if active is not None else 0
            chosen = choose(candidates, revision, now, fleet.turn)
            if chosen is None:
                return None
            candidate = chosen
        candidate.in_flight += 1
        if not fleet.in_flight:
            self._busy.add(fleet)
        fleet.in_flight += 1
        return candidate

    def park(self, function: Key, waiter: Waiter) -> None:
        """Let `waiter` wait for a slot. It may be told how that ended before this returns."""
        if not self.lot.park(function, waiter):
            self._metrics.overflows += 1
            detail = "too many requests wait for this function; send it again a little later"
            waiter.on_refusal(Problem(503, detail, retry_after_s=1.0))
            return
        self.serve(function)
        if self.lot.waiting(function):
            self._demand(function, waiter.request_id)

    def leave(self, function: Key, waiter: Waiter) -> bool:
        """Wait no longer. False if `waiter` did not wait any more."""
        return self.lot.leave(function, waiter)

    async def acquire(self, function: Key, request_id: str, within_s: float) -> Grant:
        """Return a slot, waiting for it if need be.

        Raises:
            NoSlot: too many wait already, the wait was too long, or there will be none.
        """
        fleet = self.state.fleets.get(function)
        candidate = self.take(fleet, self._loop.time()) if fleet is not None else None
        if candidate is not None:
            return Grant(candidate)
        waiter = _Awaiting(request_id, lambda grant: self.release(grant.candidate, ""))
        self.park(function, waiter)
        try:
            async with asyncio.timeout(within_s):
                return await waiter.slot
        except TimeoutError:
            if waiter.slot.done() and not waiter.slot.cancelled():
                return waiter.slot.result()
            raise NoSlot(no_room(within_s)) from None
        except asyncio.CancelledError:
            slot = waiter.slot
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                # The slot came at the very moment the client left.
                self.release(slot.result().candidate, "")
            raise
        finally:
            self.leave(function, waiter)

    def release(self, candidate: Candidate, cause: Cause | None = None) -> None:
        """Give a slot back.

        Args:
            candidate: the endpoint.
            cause: why its call failed; empty if the failure is not the endpoint's,
                None if it was answered.
        """
        fleet = candidate.fleet
        candidate.in_flight -= 1
        fleet.in_flight -= 1
        if not fleet.in_flight:
            self._busy.remove(fleet)
            self.state.dismiss(fleet)
        if cause:
            self._eject(fleet.function, candidate, cause)
        elif cause is None and candidate.failures:
            candidate.failures = 0
        if self.lot.parked and self.lot.waiting(fleet.function):
            self.serve(fleet.function)

    def serve(self, function: Key) -> None:
        """Give what slots there are to those who wait for `function`, the eldest first."""
        if function not in self.state.functions:
            self._refuse(function, Problem(503, "the function is gone", retry_after_s=5.0))
            return
        fleet = self.state.fleet(function)
        while self.lot.waiting(function):
            candidate = self.take(fleet, self._loop.time(), in_turn=True)
            if candidate is None:
                self._set_alarm(function)
                return
            waiter = self.lot.next(function)
            assert waiter is not None  # noqa: S101 - someone waits, as was just asked
            waiter.on_grant(Grant(candidate, self._cold_start(function, waiter)))

    def changed(self, functions: Iterable[Key]) -> None:
        """Look again at `functions`, which may have gained or lost an endpoint."""
        for function in functions:
            if self.lot.waiting(function):
                self.serve(function)

    def close(self) -> None:
        """Stop asking."""
        for flight in self._flights.values():
            if flight.task is not None:
                flight.task.cancel()
        for alarm in self._alarms.values():
            alarm.cancel()

    def _eject(self, function: Key, candidate: Candidate, cause: Cause) -> None:
        now = self._loop.time()
        news = candidate.ejected_until <= now
        ejection = eject(candidate, cause, now)
        self.state.eject(candidate, ejection)
        if cause == "busy":
            return
        self._gone(candidate.endpoint.instance)
        if not news:
            return
        self._metrics.ejections[cause] = self._metrics.ejections.get(cause, 0) + 1
        pause = "for good" if ejection.until == FOREVER else f"for {ejection.until - now:.1f} s"
        self._emit(
            new_event(
                "router", *_names(function, "endpoint"), "ejected",
                f"instance {candidate.endpoint.instance} of {function[1]} gets no requests {pause}:"
                f" its last call ended as `{cause}`",
                level="warning", instance=candidate.endpoint.instance, cause=cause,
            )
        )  # fmt: skip

    def _set_alarm(self, function: Key) -> None:
        """See to it that `serve` runs when an ejected endpoint may be tried again."""
        when = next_return(self.state.candidates(function), self._loop.time())
        alarm = self._alarms.get(function)
        if when is None or (alarm is not None and alarm.when() <= when):
            return
        if alarm is not None:
            alarm.cancel()
        self._alarms[function] = self._loop.call_at(when, self._on_alarm, function)

    def _on_alarm(self, function: Key) -> None:
        del self._alarms[function]
        self.changed((function,))

    def _cold_start(self, function: Key, waiter: Waiter) -> ColdStart | None:
        """Return the cold start that ends with `waiter`, if the demand was made for it."""
        flight = self._flights.get(function)
        if flight is None or flight.correlation != waiter.request_id:
            return None
        if flight.reason == "saturated":
            return None
        now = monotonic()
        # An endpoint can be told by the stream before the demand's answer is here.
        demand_ms, steps_ms = flight.met or ((now - flight.since) * 1000, {})
        return ColdStart((now - waiter.parked_at) * 1000, demand_ms, steps_ms)

    def _demand(self, function: Key, correlation: str) -> None:
        if function not in self._flights:
            reason = shortage(self.state.candidates(function), self._loop.time())
            flight = self._flights[function] = _Flight(correlation, reason, monotonic())
            flight.task = self._loop.create_task(self._fly(function, flight))

    async def _fly(self, function: Key, flight: _Flight) -> None:
        """Ask until nobody waits any more."""
        try:
            while waiting := self.lot.waiting(function):
                pause = await self._ask_once(function, flight, waiting)
                if self.lot.waiting(function):
                    await asyncio.sleep(min(max(pause, _AGAIN_S[0]), _AGAIN_S[1]))
        finally:
            del self._flights[function]

    async def _ask_once(self, function: Key, flight: _Flight, waiting: int) -> float:
        """Ask once and act on the answer. Returns how long to wait before asking again."""
        asked = monotonic()
        now = self._loop.time()
        candidates = self.state.candidates(function)
        reason = shortage(candidates, now)
        reply = await self._ask(
            function,
            DemandRequest(
                router=self._router,
                reason=reason,
                parked=waiting,
                deadline_s=self._park_s,
                failed_instances=silent_instances(candidates, now),
                correlation=flight.correlation,
            ),
        )
        if isinstance(reply, DemandRefused):
            if shortage(self.state.candidates(function), self._loop.time()) != "saturated":
                detail = f"no instance of the function can be had: {reply.message}"
                self._refuse(function, Problem(503, detail, retry_after_s=reply.retry_after_s))
            return reply.retry_after_s
        self._met(function, flight, reply, (monotonic() - asked) * 1000)
        return 0.0

    def _met(self, function: Key, flight: _Flight, reply: DemandMet, demand_ms: float) -> None:
        flight.met = (demand_ms, reply.steps_ms)
        for endpoint in reply.endpoints:
            if (endpoint.namespace, endpoint.function) == function:
                self.state.put_endpoint(endpoint)
        self.serve(function)

    def _refuse(self, function: Key, problem: Problem) -> None:
        while (waiter := self.lot.next(function)) is not None:
            waiter.on_refusal(problem)


def no_room(within_s: float) -> Problem:
    """Return what a request is told that waited `within_s` for a slot."""
    detail = f"no instance had room within {within_s:.0f} s; send it again later"
    return Problem(503, detail, retry_after_s=5.0)


def _names(function: Key, kind: str) -> tuple[str, str, str]:
    return function[0], kind, function[1]
