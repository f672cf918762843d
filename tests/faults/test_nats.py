"""The bus goes away, for a moment and for long, and comes back with its data or without."""

import asyncio

import pytest

from tests.conftest import NatsServer
from tests.faults.rig import Rig


@pytest.mark.parametrize("away_s", [1.0, 5.0])
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
        await rig.deploy("after", "hello")
        await load.answered(25)
    assert load.failed() == []


async def test_a_nats_that_lost_its_data_ends_nothing_that_serves(
    rig: Rig, nats_server: NatsServer
) -> None:
    async with rig.load().running() as load:
        await load.answered(25)
        nats_server.lose_data()
        await load.answered(100)
        assert load.failed() == []
        # What was published before is gone; it is published again, as `wasmfn apply` does.
        await rig.deploy("sort", scaling={"min_instances": 1, "max_instances": 4})
        await rig.apply("route", "sort", {"function": "sort", "path": "/sort"})
        await load.answered(100)
    assert load.failed() == []
