"""Messages of NATS become invocations: the subscriptions in force, on every router.

Core NATS hands each message to one of the routers, by a queue group, and keeps
none: one that comes while the queue cannot take it is lost, and that is said.
From JetStream all routers pull over one durable consumer, and a message is
acknowledged when its invocation is stored, under an id made from its place in
the stream: delivered twice, it is one invocation.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js import api
from nats.js import errors as js_errors

from schemas.events import Event, new_event
from schemas.invocations import Invocation, invocation_id
from schemas.names import new_correlation_id
from schemas.specs import SubscriptionSpec
from services.bus.connection import Bus, settle
from services.bus.errors import BusError
from services.bus.pull import ConsumerGone, open_puller
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.outbox import may_reply
from services.router.asynchronous.report import event_of
from services.router.asynchronous.room import Room
from services.router.asynchronous.store import LEASE_S, Store
from services.router.table import Key

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_PULL_S: Final = 10.0
_PAUSE_S: Final = 1.0
_REQUEST_S: Final = 2.0
_END_S: Final = 5.0
"""How long a router that ends stores what it has taken."""
_WAITING: Final = 1000
"""Messages of one core subscription that wait to be stored; more are dropped, and counted."""
SUBJECT_HEADER: Final = "x-subject"
"""Tells a function on which subject its message came."""


class Subscriptions:
    """The subscriptions of this router, kept as those in force are."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        room: Room,
        wanted: dict[Key, SubscriptionSpec],
        metrics: AsyncMetrics,
        emit: Callable[[Event], None],
        stored: Callable[[Key], None],
        body_bytes: Callable[[], int],
    ) -> None:
        self._bus = bus
        self._store = store
        self._room = room
        self._wanted = wanted
        self._metrics = metrics
        self._emit = emit
        self._stored = stored
        self._body_bytes = body_bytes
        self._running: dict[Key, tuple[SubscriptionSpec, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep what runs to what is in force, for ever."""
        try:
            while True:
                for key, (spec, task) in tuple(self._running.items()):
                    wanted = self._wanted.get(key)
                    if task.done() and not task.cancelled() and task.exception() is not None:
                        log.warning(
                            "the subscription %s is made again: %s", key[1], task.exception()
                        )
                    if wanted != spec or task.done():
                        self._end(task)
                        del self._running[key]
                        if wanted is None or wanted.stream != spec.stream:
                            await self._forget(key, spec)
                for key, spec in self._wanted.items():
                    if key not in self._running:
                        serve = self._pull if spec.stream is not None else self._listen
                        task = asyncio.create_task(serve(key, spec), name=f"subscription {key[1]}")
                        self._running[key] = (spec, task)
                await asyncio.sleep(_LOOK_S)
        finally:
            for _, task in self._running.values():
                self._end(task)
            if self._ending:
                await asyncio.wait(tuple(self._ending), timeout=_END_S)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def _listen(self, key: Key, spec: SubscriptionSpec) -> None:
        """Take what core NATS hands to this router."""
        waiting: asyncio.Queue[Msg | None] = asyncio.Queue(_WAITING)

        async def take(msg: Msg) -> None:
            try:
                waiting.put_nowait(msg)
            except asyncio.QueueFull:
                self._lost(key, spec, "too many messages wait")

        async def work() -> None:
            while (msg := await waiting.get()) is not None:
                reply = msg.reply if spec.reply and may_reply(msg.reply) else ""
                headers = dict(msg.headers or {})
                try:
                    await self._enqueue(key, spec, msg.subject, msg.data, headers, None, reply)
                except BusError as error:
                    self._lost(key, spec, str(error))

        await self._bus.wait_connected()
        group = spec.queue or f"wasmfn-{key[0]}-{key[1]}"
        subscription = await self._bus.nc.subscribe(spec.subject, queue=group, cb=take)
        working = asyncio.create_task(work(), name=f"messages of {key[1]}")
        try:
            await settle(self._bus.nc)
            if self._bus.denial(spec.subject):
                self._denied(key, spec)
            await asyncio.shield(working)
        finally:
            # What was taken is ours: it is stored, also when the subscription ends.
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                async with self._bus.bounded(_REQUEST_S):
                    await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py
            if not working.done():
                await waiting.put(None)
            await working

    async def _pull(self, key: Key, spec: SubscriptionSpec) -> None:
        """Take what is in a stream, each message until its invocation is stored."""
        stream = spec.stream or ""
        told = ""
        while True:
            try:
                await self._provide(key, spec, stream)
                told = ""
                async with open_puller(self._bus, stream, _consumer(key)) as puller:
                    while True:
                        msg = await puller.next(_PULL_S)
                        if msg is None:
                            continue
                        # A stream that was made anew counts from one again, but not the time.
                        once = f"{stream} {msg.sequence} {msg.time.timestamp():f}"
                        try:
                            await self._enqueue(
                                key, spec, msg.subject, msg.data, msg.headers, once, ""
                            )
                        except BusError:
                            await msg.put_back(_PAUSE_S)
                            raise
                        await msg.acknowledge()
            except (ConsumerGone, BusError, nats.errors.Error, js_errors.Error) as error:
                missing = isinstance(error, js_errors.NotFoundError)
                why = f"there is no stream {stream}" if missing else str(error)
            except TimeoutError:
                missing, why = False, "NATS does not answer"
            if why != told:
                log.warning("the subscription %s waits: %s", key[1], why)
                if missing:
                    self._waits(key, spec, stream)
                told = why
            await asyncio.sleep(_PAUSE_S)

    async def _provide(self, key: Key, spec: SubscriptionSpec, stream: str) -> None:
        name = _consumer(key)
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subject=spec.subject,
            deliver_policy=api.DeliverPolicy.NEW,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=LEASE_S,
            max_deliver=-1,
        )
        async with self._bus.bounded(_REQUEST_S):
            try:
                found = (await self._bus.js.consumer_info(stream, name)).config
            except js_errors.NotFoundError:
                await self._bus.js.add_consumer(stream, config)
            else:
                if (found.filter_subject, found.ack_wait) != (spec.subject, LEASE_S):
                    await self._bus.js.add_consumer(stream, config)

    async def _forget(self, key: Key, spec: SubscriptionSpec) -> None:
        """End the consumer of a subscription that is gone; another router may have done it."""
        if spec.stream is None:
            return
        with contextlib.suppress(nats.errors.Error, js_errors.Error, TimeoutError):
            async with self._bus.bounded(_REQUEST_S):
                await self._bus.js.delete_consumer(spec.stream, _consumer(key))

    async def _enqueue(
        self,
        key: Key,
        spec: SubscriptionSpec,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        once: str | None,
        reply: str,
    ) -> None:
        """Store the invocation of one message.

        Raises:
            BusError: it is not stored.
        """
        namespace, name = key
        if len(data) > self._body_bytes():
            self._lost(key, spec, f"a message of {len(data)} bytes is too large to be stored")
            return
        correlation = new_correlation_id()
        content_type = headers.get("content-type") or "application/octet-stream"
        invocation = Invocation(
            namespace=namespace,
            function=spec.function,
            id=correlation
            if once is None
            else invocation_id(namespace, spec.function, "subscription", f"{name} {once}"),
            accepted_at=datetime.now(UTC),
            origin="subscription",
            origin_name=name,
            correlation=correlation,
            traceparent=f"00-{correlation}-{correlation[:16]}-01",
            headers=(("content-type", content_type), (SUBJECT_HEADER, subject)),
            body=data,
            repeatable=once is not None,
            reply=reply,
        )
        self._room.claim(f"the call of {spec.function}")
        await self._store.enqueue(invocation)
        self._metrics.accepted(invocation)
        self._stored((namespace, spec.function))
        said = f"accepted by the subscription {name}"
        self._emit(event_of(invocation, "invocation-accepted", said))

    def _denied(self, key: Key, spec: SubscriptionSpec) -> None:
        self._emit(
            new_event(
                "router", key[0], "subscription", key[1], "subscription-denied",
                f"NATS does not permit {spec.subject} to this router, so {spec.function} hears"
                " nothing of it; give the subject to applications: docs/k3s.md tells how",
                level="error", subject=spec.subject,
            )
        )  # fmt: skip

    def _waits(self, key: Key, spec: SubscriptionSpec, stream: str) -> None:
        self._emit(
            new_event(
                "router", key[0], "subscription", key[1], "subscription-waits",
                f"there is no stream {stream} in NATS, so {spec.function} hears nothing of"
                f" {spec.subject}; make the stream, or let the subscription name another one",
                level="warning", stream=stream,
            )
        )  # fmt: skip

    def _lost(self, key: Key, spec: SubscriptionSpec, why: str) -> None:
        self._metrics.refused(503)
        self._emit(
            new_event(
                "router", key[0], "subscription", key[1], "message-lost",
                f"a message on {spec.subject} did not reach {spec.function}: {why}", level="error",
            )
        )  # fmt: skip


def _consumer(key: Key) -> str:
    return f"wasmfn_{key[0]}_{key[1]}"
