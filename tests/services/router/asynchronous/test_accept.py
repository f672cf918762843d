"""Accepting: a 202 is a promise, given only for what is stored, once for each key."""

import asyncio
import json
from typing import Any

import pytest

from schemas import subjects
from schemas.access import ApiKey, ApiKeys, digest_of
from schemas.specs import Retry
from tests.conftest import NatsServer
from tests.services.router.asynchronous.calls import ASYNC, accepted, ended, ready
from tests.services.router.clients import Response, eventually
from tests.services.router.instances import Call
from tests.services.router.platform import Platform


async def test_what_nobody_waits_for_is_run_and_its_answer_is_at_its_location(
    platform: Platform,
) -> None:
    router = await ready(platform)
    response = await router.request("POST", "/f?a=1", b"hello", ASYNC | {"x-mine": "1"})
    assert response.status == 202
    assert response.headers["preference-applied"] == "respond-async"
    location = response.headers["location"]
    assert location.startswith("/.wasmfn/invocations/default/f/")
    done = await ended(router, location)
    assert done["state"] == "done"
    assert [attempt["outcome"] for attempt in done["attempts"]] == ["done"]
    assert done["result"]["body"] == "hello"
    raw = await router.request("GET", location + "/result")
    assert (raw.status, raw.body) == (200, b"hello")
    (call,) = platform.instances[0].calls
    assert call.header["x-mine"] == "1"
    assert "prefer" not in call.header


async def test_a_request_without_the_preference_is_waited_for(platform: Platform) -> None:
    router = await ready(platform)
    assert (await router.request("POST", "/f", b"now")).body == b"now"
    response = await router.request("POST", "/f", b"now", {"prefer": "return=minimal"})
    assert (response.status, response.body) == (200, b"now")


async def test_credentials_are_not_stored(platform: Platform) -> None:
    router = await ready(platform)
    names = ("authorization", "cookie", "x_api_key", "proxy_authorization")
    await ended(router, await accepted(router, **dict.fromkeys(names, "s3cret")))
    (call,) = platform.instances[0].calls
    assert "s3cret" not in str(call.header)


async def test_one_key_is_one_invocation_at_one_location(platform: Platform) -> None:
    router = await ready(platform)
    first = await accepted(router, idempotency_key="order-1")
    await ended(router, first)
    again = await asyncio.gather(*(accepted(router, idempotency_key="order-1") for _ in range(8)))
    assert set(again) == {first}
    assert await accepted(router, idempotency_key="order-2") != first
    await ended(router, first)
    await platform.js.purge_stream("INVOCATIONS")
    assert len(platform.instances[0].calls) <= 2


async def test_keys_of_the_same_moment_are_one_invocation(platform: Platform) -> None:
    router = await ready(platform)
    other = await platform.router()
    locations = await asyncio.gather(
        *(accepted(r, idempotency_key="k") for r in (router, other) for _ in range(10))
    )
    assert len(set(locations)) == 1
    await ended(router, locations[0])
    assert len(platform.instances[0].calls) == 1


async def test_a_key_is_no_other_requests(platform: Platform) -> None:
    router = await ready(platform)
    await accepted(router, b"one", idempotency_key="k")
    response = await router.request("POST", "/f", b"two", ASYNC | {"idempotency-key": "k"})
    assert response.status == 422
    assert "another request" in response.problem["detail"]
    response = await router.request("POST", "/f", b"", ASYNC | {"idempotency-key": "x" * 256})
    assert response.status == 400


async def test_what_cannot_be_stored_is_not_accepted(
    platform: Platform, nats_server: NatsServer
) -> None:
    router = await ready(platform)
    large = await router.request("POST", "/f", b"x" * (600 * 1024), ASYNC)
    assert large.status == 413
    assert "524288" in large.problem["detail"]
    await platform.disconnect()
    nats_server.kill()
    away = await router.request("POST", "/f", b"x", ASYNC)
    assert away.status == 503
    assert "retry-after" in away.headers
    # And what is waited for is served on.
    assert (await router.request("POST", "/f", b"x")).status == 200
    nats_server.start()
    await platform.connect()


