"""The cluster's own NATS configuration on a real server: each user can do its work, and no more."""

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import nats.aio.msg
import nats.errors
import pytest
from nats.js.api import AckPolicy

from schemas import subjects
from schemas.builds import MODULES_BUCKET, UPLOADS_BUCKET
from schemas.events import Event
from schemas.invocations import DeadRequest, Invocation
from schemas.specs import SubscriptionSpec
from schemas.streams import STREAMS
from services.bus import objects
from services.bus.applications import Applications
from services.bus.connection import Bus, settle
from services.bus.enqueue import enqueue
from services.bus.errors import BusRefused
from services.bus.follow import follow
from services.bus.permissions import SERVICES, USERS, inbox_prefix, used_by
from services.bus.publish import publish
from services.bus.pull import open_puller
from services.bus.state import Snapshot
from services.bus.streams import BUCKETS, ensure_applications, provide
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
from tests.manifests.workloads import MANIFESTS
from wasmfn.client import Client
from wasmfn.invocations import Invocations, Place

KEEPING = Applications(("app.>",), {"KEPT": ("app.kept.>",)})


@pytest.fixture
def one(tmp_path: Path, free_port_pairs: list[tuple[int, int]]) -> Iterator[Servers]:
    servers = Servers(tmp_path, free_port_pairs[:1])
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(params=["passwords", "nkeys"])
def each(
    tmp_path: Path, free_port_pairs: list[tuple[int, int]], request: pytest.FixtureRequest
) -> Iterator[Servers]:
    """A server that knows its users by password, and one that knows them by nkey."""
    servers = Servers(tmp_path, free_port_pairs[:1], by_nkey=request.param == "nkeys")
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
def one_with_a_stream(tmp_path: Path, free_port_pairs: list[tuple[int, int]]) -> Iterator[Servers]:
    servers = Servers(tmp_path, free_port_pairs[:1], KEEPING)
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
def three(tmp_path: Path, free_port_pairs: list[tuple[int, int]]) -> Iterator[Servers]:
    servers = Servers(tmp_path, free_port_pairs)
    servers.start()
    yield servers
    servers.stop()


async def _made(servers: Servers) -> None:
    async with servers.user("scheduler") as (bus, settings):
        await provide(bus, settings, used_by("scheduler"))


async def _first(bus: Bus, stream: str) -> Snapshot:
    async with asyncio.timeout(10):
        async for update in follow(bus, stream):
            assert isinstance(update, Snapshot)
            return update
    raise AssertionError


@pytest.mark.parametrize("user", [u for u in SERVICES if u != "scheduler"])
async def test_a_service_waits_until_the_scheduler_has_made_its_streams(
    one: Servers, user: str
) -> None:
    async with one.user(user) as (bus, settings):
        waiting = asyncio.create_task(provide(bus, settings, used_by(user)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        await _made(one)
        async with asyncio.timeout(30):
            await waiting


async def test_every_user_can_follow_what_it_reads_and_publish_what_it_writes(
    each: Servers,
) -> None:
    await _made(each)
    for user in USERS:
        async with each.user(user) as (bus, _):
            for stream in STREAMS:
                tokens = dict.fromkeys(stream.template.tokens, "x")
                if "service" in tokens:
                    tokens["service"] = user
                subject = stream.template.subject(**tokens)
                writer = "people" if stream.writer == "anyone" else stream.writer
                if writer == user or (writer == "each service its own" and user in SERVICES):
                    assert await publish(bus, subject, b"{}", expected=0) > 0
                if user in stream.readers and stream.retention == "limits":
                    await _first(bus, stream.name)
            assert not bus.last_error


@pytest.mark.parametrize("user", USERS)
async def test_nobody_can_write_what_another_one_writes(one: Servers, user: str) -> None:
    await _made(one)
    async with one.user(user) as (bus, _):
        for stream in STREAMS:
            writer = "people" if stream.writer == "anyone" else stream.writer
            tokens = dict.fromkeys(stream.template.tokens, "x")
            if user in (writer, *stream.producers):
                continue
            if writer == "each service its own":
                tokens["service"] = next(s for s in SERVICES if s != user)
            with pytest.raises(BusRefused):
                await publish(bus, stream.template.subject(**tokens), b"{}", deadline_s=3)


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("router", "$JS.API.STREAM.DELETE.SPECS"),
        ("router", "$JS.API.STREAM.UPDATE.ACTIVE"),
        ("router", "$JS.API.STREAM.PURGE.ENDPOINTS"),
        ("router", "$JS.API.CONSUMER.CREATE.EVENTS"),
        ("podwatch", "$JS.API.STREAM.MSG.GET.ENDPOINTS"),
        ("people", "$JS.API.CONSUMER.CREATE.ENDPOINTS"),
        ("people", "$JS.API.STREAM.DELETE.SPECS"),
        ("builder", "$JS.API.STREAM.MSG.GET.ENDPOINTS"),
        ("builder", "$JS.API.STREAM.PURGE.SPECS"),
        ("people", "$JS.API.STREAM.MSG.DELETE.DEAD"),
        ("people", "app.x"),
        ("router", "$JS.API.STREAM.MSG.DELETE.RESULTS"),
        ("router", "shop.x"),
        ("router", "_INBOX.x"),
        ("router", "_INBOX_scheduler.x"),
        ("router", "$JS.API.CONSUMER.CREATE.OTHER.c.app.x"),
        ("router", "$JS.API.STREAM.CREATE.KEPT"),
        ("app", "shop.x"),
        ("app", "wasmfn.cancel.default.f"),
        ("app", "_INBOX_router.x"),
        ("app", "$JS.API.STREAM.CREATE.KEPT"),
        ("app", "$JS.API.STREAM.INFO.KEPT"),
        ("app", "$JS.API.CONSUMER.CREATE.KEPT.c.app.kept.x"),
        ("app", "$JS.API.STREAM.MSG.GET.ENDPOINTS"),
        ("builder", "app.x"),
        ("scheduler", "$JS.API.STREAM.DELETE.KEPT"),
        ("scheduler", "$JS.API.STREAM.DELETE.SPECS"),
        ("scheduler", "$JS.API.STREAM.PURGE.OBJ_modules"),
    ],
)
async def test_what_a_user_does_not_need_it_is_denied(
    one: Servers, user: str, subject: str
) -> None:
    await _made(one)
    async with one.user(user) as (bus, _):
        with pytest.raises(nats.errors.TimeoutError):
            await bus.nc.request(subject, b"", timeout=0.5)
        assert "permissions violation" in bus.last_error.lower()


