"""The cluster's own NATS configuration on a real server: each user can do its work, and no more."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import nats.aio.msg
import nats.errors
import pytest
from nats.js.api import AckPolicy

from schemas import subjects
from schemas.builds import MODULES_BUCKET, UPLOADS_BUCKET
from schemas.streams import STREAMS
from services.bus import objects
from services.bus.applications import Applications
from services.bus.connection import Bus, settle
from services.bus.errors import BusRefused
from services.bus.follow import follow
from services.bus.permissions import SERVICES, USERS, inbox_prefix, used_by
from services.bus.publish import publish
from services.bus.pull import open_puller
from services.bus.state import Snapshot
from services.bus.streams import BUCKETS, ensure_applications, provide
from tests.manifests.servers import Servers
from tests.manifests.workloads import MANIFESTS

KEEPING = Applications(("app.>",), {"KEPT": ("app.kept.>",)})


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
        await one.provide()
        async with asyncio.timeout(30):
            await waiting


async def test_every_user_can_follow_what_it_reads_and_publish_what_it_writes(
    each: Servers,
) -> None:
    await each.provide()
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
    await one.provide()
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
    await one.provide()
    async with one.user(user) as (bus, _):
        with pytest.raises(nats.errors.TimeoutError):
            await bus.nc.request(subject, b"", timeout=0.5)
        assert "permissions violation" in bus.last_error.lower()


async def test_a_module_goes_from_people_to_the_builder_and_from_it_to_the_scheduler(
    each: Servers,
) -> None:
    await each.provide()
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
    await each.provide()
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


async def test_an_application_asks_the_router_and_nobody_else_hears_the_answer(
    one: Servers,
) -> None:
    await one.provide()
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
    await servers.provide()
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