async def test_a_full_queue_is_said_and_nothing_in_it_is_pushed_out(platform: Platform) -> None:
    held = asyncio.Event()

    async def wait(call: Call) -> None:
        await call.read_body()
        await held.wait()
        await call.answer()

    router = await ready(platform, wait, concurrency=1)
    config = (await platform.js.stream_info("INVOCATIONS")).config
    await platform.js.update_stream(config.evolve(max_bytes=64 * 1024))
    locations: list[str] = []
    while True:
        response = await router.request("POST", "/f", b"x" * 8000, ASYNC)
        if response.status != 202:
            break
        locations.append(response.headers["location"])
    assert response.status == 503
    assert "the queue is full" in response.problem["detail"]
    assert locations
    held.set()
    for location in locations:
        assert (await ended(router, location))["state"] == "done"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/.wasmfn/", 404),
        ("GET", "/.wasmfn/invocations/default/f/" + "0" * 32, 404),
        ("GET", "/.wasmfn/invocations/default/f/nonsense", 404),
        ("GET", "/.wasmfn/invocations/*/>/" + "0" * 32, 404),
        ("DELETE", "/.wasmfn/invocations/default/f/" + "0" * 32, 404),
        ("DELETE", "/.wasmfn/invocations/*/>/" + "0" * 32, 404),
        ("DELETE", "/.wasmfn/invocations//f/" + "0" * 32, 404),
        ("DELETE", "/.wasmfn/invocations/default/f/" + "0" * 32 + "/result", 405),
        ("PUT", "/.wasmfn/invocations/default/f/" + "0" * 32, 405),
        ("GET", "/.wasmfn/invocations/default/f/" + "0" * 32 + "/other", 404),
    ],
)
async def test_nothing_else_is_at_the_platforms_own_paths(
    platform: Platform, method: str, path: str, status: int
) -> None:
    await platform.function()
    await platform.route(prefix="/")
    router = await platform.router()
    response: Response = await router.request(method, path)
    assert response.status == status
    assert response.problem["status"] == status


async def test_a_result_is_gone_after_its_time(platform: Platform) -> None:
    router = await ready(platform, result_ttl_s=1)
    location = await accepted(router)
    await eventually(lambda: bool(platform.instances[0].calls))

    async def gone() -> bool:
        return (await router.request("GET", location)).status == 404

    await eventually(gone)


async def test_every_step_is_told_with_the_requests_id_and_without_its_content(
    platform: Platform,
) -> None:
    events: list[dict[str, Any]] = []

    async def take(msg: Any) -> None:
        events.append(json.loads(msg.data))

    async def fail_once(call: Call) -> None:
        await call.read_body()
        await call.answer(b"private", "200 OK" if len(call.instance.calls) > 1 else "500 Oh")

    await platform.nc.subscribe(subjects.EVENTS.wildcard, cb=take)
    router = await ready(platform, fail_once, retry=Retry(first_delay_s=0))
    await ended(router, await accepted(router, b"private", x_request_id="request-7"))
    steps = ["invocation-accepted", "attempt-failed", "invocation-done"]

    def seen() -> list[str]:
        return [e["what"] for e in events if e["correlation"] == "request-7"]

    await eventually(lambda: [what for what in seen() if what in steps] == steps)
    assert "private" not in str(events)


async def test_clients_of_a_guarded_route_share_no_idempotency_keys_and_their_secrets_stay_out(
    platform: Platform,
) -> None:
    keys = (ApiKey("ann", digest_of("wfk_a")), ApiKey("bob", digest_of("wfk_b")))
    router = await ready(platform)
    await platform.route("g", "f", authentication=ApiKeys(keys, header="x-shop"))

    async def reached() -> bool:
        return (await router.request("POST", "/g", b"x", ASYNC)).status == 401

    await eventually(reached)
    ann = await accepted(router, path="/g", x_shop="wfk_a", idempotency_key="k")
    bob = await accepted(router, path="/g", x_shop="wfk_b", idempotency_key="k")
    assert ann != bob
    for location in (ann, bob):
        await ended(router, location)
    calls = platform.instances[0].calls
    assert sorted(call.header["x-wasmfn-client"] for call in calls) == ["ann", "bob"]
    assert "wfk_" not in str([call.headers for call in calls])
