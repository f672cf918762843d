"""A router dies, and a router is replaced."""

import asyncio

from tests.conftest import NatsServer
from tests.faults.rig import Rig


async def test_a_killed_router_fails_its_own_connections_only_and_comes_back_warm(
    rig: Rig,
) -> None:
    async with rig.load().running() as load:
        await load.answered(50)
        killed = asyncio.get_running_loop().time()
        load.routers = [router for router in load.routers if router.name == "router-b"]
        rig.kill("router-a")
        await load.answered(50)
        back = await _back(rig, "router-a")
        await load.answered(50)
    assert {call.router for call in load.failed()} <= {"router-a"}
    # One under way at most for each connection that was open: they were few.
    assert len(load.failed()) <= 8
    assert not load.failed(since=back)
    assert killed < back


async def _back(rig: Rig, name: str) -> float:
    await rig.run(name)
    router = next(router for router in rig.routers if router.name == name)
    status, _ = await router.call("/sort", b'{"args": ["2", "1"]}')
    router.close()
    assert status == 200
    return asyncio.get_running_loop().time()


async def test_a_rolling_restart_of_everything_fails_no_request(
    rig: Rig, nats_server: NatsServer
) -> None:
    async with rig.load().running() as load:
        await load.answered(50)
        everyone = load.routers
        for name in ("router-a", "router-b"):
            # As a load balancer: nobody is sent to a router that is about to go.
            load.routers = [router for router in everyone if router.name != name]
            assert await rig.stop(name) == 0
            await rig.run(name)
            load.routers = everyone
            await load.answered(25)
        for name in ("scheduler-a", "scheduler-b", "builder", "podwatch"):
            assert await rig.stop(name) == 0
            await rig.run(name)
            await load.answered(25)
        nats_server.stop()
        nats_server.start()
        await load.answered(25)
    assert load.failed() == []
    assert load.refused == [] or {one.status for one in load.refused} == {503}
