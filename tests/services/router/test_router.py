"""The router process among real NATS messages: starting, following, losing the bus, ending."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest

from schemas import subjects
from schemas.control import Activity, DemandMet, DemandRequest
from tests.conftest import NatsServer
from tests.services.router.clients import eventually
from tests.services.router.instances import Call, Instance
from tests.services.router.platform import Platform, Router

MIB = 1024 * 1024


async def status_is(router: Router, status: int, path: str = "/f") -> None:
    async def holds() -> bool:
        return (await router.request("GET", path)).status == status

    await eventually(holds)


async def ready_platform(platform: Platform, **fields: Any) -> Instance:
    await platform.function()
    await platform.route()
    return await platform.instance(**fields)


async def test_it_is_ready_with_the_whole_table_and_follows_every_change(
    platform: Platform,
) -> None:
    instance = await ready_platform(platform)
    router = await platform.router()
    assert (await router.request("POST", "/f", b"x")).body == b"x"
    await platform.route("g", function="f", path="/other/{id}")
    await status_is(router, 200, "/other/1")
    await platform.delete(subjects.ACTIVE.subject(kind="route", namespace="default", name="g"))
    await status_is(router, 404, "/other/1")
    await platform.withdraw(instance.endpoint)
    second = await platform.instance()

    async def moved() -> bool:
        return (await router.request("GET", "/f")).status == 200 and bool(second.calls)

    await eventually(moved)
    await platform.delete(subjects.ACTIVE.subject(kind="function", namespace="default", name="f"))
    await status_is(router, 503)


async def test_a_cold_start_goes_over_the_bus_and_is_told_on_the_event_log(
    platform: Platform,
) -> None:
    await platform.function()
    await platform.route()
    asked: list[DemandRequest] = []

    async def schedule(msg: Any) -> bytes:
        asked.append(msgspec.json.decode(msg.data, type=DemandRequest))
        instance = await platform.instance(publish=False)
        return msgspec.json.encode(DemandMet([instance.endpoint], {"load": 1.0}))

    events: asyncio.Queue[Any] = asyncio.Queue()
    await platform.nc.subscribe("wasmfn.events.router.>", cb=events.put)
    router = await platform.router()
    # Nobody answers yet: the demand is repeated until somebody does.
    waiting = asyncio.create_task(router.request("POST", "/f", b"x", {"x-request-id": "cold-1"}))
    await router.until_metric("parked", lambda n: n == 1)
    await platform.scheduler(schedule)
    response = await waiting
    assert (response.status, response.body) == (200, b"x")
    assert [(d.reason, d.parked, d.correlation) for d in asked] == [("cold", 1, "cold-1")]
    async with asyncio.timeout(30):
        event = json.loads((await events.get()).data)
    assert (event["what"], event["name"], event["correlation"]) == ("cold-start", "f", "cold-1")
    assert event["fields"]["scheduler_ms"] == {"load": 1.0}
    assert await router.metric("cold_starts_total") == 1


async def test_when_nats_is_killed_under_traffic_no_warm_request_fails(
    platform: Platform, nats_server: NatsServer
) -> None:
    await ready_platform(platform, concurrency=64)
    router = await platform.router()
    done = asyncio.Event()
    statuses: list[int] = []

    async def traffic() -> None:
        peer = await router.client()
        while not done.is_set():
            await peer.send(b"POST /f HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
            statuses.append((await peer.response()).status)
        peer.close()

    async def served(more: int) -> None:
        goal = len(statuses) + more

        await eventually(lambda: len(statuses) >= goal)

    running = [asyncio.create_task(traffic()) for _ in range(4)]
    await served(100)
    await platform.disconnect()
    await asyncio.to_thread(nats_server.kill)
    await served(300)
    await asyncio.to_thread(nats_server.start)
    await served(300)
    # And changes are followed again.
    await platform.connect()
    await platform.route("new", function="f")
    await status_is(router, 200, "/new")
    done.set()
    await asyncio.gather(*running)
    assert set(statuses) == {200}


async def test_a_nats_that_comes_back_empty_takes_nothing_away(
    platform: Platform, nats_server: NatsServer
) -> None:
    await ready_platform(platform)
    router = await platform.router()
    await platform.disconnect()
    await asyncio.to_thread(nats_server.lose_data)

    await platform.connect()
    await eventually(lambda: router.said("is a new, other stream", times=3), 60)
    assert (await router.request("POST", "/f", b"x")).status == 200
    await platform.route("new", function="f")
    await status_is(router, 200, "/new")


async def test_when_nats_does_not_accept_it_any_more_it_serves_on_and_says_so(
    platform: Platform, nats_server: NatsServer
) -> None:
    await ready_platform(platform)
    router = await platform.router()
    await platform.disconnect()
    nats_server.token = "another"
    await asyncio.to_thread(nats_server.restart)
    await eventually(lambda: router.said("NATS does not accept our credentials"))
    assert (await router.request("POST", "/f", b"x")).status == 200
    router.signal(signal.SIGTERM)
    assert await router.ended() == 0


async def test_a_router_that_was_killed_serves_again_after_its_snapshot(platform: Platform) -> None:
    await ready_platform(platform)
    first = await platform.router()
    assert (await first.request("GET", "/f")).status == 200
    first.signal(signal.SIGKILL)
    await first.ended()
    second = await platform.router(http=f"127.0.0.1:{first.port}")
    assert second.port == first.port
    assert (await second.request("GET", "/f")).status == 200


async def test_a_message_that_cannot_be_read_changes_nothing(platform: Platform) -> None:
    instance = await ready_platform(platform)
    router = await platform.router()
    await platform.js.publish(platform.endpoint_subject(instance.endpoint), b'{"port": "x"}')
    await platform.js.publish(
        subjects.ACTIVE.subject(kind="route", namespace="default", name="f"), b"not json"
    )
    await eventually(lambda: router.said("cannot be read", times=2))
    assert (await router.request("GET", "/f")).status == 200


async def test_no_request_goes_to_a_pod_that_is_told_dead(platform: Platform) -> None:
    doomed = await ready_platform(platform, pod="doomed")
    router = await platform.router()
    assert (await router.request("GET", "/f")).status == 200
    await platform.pod("doomed", "dead")
    other = await platform.instance(pod="living")

    async def moved() -> bool:
        await router.request("GET", "/f")
        return bool(other.calls)

    await eventually(moved)
    count = len(doomed.calls)
    for _ in range(5):
        assert (await router.request("GET", "/f")).status == 200
    assert len(doomed.calls) == count


async def test_activity_is_reported_each_second_while_there_is_any(platform: Platform) -> None:
    go = asyncio.Event()

    async def handler(call: Call) -> None:
        await go.wait()
        await call.answer(b"ok")

    await ready_platform(platform, handler=handler, concurrency=1)
    reports: asyncio.Queue[Any] = asyncio.Queue()
    await platform.nc.subscribe(subjects.ACTIVITY.wildcard, cb=reports.put)
    router = await platform.router()
    waiting = [asyncio.create_task(router.request("GET", "/f")) for _ in range(3)]
    await router.until_metric("parked", lambda n: n == 2)
    assert await router.metric("in_flight") == 1

    async def report() -> Activity:
        async with asyncio.timeout(30):
            return msgspec.json.decode((await reports.get()).data, type=Activity)

    while True:
        told = await report()
        if told.functions and told.functions[0].parked == 2:
            break
    assert told.functions[0].in_flight == 1
    assert told.functions[0].function == "f"
    go.set()
    await asyncio.gather(*waiting)
    while (await report()).functions:
        pass


async def test_a_router_tells_at_once_how_far_it_has_applied_what_is_in_force(
    platform: Platform,
) -> None:
    await ready_platform(platform)
    reports: asyncio.Queue[Any] = asyncio.Queue()
    await platform.nc.subscribe(subjects.ACTIVITY.wildcard, cb=reports.put)
    await platform.router()
    last = await _last_sequence(platform, "ACTIVE")
    async with asyncio.timeout(30):
        while (await _activity(reports)).active_sequence < last:
            pass
    await platform.function("g")
    async with asyncio.timeout(30):
        while (await _activity(reports)).active_sequence <= last:
            pass


async def _activity(reports: "asyncio.Queue[Any]") -> Activity:
    return msgspec.json.decode((await reports.get()).data, type=Activity)


async def _last_sequence(platform: Platform, stream: str) -> int:
    info = await platform.nc.jetstream().stream_info(stream)
    return info.state.last_seq


async def test_on_sigterm_what_is_in_flight_ends_and_nothing_new_begins(platform: Platform) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> None:
        reached.set()
        await go.wait()
        await call.answer(b"complete")

    await ready_platform(platform, handler=handler)
    router = await platform.router()
    idle = await router.client()
    waiting = asyncio.create_task(router.request("GET", "/f"))
    await reached.wait()
    router.signal(signal.SIGTERM)

    async def refused() -> bool:
        try:
            peer = await router.client()
        except OSError:
            return True
        peer.close()
        return False

    await eventually(refused)
    assert await idle.at_end() == b""
    idle.close()
    go.set()
    assert (await waiting).body == b"complete"
    assert await router.ended() == 0


async def test_what_does_not_end_in_time_is_cut_and_the_exit_still_clean(
    platform: Platform,
) -> None:
    async def handler(call: Call) -> None:
        await asyncio.Event().wait()

    await ready_platform(platform, handler=handler)
    router = await platform.router(grace_s="2")
    peer = await router.client()
    await peer.send(b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n")
    await router.until_metric("in_flight", lambda n: n == 1)
    router.signal(signal.SIGTERM)
    assert await peer.at_end() == b""
    peer.close()
    assert await router.ended() == 0


async def test_sixty_four_mebibytes_stream_both_ways_in_little_memory(platform: Platform) -> None:
    size = 64 * MIB

    async def handler(call: Call) -> None:
        left = size
        while left:
            left -= len(await call.peer.reader.read(min(left, 256 * 1024)))
        await call.send(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        for _ in range(64):
            await call.send(b"y" * MIB)

    await platform.function(body_bytes=size)
    await platform.route()
    await platform.instance(handler=handler)
    router = await platform.router()
    peer = await router.client()
    before = router.rss_mib()
    peak = before
    await peer.send(f"POST /f HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode())
    for _ in range(64):
        await peer.send(b"x" * MIB)
        peak = max(peak, router.rss_mib())
    status, _ = await peer.head()
    received = 0
    while received < size:
        data = await peer.reader.read(256 * 1024)
        assert data
        received += len(data)
        if received % MIB < 256 * 1024:
            peak = max(peak, router.rss_mib())
    peer.close()
    assert status == 200
    assert peak - before < 16


@pytest.mark.parametrize(
    ("environ", "code", "sentence"),
    [
        ({"WASMFN_ROUTER_HTTP": "TAKEN"}, 1, "cannot serve at 127.0.0.1"),
        ({"WASMFN_ROUTER_HTTP": "nonsense"}, 1, "no HOST:PORT"),
        ({"WASMFN_ROUTER_TRUSTED_PROXIES": '["10.0.0.1/8"]'}, 1, "WASMFN_ROUTER_TRUSTED_PROXIES"),
        ({"WASMFN_ROUTER_PARK_S": "0"}, 2, "WASMFN_ROUTER_PARK_S"),
        ({"WASMFN_ROUTER_NATS_URL": "nats://127.0.0.1:1", "WASMFN_ROUTER_NATS_WAIT_S": "0.2"}, 1,
         "NATS"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence_and_a_failure(
    environ: dict[str, str], code: int, sentence: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        values = {"WASMFN_ROUTER_HTTP": "127.0.0.1:0"} | environ
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "services.router"],
            env={k: address if v == "TAKEN" else v for k, v in values.items()},
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert ended.returncode == code
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_thousands_of_routes_are_read_at_the_start_and_a_change_is_seen_at_once(
    platform: Platform,
) -> None:
    await ready_platform(platform)
    one = await platform.js.get_last_msg(
        "ACTIVE", subjects.ACTIVE.subject(kind="route", namespace="default", name="f")
    )
    for i in range(2000):
        payload = one.data.replace(b'"/f"', b'"/r%d"' % i).replace(
            b'"name":"f"', b'"name":"r%d"' % i
        )
        await platform.nc.publish(f"wasmfn.active.route.default.r{i}", payload)
    await platform.nc.flush()
    router = await platform.router()
    assert await router.metric("routes") == 2001
    assert (await router.request("GET", "/r1999")).status == 200
    began = time.monotonic()
    await platform.route("late", function="f")
    await status_is(router, 200, "/late")
    assert time.monotonic() - began < 5