async def test_a_module_goes_from_people_to_the_builder_and_from_it_to_the_scheduler(
    each: Servers,
) -> None:
    await _made(each)
    upload, artifact = b"u" * 300_000, b"a" * 300_000
    async with each.user("people") as (bus, _):
        await objects.write(bus, UPLOADS_BUCKET, "u", upload)
        await objects.write(bus, UPLOADS_BUCKET, "u", upload)
    async with each.user("builder") as (bus, _):
        assert await objects.read(bus, UPLOADS_BUCKET, "u", 1 << 20) == upload
        await objects.write(bus, MODULES_BUCKET, "m", artifact)
        await objects.write(bus, MODULES_BUCKET, "m", artifact)
    async with each.user("scheduler") as (bus, _):
        assert await objects.read(bus, MODULES_BUCKET, "m", 1 << 20) == artifact
        # As its cache of artifacts does.
        bucket = await bus.js.object_store(MODULES_BUCKET)
        assert (await bucket.get("m")).data == artifact
        with pytest.raises(nats.errors.TimeoutError):
            await bus.nc.request(f"$O.{MODULES_BUCKET}.M.x", b"", timeout=0.5)


async def test_a_request_is_answered_and_nobody_else_sees_the_answer(each: Servers) -> None:
    await _made(each)
    async with (
        each.user("scheduler") as (scheduler, _),
        each.user("router") as (router, _),
        each.user("podwatch") as (other, _),
    ):
        seen = []

        async def listen() -> None:
            sub = await other.nc.subscribe(f"{inbox_prefix('router')}.>")
            seen.append(await sub.next_msg(timeout=1))

        listening = asyncio.create_task(listen())
        subject = subjects.DEMAND.subject(namespace="default", function="f")

        async def answer(msg: nats.aio.msg.Msg) -> None:
            await msg.respond(b"here")

        await scheduler.nc.subscribe(subjects.DEMAND.wildcard, cb=answer)
        await settle(scheduler.nc)
        assert (await router.nc.request(subject, b"{}", timeout=2)).data == b"here"
        with pytest.raises(nats.errors.TimeoutError):
            await listening
        assert not seen


async def test_with_three_servers_every_stream_is_on_each(three: Servers) -> None:
    async with three.user("scheduler", replicas=3) as (bus, settings):
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(Exception):
                    await provide(bus, settings, used_by("scheduler"))
                    break
        for name in [s.name for s in STREAMS] + [f"OBJ_{b.name}" for b in BUCKETS]:
            assert (await bus.js.stream_info(name)).config.num_replicas == 3


def test_what_streams_may_grow_to_fits_into_the_store_and_the_store_into_the_volume() -> None:
    reserved = sum(s.max_bytes for s in (*STREAMS, *BUCKETS))
    config = (MANIFESTS / "base" / "nats" / "nats.conf").read_text()
    assert "max_file_store: 9GB" in config
    assert reserved < 9 << 30 < 10 << 30
    assert "storage: 10Gi" in (MANIFESTS / "base" / "nats" / "statefulset.yaml").read_text()


