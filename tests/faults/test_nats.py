"""The bus goes away, for a moment and for long, and comes back with its data or without."""

import asyncio

import pytest

from schemas.status import NO_SPEC
from tests.conftest import NatsServer
from tests.faults.rig import FUNCTION, LONG, SPEC, Rig
from wasmfn.client import Client, Key


@pytest.mark.parametrize("away_s", [1.0, 30.0 if LONG else 4.0])
async def test_warm_functions_do_not_notice_that_nats_is_away(
    rig: Rig, nats_server: NatsServer, away_s: float
) -> None:
    async with rig.load().running() as load:
        await load.answered(25)
        nats_server.kill()
        # The length of the outage is the fault itself.
        await asyncio.sleep(away_s)
        await load.answered(25)
        nats_server.start()
        back = rig.clock()
        revision = await rig.apply("route", "after", {"function": "after", "path": "/after"})
        await rig.status("after", "active", revision, kind="route")
        rig.note(f"a route is in force {rig.clock() - back:.2f} s after NATS is back")
        await rig.deploy("after", "hello")
        rig.note(f"a function is in force {rig.clock() - back:.2f} s after NATS is back")
        await load.answered(25)
    assert load.failed() == []


async def test_a_nats_that_stutters_as_on_a_slow_disk_costs_time_and_nothing_else(
    rig: Rig, nats_server: NatsServer
) -> None:
    terms = len(rig.events("leader-elected"))
    async with rig.load().running() as load:
        for _ in range(50 if LONG else 8):
            with nats_server.frozen():
                await load.answered(25)
            await load.answered(5)
        await rig.deploy("after", "hello")
        await load.answered(25)
    assert load.failed() == []
    assert len(rig.events("leader-elected")) == terms


async def test_a_nats_that_lost_its_data_ends_nothing_that_serves(
    rig: Rig, nats_server: NatsServer
) -> None:
    before = rig.running_keepers()
    async with rig.load().running() as load:
        await load.answered(25)
        nats_server.lose_data()
        told = await rig.until(lambda: rig.events("data-lost"))
        assert "wasmfn apply" in told[0].message
        # The queue was lost with the rest; what is accepted from now on is not.
        load.accepted.clear()
        # Who starts now knows it from the new streams alone, whoever leads.
        everyone = load.routers
        load.routers = [router for router in everyone if router.name == "router-b"]
        await rig.stop("router-a")
        await rig.run("router-a")
        load.routers = everyone
        rig.kill(await rig.leader())
        terms = len(rig.events("leader-elected"))
        await rig.until(lambda: len(rig.events("leader-elected")) > terms)
        await load.answered(100)
        for kind in ("function", "route"):
            status = await rig.status(FUNCTION, "waiting", 0, kind=kind)
            assert "publish" in status.message
        # What was published before is gone; it is published again, as `wasmfn apply` does.
        await rig.deploy(FUNCTION, **SPEC)
        await rig.apply("route", FUNCTION, {"function": FUNCTION, "path": f"/{FUNCTION}"})
        await load.answered(100)
    assert load.failed() == []
    assert rig.running_keepers() == before


async def test_what_waits_for_its_spec_can_be_deleted_even_while_nobody_leads(
    rig: Rig, nats_server: NatsServer
) -> None:
    keys = [Key("function", "default", "now"), Key("function", "default", "later")]
    for key in keys:
        await rig.deploy(key.name, "hello", **SPEC)
    nats_server.lose_data()
    for key in keys:
        await rig.status(key.name, "waiting", NO_SPEC)
    client = Client(rig.bus)
    assert {thing.key for thing in await client.objects("function")} >= {*keys}
    await client.delete(keys[0])
    await rig.until(lambda: rig.active("now") is None and not rig.endpoints("now"))
    for name in ("scheduler-a", "scheduler-b"):
        await rig.stop(name)
    await client.delete(keys[1])
    # Longer than a deletion is kept of what has a spec, as far as the next leader can tell.
    last = await rig.bus.js.get_last_msg("SPECS", "wasmfn.specs.function.default.later")
    assert "Nats-TTL" not in (last.headers or {})
    await rig.run("scheduler-a", "scheduler-b")
    await rig.until(lambda: rig.active("later") is None and not rig.endpoints("later"))
    assert rig.active() is not None
    await rig.deploy(FUNCTION, **SPEC)
    await rig.apply("route", FUNCTION, {"function": FUNCTION, "path": f"/{FUNCTION}"})
