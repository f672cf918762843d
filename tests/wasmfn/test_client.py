"""wasmfn.client against a real nats-server; the services' messages are published as they would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from schemas import subjects
from schemas.events import LogLine, new_event
from schemas.names import sha256_hex
from schemas.specs import EnvironmentSpec, FunctionSpec, Limits, Module, RouteSpec
from schemas.status import NO_SPEC, Phase, Status
from services.bus.streams import ensure_buckets, ensure_streams
from wasmfn.client import Client, Key, connect
from wasmfn.discovery import Platform
from wasmfn.errors import (
    ConflictError,
    DeadlineError,
    MissingError,
    RejectedError,
    UnreachableError,
)

SORT = Key("function", "default", "sort")
SPEC = FunctionSpec(module=Module("ab" * 32, "sort.wasm"))


@pytest.fixture
async def client(nats_server: Any) -> AsyncIterator[Client]:
    async with connect(Platform(nats_url=nats_server.url)) as client:
        await ensure_streams(client.bus.js)
        await ensure_buckets(client.bus.js)
        yield client


async def tell(
    client: Client, key: Key, revision: int, phase: Phase, active: int | None = None
) -> None:
    """Publish a status as the scheduler does."""
    status = Status(
        kind=key.kind,
        namespace=key.namespace,
        name=key.name,
        phase=phase,
        observed_revision=revision,
        active_revision=active,
        message=f"it is {phase}",
        time=datetime.now(UTC),
    )
    subject = subjects.STATUS.subject(kind=key.kind, namespace=key.namespace, name=key.name)
    await client.bus.js.publish(subject, msgspec.json.encode(status))


async def test_a_module_is_stored_under_its_digest_and_only_once(client: Client) -> None:
    data = bytes(range(256)) * 9000
    module = await client.put_module(data, "big.wasm")
    assert module == Module(sha256_hex(data), "big.wasm")
    before = (await client.bus.js.stream_info("OBJ_uploads")).state.last_seq
    await client.put_module(data, "other.wasm")
    assert (await client.bus.js.stream_info("OBJ_uploads")).state.last_seq == before
    assert await client.get_module(module.sha256) == data
    with pytest.raises(MissingError, match="is not in the store"):
        await client.get_module("00" * 32)


async def test_what_no_builder_takes_is_not_uploaded(client: Client) -> None:
    with pytest.raises(RejectedError, match="at most 64 MiB are taken"):
        await client.put_module(bytes(65 << 20), "huge.wasm")
    assert (await client.bus.js.stream_info("OBJ_uploads")).state.messages == 0


async def test_what_is_published_is_read_back_with_its_revision(client: Client) -> None:
    revision = await client.publish(SORT, SPEC)
    found = await client.get(SORT)
    assert (found.revision, found.spec, found.phase) == (revision, SPEC, "pending")
    assert [thing.key for thing in await client.objects("function", "default")] == [SORT]
    assert await client.objects("function", "other") == []
    assert await client.objects("route") == []


async def test_a_status_counts_only_for_the_revision_it_observed(client: Client) -> None:
    first = await client.publish(SORT, SPEC)
    await tell(client, SORT, first, "active", first)
    assert (await client.get(SORT)).phase == "active"
    await client.publish(SORT, FunctionSpec(module=SPEC.module, limits=Limits(timeout_s=1)))
    found = await client.get(SORT)
    assert (found.phase, found.active_revision) == ("pending", first)


async def test_a_spec_that_cannot_be_read_is_listed_with_its_problem(client: Client) -> None:
    await client.bus.js.publish("wasmfn.specs.function.default.odd", b'{"modul": 1}')
    (odd,) = await client.objects()
    assert odd.spec is None
    assert "modul" in odd.message


@pytest.mark.parametrize("place", ["default.Odd_Name", "Odd.sort"])
async def test_a_spec_of_a_name_that_is_none_is_listed_without_what_could_be_exported(
    client: Client, place: str
) -> None:
    payload = msgspec.json.encode(SPEC)
    await client.bus.js.publish(f"wasmfn.specs.function.{place}", payload)
    (odd,) = await client.objects()
    assert odd.spec is None
    assert "cannot be a name" in odd.problem


async def test_a_change_by_somebody_else_is_not_overwritten(client: Client) -> None:
    first = await client.publish(SORT, SPEC, expected=0)
    await client.publish(SORT, SPEC)
    with pytest.raises(ConflictError, match="same time"):
        await client.publish(SORT, SPEC, expected=first)
    with pytest.raises(ConflictError):
        await client.publish(SORT, SPEC, expected=0)


async def test_a_deleted_object_is_gone_with_all_revisions(client: Client) -> None:
    for _ in range(3):
        await client.publish(SORT, SPEC)
    await client.delete(SORT)
    assert await client.find(SORT) is None
    with pytest.raises(MissingError, match="wasmfn fn list -n default"):
        await client.get(SORT)
    with pytest.raises(MissingError):
        await client.delete(SORT)
    assert await client.publish(SORT, SPEC) > 4


async def test_what_is_in_force_without_a_spec_is_listed_and_can_be_deleted_and_created(
    client: Client,
) -> None:
    await tell(client, SORT, NO_SPEC, "waiting", active=0)
    [listed] = await client.objects("function")
    assert (listed.key, listed.published, listed.phase) == (SORT, False, "waiting")
    assert listed.in_force == "lost"
    assert (await client.get(SORT)).problem == "it is waiting"
    assert await client.find(SORT) is None, "it is free to be created"
    await client.delete(SORT)
    # It stays until a leader has seen it: that there is no spec tells nothing.
    last = await client.bus.js.get_last_msg("SPECS", "wasmfn.specs.function.default.sort")
    assert not last.data
    assert "Nats-TTL" not in (last.headers or {})
    await client.publish(SORT, SPEC)
    [listed] = await client.objects("function")
    assert (listed.published, listed.phase) == (True, "pending")


async def test_an_environment_in_use_is_not_deleted(client: Client) -> None:
    environment = Key("environment", "default", "shared")
    await client.publish(environment, EnvironmentSpec(image="x:1"))
    await client.publish(SORT, FunctionSpec(environment="shared"))
    await client.publish(Key("function", "other", "f"), FunctionSpec(environment="shared"))
    with pytest.raises(ConflictError, match="used by sort; delete or change that function first"):
        await client.delete(environment)
    await client.delete(SORT)
    await client.delete(environment)


async def test_waiting_ends_with_the_status_of_each_revision(client: Client) -> None:
    route = Key("route", "default", "sort")
    revisions = {
        SORT: await client.publish(SORT, SPEC),
        route: await client.publish(route, RouteSpec(function="sort", path="/sort")),
    }
    phases: list[str] = []
    waiting = asyncio.create_task(
        client.wait(revisions, 10, lambda status: phases.append(f"{status.kind} {status.phase}"))
    )
    await tell(client, SORT, revisions[SORT] - 1, "active")
    await tell(client, SORT, revisions[SORT], "building")
    await tell(client, route, revisions[route], "active", revisions[route])
    await tell(client, SORT, revisions[SORT], "active", revisions[SORT])
    statuses = await waiting
    assert {key: status.phase for key, status in statuses.items()} == {
        SORT: "active",
        route: "active",
    }
    assert phases[-1] == "function active"
    assert set(phases) <= {"function building", "route active", "function active"}


async def test_the_status_of_an_older_revision_ends_no_wait(client: Client) -> None:
    first = await client.publish(SORT, SPEC)
    await tell(client, SORT, first, "active", first)
    second = await client.publish(SORT, SPEC)
    with pytest.raises(DeadlineError, match="nobody has looked at"):
        await client.wait({SORT: second}, 0.3)
    await tell(client, SORT, second, "active", second)
    assert (await client.wait({SORT: second}, 10))[SORT].observed_revision == second


async def test_a_withdrawn_object_is_gone_unless_it_was_published_again(client: Client) -> None:
    revision = await client.publish(SORT, SPEC)
    await client.withdraw({SORT: revision - 1})
    assert await client.find(SORT) is not None
    await client.withdraw({SORT: revision})
    assert await client.find(SORT) is None


async def test_a_rejected_revision_is_an_error_that_says_why_and_what_stays(
    client: Client,
) -> None:
    first = await client.publish(SORT, SPEC)
    second = await client.publish(SORT, SPEC)
    await tell(client, SORT, second, "rejected", first)
    with pytest.raises(RejectedError, match=f"it is rejected .revision {first} stays in force"):
        await client.wait_active({SORT: second}, 10)


async def test_waiting_past_the_deadline_says_how_far_it_is(client: Client) -> None:
    revision = await client.publish(SORT, SPEC)
    with pytest.raises(DeadlineError, match=r"nobody has looked at function default/sort"):
        await client.wait({SORT: revision}, 0.1)
    await tell(client, SORT, revision, "building")
    with pytest.raises(DeadlineError, match=r"still building after 0.5 s: it is building"):
        await client.wait({SORT: revision}, 0.5)


async def test_events_are_replayed_since_a_time_and_then_followed(client: Client) -> None:
    begin = datetime.now(UTC)

    async def emit(name: str) -> None:
        event = new_event("router", "default", "function", name, "cold-start", "served")
        subject = f"wasmfn.events.router.default.function.{name}.cold-start"
        await client.bus.js.publish(subject, msgspec.json.encode(event))

    for name in ("a", "b"):
        await emit(name)
    assert [event.name async for event in client.events(begin)] == ["a", "b"]
    assert [event.name async for event in client.events(begin + timedelta(hours=1))] == []
    names = []
    async for event in client.events(begin, follow=True):
        names.append(event.name)
        if len(names) == 2:
            await emit("c")
        if len(names) == 3:
            break
    assert names == ["a", "b", "c"]


async def test_following_goes_on_after_the_server_was_restarted(
    client: Client, nats_server: Any
) -> None:
    begin = datetime.now(UTC)

    async def say(text: str) -> None:
        line = LogLine(datetime.now(UTC), "default", "sort", "i", "stderr", text)
        payload = msgspec.json.encode(line)
        await client.bus.js.publish("wasmfn.logs.default.sort", payload, timeout=10)

    texts = []
    await say("before")
    async with asyncio.timeout(30):
        async for line in client.logs("default", "sort", begin, follow=True):
            texts.append(line.text)
            if texts == ["before"]:
                await asyncio.to_thread(nats_server.restart)
                await client.bus.wait_connected()
                await say("after")
            if len(texts) == 2:
                break
    assert texts == ["before", "after"]


async def test_a_token_lets_in_and_is_never_shown(make_nats_server: Callable[..., Any]) -> None:
    server = make_nats_server(token="s3cret-token")
    async with connect(Platform(nats_url=server.url, token="s3cret-token")) as client:
        assert "s3cret" not in client.bus.url
    for token in (None, "wr0ng-token"):
        with pytest.raises(UnreachableError, match="does not let us in") as caught:
            async with connect(Platform(nats_url=server.url, token=token), wait_s=0.5):
                pass
        assert "wr0ng" not in str(caught.value)
        assert "WASMFN_NATS_TOKEN_FILE" in str(caught.value)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "nats://[", "http://127.0.0.1:1", "a b"])
async def test_a_nats_that_is_not_there_is_one_sentence(url: str) -> None:
    with pytest.raises(UnreachableError):
        async with connect(Platform(nats_url=url), wait_s=0.3):
            pass


async def test_a_nats_without_a_platform_says_so(nats_server: Any) -> None:
    async with connect(Platform(nats_url=nats_server.url)) as client:
        with pytest.raises(UnreachableError, match="no platform on this NATS"):
            await client.objects()
        with pytest.raises(UnreachableError):
            await client.put_module(b"x", "x.wasm")