async def test_calls_go_through_the_queue_and_people_decide_about_the_dead(each: Servers) -> None:
    await _made(each)
    now = datetime.now(UTC)
    call = Invocation(
        namespace="default", function="f", id="0" * 32, accepted_at=now,
        origin="timer", correlation="c", traceparent="t",
    )  # fmt: skip
    async with (
        each.user("scheduler") as (scheduler, _),
        each.user("router") as (router, _),
        each.user("people") as (people, _),
    ):
        await enqueue(scheduler, call)
        store = Store(router)
        await store.provide_consumer("default", "f", Lease(30.0, 4))
        (consumer,) = await router.js.consumers_info("INVOCATIONS")
        assert consumer.num_pending == 1
        async with open_puller(router, "INVOCATIONS", consumer.name) as puller:
            delivered = await puller.next(5.0)
            assert delivered is not None
            await delivered.extend()
            letter = letter_of(call, Dead("attempts-spent", "why"), now, ())
            await store.put_dead(letter)
            await store.put_result(result_of(call, "dead", now), 60.0)
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


async def test_an_application_asks_the_router_and_nobody_else_hears_the_answer(
    one: Servers,
) -> None:
    await _made(one)
    async with one.user("app") as (app, _), one.user("router") as (router, _):

        async def answer(msg: nats.aio.msg.Msg) -> None:
            # Much later, and from a connection that the question did not come to.
            async with one.user("router") as (other, _):
                for _ in range(2):
                    await other.nc.publish(msg.reply, b"here")

        await router.nc.subscribe("app.ask.*", queue="q", cb=answer)
        await settle(router.nc)
        assert (await app.nc.request("app.ask.me", b"", timeout=5)).data == b"here"
        for bus in (app, router):
            assert not bus.last_error


async def test_what_an_application_publishes_is_kept_and_pulled_by_the_routers_alone(
    one_with_a_stream: Servers,
) -> None:
    servers = one_with_a_stream
    await _made(servers)
    async with (
        servers.user("scheduler") as (scheduler, _),
        servers.user("router") as (router, _),
        servers.user("app") as (app, _),
    ):
        await ensure_applications(scheduler.js, KEEPING)
        await ensure_applications(scheduler.js, KEEPING)
        await router.js.add_consumer(
            "KEPT", durable_name="c", name="c", filter_subject="app.kept.*",
            ack_policy=AckPolicy.EXPLICIT,
        )  # fmt: skip
        assert (await app.js.publish("app.kept.x", b"1")).stream == "KEPT"
        async with open_puller(router, "KEPT", "c") as puller:
            delivered = await puller.next(5.0)
            assert delivered is not None
            assert await delivered.acknowledge()
        assert (await router.js.consumer_info("KEPT", "c")).num_pending == 0
        await router.js.delete_consumer("KEPT", "c")
        for bus in (scheduler, router, app):
            assert not bus.last_error
        with pytest.raises(nats.errors.TimeoutError):
            await app.nc.request("$JS.API.CONSUMER.CREATE.KEPT.d.app.kept.x", b"{}", timeout=0.5)
        with pytest.raises(nats.errors.TimeoutError):
            await app.nc.request("$JS.API.STREAM.UPDATE.KEPT", b"{}", timeout=0.5)


async def test_a_router_cancels_and_prunes_with_the_rights_that_it_has(each: Servers) -> None:
    await _made(each)
    now = datetime.now(UTC)
    call = Invocation(
        namespace="default", function="f", id="0" * 32, accepted_at=now,
        origin="timer", correlation="c", traceparent="t",
    )  # fmt: skip
    async with (
        each.user("scheduler") as (scheduler, _),
        each.user("router") as (router, _),
        each.user("people") as (people, _),
    ):
        await enqueue(scheduler, call)
        store = Store(router)
        cancellations = Cancellations(
            router, store, lambda _: None, AsyncMetrics(), lambda _: None,
            functools.partial(broadcast.tell, router),
        )  # fmt: skip
        letters = DeadLetters(router, store, lambda _: None, lambda _: None)
        async with cancellations.listening(), letters.listening():
            await settle(router.nc)
            seen = Invocations(Client(people))
            name = Place("default", "f", call.id)
            assert (await seen.cancel(name)).outcome == "cancelled"
            assert (await seen.get(name)).state == "cancelled"
            assert (await router.js.stream_info("INVOCATIONS")).state.messages == 0
            await store.put_dead(letter_of(call, Dead("attempts-spent", "why"), now, ()))
            assert await seen.prune("default", "f", 0.0) == 1
            assert await seen.dead("default") == []
        for bus in (router, people):
            assert not bus.last_error


async def test_routers_tell_each_other_what_to_interrupt_and_nobody_else_may(each: Servers) -> None:
    await _made(each)
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
    await _made(one)
    told: asyncio.Queue[Event] = asyncio.Queue()
    wanted = {("default", "s"): SubscriptionSpec(function="f", subject="shop.orders")}
    async with one.user("router") as (router, _):
        metrics = AsyncMetrics()
        subscriptions = Subscriptions(
            router, Store(router), Room(router), wanted, metrics, told.put_nowait,
            lambda _: None, lambda: 1024,
        )  # fmt: skip
        running = asyncio.create_task(subscriptions.run())
        async with asyncio.timeout(30):
            event = await told.get()
        running.cancel()
        await asyncio.wait({running})
    assert (event.what, event.name) == ("subscription-denied", "s")
    assert "shop.orders" in event.message
