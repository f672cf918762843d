"""What becomes of asynchronous calls, with the rights that routers, schedulers and people have."""

import asyncio
import functools
from datetime import UTC, datetime

import pytest

from schemas.events import Event
from schemas.invocations import DeadRequest, Invocation
from schemas.specs import SubscriptionSpec
from services.bus.connection import settle
from services.bus.enqueue import enqueue
from services.bus.pull import open_puller
from services.router.asynchronous import broadcast
from services.router.asynchronous.cancel import Cancellations
from services.router.asynchronous.dead import DeadLetters
from services.router.asynchronous.interruption import Interrupted, Interruptions
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.policy import Dead
from services.router.asynchronous.report import letter_of, result_of
from services.router.asynchronous.room import Room
from services.router.asynchronous.store import Lease, Store
from services.router.asynchronous.subscriptions import Subscriptions
from tests.manifests.servers import Servers
from wasmfn.client import Client
from wasmfn.invocations import Invocations, Place

CALL = Invocation(
    namespace="default", function="f", id="0" * 32, accepted_at=datetime.now(UTC),
    origin="timer", correlation="c", traceparent="t",
)  # fmt: skip


async def test_calls_go_through_the_queue_and_people_decide_about_the_dead(each: Servers) -> None:
    await each.provide()
    now = datetime.now(UTC)
    async with (
        each.user("scheduler") as (scheduler, _),
        each.user("router") as (router, _),
        each.user("people") as (people, _),
    ):
        await enqueue(scheduler, CALL)
        store = Store(router, 0.0)
        await store.provide_consumer("default", "f", Lease(30.0, 4))
        (consumer,) = await router.js.consumers_info("INVOCATIONS")
        assert consumer.num_pending == 1
        async with open_puller(router, "INVOCATIONS", consumer.name) as puller:
            delivered = await puller.next(5.0)
            assert delivered is not None
            await delivered.extend()
            letter = letter_of(CALL, Dead("attempts-spent", "why"), now, ())
            await store.put_dead(letter)
            await store.put_result(result_of(CALL, "dead", now), 60.0)
            assert await delivered.acknowledge()
        letters = DeadLetters(router, store, lambda _: None, lambda _: None)
        async with letters.listening():
            await settle(router.nc)
            seen = Invocations(Client(people))
            (dead,) = await seen.dead("default")
            name = Place("default", "f", dead.id)
            await seen.act(name, DeadRequest(dead.id, "redrive"))
            assert await seen.dead("default") == []
            assert (await seen.get(name)).state == "accepted"
        await router.js.delete_consumer("INVOCATIONS", consumer.name)
        for bus in (scheduler, router, people):
            assert not bus.last_error


async def test_a_router_cancels_and_prunes_with_the_rights_that_it_has(each: Servers) -> None:
    await each.provide()
    now = datetime.now(UTC)
    async with (
        each.user("scheduler") as (scheduler, _),
        each.user("router") as (router, _),
        each.user("people") as (people, _),
    ):
        await enqueue(scheduler, CALL)
        store = Store(router, 0.0)
        cancellations = Cancellations(
            router, store, lambda _: None, AsyncMetrics(), lambda _: None,
            functools.partial(broadcast.tell, router),
        )  # fmt: skip
        letters = DeadLetters(router, store, lambda _: None, lambda _: None)
        async with cancellations.listening(), letters.listening():
            await settle(router.nc)
            seen = Invocations(Client(people))
            name = Place("default", "f", CALL.id)
            assert (await seen.cancel(name)).outcome == "cancelled"
            assert (await seen.get(name)).state == "cancelled"
            assert (await router.js.stream_info("INVOCATIONS")).state.messages == 0
            await store.put_dead(letter_of(CALL, Dead("attempts-spent", "why"), now, ()))
            assert await seen.prune("default", "f", 0.0) == 1
            assert await seen.dead("default") == []
        for bus in (router, people):
            assert not bus.last_error


async def test_routers_tell_each_other_what_to_interrupt_and_nobody_else_may(each: Servers) -> None:
    await each.provide()
    name = ("default", "f", "0" * 32)
    async with each.user("router") as (here, _), each.user("router") as (there, _):
        interruptions = Interruptions()
        async with broadcast.hearing(there, interruptions):
            await settle(there.nc)
            with interruptions.of(name, 2) as interruption:
                never = asyncio.Event()
                attempt = asyncio.create_task(interruption.over(never.wait()))
                await asyncio.sleep(0)
                await broadcast.tell(here, name, 2)
                async with asyncio.timeout(30):
                    with pytest.raises(Interrupted):
                        await attempt
        for bus in (here, there):
            assert not bus.last_error
    for user in ("people", "app", "builder", "scheduler", "podwatch"):
        async with each.user(user) as (bus, _):
            await broadcast.tell(bus, name, 2)
            await bus.nc.flush()
            await bus.nc.flush()
            assert "permissions violation" in bus.last_error.lower()


async def test_a_subscription_that_nats_denies_is_told_of(one: Servers) -> None:
    await one.provide()
    told: asyncio.Queue[Event] = asyncio.Queue()
    wanted = {("default", "s"): SubscriptionSpec(function="f", subject="shop.orders")}
    async with one.user("router") as (router, _):
        metrics = AsyncMetrics()
        subscriptions = Subscriptions(
            router, Store(router, 0.0), Room(router), wanted, metrics, told.put_nowait,
            lambda _: None, lambda: 1024,
        )  # fmt: skip
        running = asyncio.create_task(subscriptions.run())
        async with asyncio.timeout(30):
            event = await told.get()
        running.cancel()
        await asyncio.wait({running})
    assert (event.what, event.name) == ("subscription-denied", "s")
    assert "shop.orders" in event.message
