"""Answer routers that need an endpoint, and take in what they have in flight.

Only the leader listens. The answer carries the endpoint itself, so a cold start
waits for no stream: it is published while the router already sends. However
many ask, one function is loaded once.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from schemas import subjects
from schemas.active import ActiveFunction
from schemas.control import Activity, DemandMet, DemandRefused, DemandReply, DemandRequest
from schemas.endpoints import Endpoint
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus, settle
from services.scheduler import scaling
from services.scheduler.audience import Audience
from services.scheduler.function import REPORT_S, Function
from services.scheduler.loading import Loaded, Loader, LoadError
from services.scheduler.metrics import DEMANDS
from services.scheduler.record import DeposedError
from services.scheduler.world import FunctionName, World

MAX_WAIT_S: Final = 60.0
PARALLEL: Final = 256
"""Demands answered at a time; each is one function of one router."""
_PROBE_S: Final = 0.5
_END_S: Final = 0.5
"""How long answers under way may take when the term ends."""
_AT_MOST_RETRY_S: Final = 0.5
_MAX_ROUTERS: Final = 256
_AT_ONCE: Final = 16
"""Processes that one demand begins to load at most."""
_REQUEST: Final = msgspec.json.Decoder(DemandRequest)
_ACTIVITY: Final = msgspec.json.Decoder(Activity)

log = logging.getLogger(__name__)


class Demands:
    """Answers demands in the name of one term."""

    def __init__(self, world: World, loader: Loader) -> None:
        self._world = world
        self._loader = loader
        self._probes: set[asyncio.Task[None]] = set()
        self.on_function: Callable[[FunctionName], None] = lambda name: None

    async def answer(self, name: FunctionName, request: DemandRequest) -> DemandReply:
        """Return endpoints that serve now, or why none will before the router's deadline.

        Raises:
            DeposedError: the next leader is to be asked.
        """
        begun = time.monotonic()
        active = self._world.active.get(name)
        if active is None:
            return DemandRefused(f"no function {name[1]!r} is in force in {name[0]!r}", 1.0)
        function = self._world.function(name)
        function.demanded = (request.parked, begun)
        failed = set(request.failed_instances)
        self._probe(name, function, failed)
        serving = _serving(function, active, failed)
        if serving and request.reason != "saturated":
            return DemandMet(serving)
        _, most = scaling.bounds(active.spec.scaling)
        running = len(serving) + len(function.loading)
        # One that does not answer is made up for, but not again and again.
        alive = len(function.serving(active.revision)) + len(function.loading)
        if (running >= most or alive >= 2 * most) and not function.loading:
            return DemandRefused(_at_most(active), _AT_MOST_RETRY_S)
        trouble = function.troubles.get(active.revision)
        if trouble is not None and trouble.until > begun and not function.loading:
            return DemandRefused(trouble.message, math.ceil(trouble.until - begun))
        within_s = max(0.0, min(request.deadline_s, MAX_WAIT_S))
        wanted = scaling.processes_for(active.spec.scaling, function.load(begun))
        if not function.loading:
            wanted = max(wanted, running + 1)
        for _ in range(min(_AT_ONCE, wanted - running)):
            self._loader.start(
                active,
                f"a router asked ({request.reason}, {request.parked} parked)",
                within_s=within_s,
                correlation=request.correlation,
            )
        return await self._first(name, active, within_s)

    def seen(self, activity: Activity) -> None:
        """Take in what a router has in flight and parked."""
        now = time.monotonic()
        for one in activity.functions:
            name = (one.namespace, one.function)
            active = self._world.active.get(name)
            if active is None:
                continue
            function = self._world.function(name)
            function.used = now
            if len(function.reports) >= _MAX_ROUTERS:
                function.reports = {
                    router: report
                    for router, report in function.reports.items()
                    if now - report[1] < REPORT_S
                }
            if activity.router in function.reports or len(function.reports) < _MAX_ROUTERS:
                function.reports[activity.router] = (one.in_flight + one.parked, now)
            load = function.load(now)
            if function.peak is not None:
                function.peak.see(load, now)
            running = len(function.instances) + len(function.loading)
            if scaling.processes_for(active.spec.scaling, load) > running:
                self.on_function(name)

    async def _first(
        self, name: FunctionName, active: ActiveFunction, within_s: float
    ) -> DemandReply:
        """Return the first of the loads under way that comes to something."""
        pending = self._loader.under_way(name)
        deadline = time.monotonic() + within_s
        problem = "it did not serve in time"
        while pending and (left_s := deadline - time.monotonic()) > 0:
            done, pending = await asyncio.wait(
                pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            met: list[Loaded] = []
            for task in done:
                if task.cancelled():
                    raise DeposedError("the term is over")
                try:
                    met.append(task.result())
                except LoadError as error:
                    problem = str(error)
            if met:
                return DemandMet([one.instance.endpoint for one in met], met[0].steps_ms)
        trouble = self._world.function(name).troubles.get(active.revision)
        wait_s = 1.0 if trouble is None else max(1.0, trouble.until - time.monotonic())
        return DemandRefused(f"{active.name} cannot be started: {problem}", math.ceil(wait_s))

    def _probe(self, name: FunctionName, function: Function, failed: set[str]) -> None:
        """Find out whether instances whose calls failed still take connections."""
        for instance in failed & set(function.instances):
            if len(self._probes) < PARALLEL:
                task = asyncio.create_task(self._probe_one(name, instance))
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)

    async def _probe_one(self, name: FunctionName, instance: str) -> None:
        known = self._world.function(name).instances.get(instance)
        if known is None or known.state != "serving":
            return
        try:
            async with asyncio.timeout(_PROBE_S):
                _, writer = await asyncio.open_connection(known.endpoint.ip, known.endpoint.port)
            writer.transport.abort()
        except OSError:
            known.state, known.reason = "lost", "it does not take connections any more"
            self.on_function(name)


def _serving(function: Function, active: ActiveFunction, failed: set[str]) -> list[Endpoint]:
    """Return what serves the revision in force, or else any revision."""
    endpoints = [
        one.endpoint
        for instance, one in function.instances.items()
        if one.state == "serving" and instance not in failed
    ]
    current = [endpoint for endpoint in endpoints if endpoint.revision == active.revision]
    return current or endpoints


def _at_most(active: ActiveFunction) -> str:
    most = active.spec.scaling.max_instances
    return f"{active.name} has the {most} instances that it may have at most"


@contextlib.asynccontextmanager
async def listening(bus: Bus, demands: Demands, audience: Audience) -> AsyncIterator[None]:
    """Answer demands and take in activity while inside; the server knows it by then."""
    free = asyncio.Semaphore(PARALLEL)
    answers: set[asyncio.Task[None]] = set()

    def answered(task: asyncio.Task[None]) -> None:
        answers.discard(task)
        free.release()

    async def demand(message: Msg) -> None:
        # The rest waits in the subscription's queue, which is bounded.
        await free.acquire()
        task = asyncio.create_task(_answer(demands, message))
        answers.add(task)
        task.add_done_callback(answered)

    async def activity(message: Msg) -> None:
        try:
            said = _ACTIVITY.decode(message.data)
        except UNREADABLE as error:
            log.warning("ignoring what is no report of a router: %s", error)
            return
        audience.heard(said.router, said.active_sequence, time.monotonic())
        demands.seen(said)

    subscriptions = [
        await bus.nc.subscribe(subjects.DEMAND.wildcard, cb=demand),
        await bus.nc.subscribe(subjects.ACTIVITY.wildcard, cb=activity),
    ]
    try:
        await settle(bus.nc)
        yield
    finally:
        for subscription in subscriptions:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
        if answers:
            _, late = await asyncio.wait(answers, timeout=_END_S)
            for task in late:
                task.cancel()


async def _answer(demands: Demands, message: Msg) -> None:
    try:
        reply = await _reply(demands, message)
    except DeposedError:
        # Without an answer the router asks again, and then it is the next leader's.
        return
    except Exception:
        log.exception("a demand on %s could not be answered", message.subject)
        return
    try:
        await message.respond(msgspec.json.encode(reply))
    except nats.errors.Error as error:
        log.warning("the answer to %s was not sent: %s", message.subject, error)


async def _reply(demands: Demands, message: Msg) -> DemandReply:
    tokens = subjects.DEMAND.parse(message.subject)
    if tokens is None:
        return DemandRefused("this is no function's name", 60.0)
    try:
        request = _REQUEST.decode(message.data)
    except UNREADABLE as error:
        return DemandRefused(f"this is no demand: {error}", 60.0)
    reply = await demands.answer((tokens["namespace"], tokens["function"]), request)
    DEMANDS.labels("met" if isinstance(reply, DemandMet) else "refused").inc()
    return reply
