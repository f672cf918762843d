"""Waiting for an endpoint: in order, bounded, with one demand at a time."""

import asyncio

import pytest

from schemas.control import DemandMet, DemandRefused
from tests.services.router.clients import eventually
from tests.services.router.gate import Gate, MakeGate
from tests.services.router.instances import Call

GET = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"


async def parked(gate: Gate, count: int) -> None:
    await eventually(lambda: len(gate.slots.lot) == count)


async def test_a_cold_function_is_demanded_once_for_all_that_wait_and_its_endpoint_used_at_once(
    gate: Gate,
) -> None:
    waiting = [asyncio.create_task(gate.request("POST", "/f", b"%d" % i)) for i in range(4)]
    await parked(gate, 4)
    instance = await gate.instance(publish=False)
    gate.replies.put_nowait(DemandMet([instance.endpoint], {"load": 3.0}))
    responses = await asyncio.gather(*waiting)
    assert [r.body for r in responses] == [b"0", b"1", b"2", b"3"]
    assert len(gate.demands) == 1
    demand = gate.demands[0]
    assert (demand.reason, demand.router, demand.failed_instances) == ("cold", "router", [])
    # One correlation id, from the request that set it off to the event.
    event = next(e for e in gate.events if e.what == "cold-start")
    assert event.correlation == demand.correlation
    assert event.correlation in [r.headers["x-request-id"] for r in responses]
    assert event.fields["scheduler_ms"] == {"load": 3.0}
    parts = event.fields["parked_ms"] + event.fields["connect_ms"] + event.fields["first_byte_ms"]
    assert event.duration_ms == pytest.approx(parts)
    assert 0 < event.fields["demand_ms"] <= event.fields["parked_ms"]
    assert gate.metrics.cold_starts == 1


async def test_an_endpoint_that_the_stream_tells_first_serves_those_who_wait(gate: Gate) -> None:
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await parked(gate, 1)
    await gate.instance()
    assert (await waiting).status == 200
    assert gate.metrics.cold_starts == 1


async def test_who_waits_longest_is_served_first_and_nobody_overtakes(gate: Gate) -> None:
    gates = [asyncio.Event() for _ in range(7)]
    order: list[int] = []

    async def handler(call: Call) -> None:
        number = int(await call.read_body())
        order.append(number)
        await gates[number].wait()
        await call.answer(b"ok")

    await gate.instance(handler, concurrency=1)
    waiting = []
    for i in range(7):
        waiting.append(asyncio.create_task(gate.request("POST", "/f", b"%d" % i)))
        await parked(gate, i)
    for event in gates:
        event.set()
    assert [r.status for r in await asyncio.gather(*waiting)] == [200] * 7
    assert order == list(range(7))
    assert [d.reason for d in gate.demands] == ["saturated"]
    assert not [e for e in gate.events if e.what == "cold-start"]


async def test_above_the_bounds_a_request_is_503_at_once_and_the_others_wait_on(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(per_function=2, total=3)
    gate.function("f")
    gate.function("g")
    waiting = [asyncio.create_task(gate.request("GET", "/f")) for _ in range(2)]
    await parked(gate, 2)
    refused = await gate.request("GET", "/f")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    waiting.append(asyncio.create_task(gate.request("GET", "/g")))
    await parked(gate, 3)
    assert (await gate.request("GET", "/g")).status == 503
    assert gate.metrics.overflows == 2
    await gate.instance()
    await gate.instance(function="g")
    assert [r.status for r in await asyncio.gather(*waiting)] == [200] * 3


async def test_waiting_ends_in_503_when_nothing_comes_in_time(make_gate: MakeGate) -> None:
    gate = await make_gate(park_s=0.1)
    gate.function()
    response = await gate.request("GET", "/f")
    assert response.status == 503
    assert "retry-after" in response.headers
    assert gate.quiet()


async def test_a_refused_demand_ends_the_waiting_with_its_reason(gate: Gate) -> None:
    gate.replies.put_nowait(DemandRefused("the quota of the namespace is used up", 7.2))
    response = await gate.request("GET", "/f")
    assert (response.status, response.headers["retry-after"]) == (503, "8")
    assert "quota of the namespace" in response.problem["detail"]


async def test_a_refusal_of_more_does_not_turn_away_who_waits_for_a_running_slot(
    gate: Gate,
) -> None:
    go = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.read_body()
        await go.wait()
        await call.answer(b"ok")

    await gate.instance(handler, concurrency=1)
    gate.replies.put_nowait(DemandRefused("as many instances run as may", 60.0))
    waiting = [asyncio.create_task(gate.request("POST", "/f", b"x")) for _ in range(3)]
    await parked(gate, 2)
    await eventually(gate.replies.empty)
    go.set()
    assert [r.status for r in await asyncio.gather(*waiting)] == [200] * 3


async def test_a_client_that_leaves_the_queue_is_not_served(gate: Gate) -> None:
    peer = await gate.client()
    await peer.send(GET)
    await parked(gate, 1)
    peer.close()
    await parked(gate, 0)
    instance = await gate.instance()
    assert (await gate.request("GET", "/f")).status == 200
    assert len(instance.calls) == 1
    assert gate.quiet()


async def test_an_ejected_endpoint_comes_back_by_itself_if_the_fact_still_stands(
    gate: Gate,
) -> None:
    instance = await gate.instance()
    port = instance.endpoint.port
    await instance.stop()
    waiting = asyncio.create_task(gate.request("POST", "/f", b"x"))
    await eventually(lambda: bool(gate.demands))
    assert [d.reason for d in gate.demands] == ["failed"]
    assert gate.demands[0].failed_instances == [instance.endpoint.instance]
    again = await gate.instance(publish=False, port=port)
    assert (await waiting).body == b"x"
    assert len(again.calls) == 1
    assert gate.state.candidates(("default", "f"))[0].failures == 0


async def test_an_endpoint_that_is_withdrawn_or_whose_pod_is_dead_gets_nothing_more(
    gate: Gate,
) -> None:
    instance = await gate.instance(pod="doomed")
    assert (await gate.request("GET", "/f")).status == 200
    assert gate.pool.idle() == 1
    gate.state.kill_pod("doomed")
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await parked(gate, 1)
    gate.put(instance.endpoint)
    gate.replies.put_nowait(DemandMet([instance.endpoint]))
    await eventually(gate.replies.empty)
    other = await gate.instance(pod="living")
    assert (await waiting).status == 200
    assert len(instance.calls) == 1
    gate.state.withdraw(("default", "f"), other.endpoint.instance)
    gate.put(other.endpoint)
    assert gate.state.candidates(("default", "f")) == []


async def test_when_a_function_is_deleted_those_who_wait_for_it_are_told(gate: Gate) -> None:
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await parked(gate, 1)
    gate.state.remove_function(("default", "f"))
    gate.slots.changed([("default", "f")])
    assert (await waiting).status == 503


async def test_a_slot_that_comes_free_as_its_taker_leaves_is_not_lost(gate: Gate) -> None:
    function = ("default", "f")
    acquiring = asyncio.create_task(gate.slots.acquire(function, "id", 5.0))
    await parked(gate, 1)
    await gate.instance(concurrency=1)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    assert gate.quiet()
    assert gate.slots.take(gate.state.fleet(function), 0.0) is not None


async def test_the_active_revision_serves_and_the_old_one_only_until_it_is_there(
    gate: Gate,
) -> None:
    old = await gate.instance(revision=1)
    gate.function(revision=2)
    assert (await gate.request("GET", "/f")).status == 200
    assert len(old.calls) == 1
    new = await gate.instance(revision=2)
    for _ in range(3):
        assert (await gate.request("GET", "/f")).status == 200
    assert (len(old.calls), len(new.calls)) == (1, 3)


async def test_a_newcomer_gets_no_slot_that_others_wait_for(gate: Gate) -> None:
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await parked(gate, 1)
    instance = await gate.instance(publish=False)
    gate.state.put_endpoint(instance.endpoint)
    assert gate.slots.take(gate.state.fleet(("default", "f")), 0.0) is None
    gate.slots.changed([("default", "f")])
    assert (await waiting).status == 200
