import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from schemas.pods import PodFact
from services.bus.connection import connect
from services.bus.streams import ensure_streams
from services.podwatch.announce import Announcer

FACT = PodFact("u1", "n1", "keeper-1", "running", datetime(2026, 1, 1, tzinfo=UTC))
READY = msgspec.structs.replace(FACT, ready=True)
DEAD = msgspec.structs.replace(FACT, phase="dead")
OTHER = msgspec.structs.replace(FACT, uid="u2")


@pytest.fixture
async def bus(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        yield bus


class Told:
    """An announcer that runs, and everything it has told."""

    def __init__(self, bus) -> None:
        self.facts: list[PodFact] = []
        self.announcer = Announcer(bus, lambda fact, _: self.facts.append(fact))
        self.put = self.announcer.put

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.announcer.run())


async def test_only_the_latest_fact_of_a_pod_is_told(bus, eventually):
    told = Told(bus)
    for fact in (FACT, OTHER, READY, DEAD):
        told.put(fact)
    assert told.announcer.waiting == 2
    running = told.start()
    await eventually(lambda: len(told.facts) == 2)
    assert told.facts == [DEAD, OTHER]
    running.cancel()


async def test_a_fact_that_is_on_its_way_is_not_sent_again_and_replaces_what_waits(
    bus, eventually, nats_server
):
    told = Told(bus)
    with nats_server.frozen():
        told.put(FACT)
        running = told.start()
        await eventually(lambda: told.announcer.waiting == 0)
        told.put(READY)
        told.put(FACT)
        told.put(OTHER)
    await eventually(lambda: OTHER in told.facts)
    assert told.facts == [FACT, OTHER]
    running.cancel()


async def test_a_refused_fact_is_tried_until_it_is_stored(bus, eventually, caplog):
    config = (await bus.js.stream_info("PODS")).config
    await bus.js.update_stream(config.evolve(max_bytes=1))
    told = Told(bus)
    told.put(FACT)
    told.put(OTHER)
    running = told.start()
    await eventually(lambda: sum("cannot tell" in r.message for r in caplog.records) >= 2)
    assert told.facts == []
    assert told.announcer.waiting == 2
    await bus.js.update_stream(config)
    await eventually(lambda: len(told.facts) == 2)
    running.cancel()


async def test_a_newer_fact_is_not_undone_by_the_failure_of_an_older_one(
    bus, eventually, caplog, nats_server
):
    config = (await bus.js.stream_info("PODS")).config
    await bus.js.update_stream(config.evolve(max_bytes=1))
    told = Told(bus)
    with nats_server.frozen():
        told.put(FACT)
        running = told.start()
        await eventually(lambda: told.announcer.waiting == 0)
        told.put(DEAD)
    await eventually(lambda: any("cannot tell" in r.message for r in caplog.records))
    await bus.js.update_stream(config)
    await eventually(lambda: told.facts)
    assert told.facts == [DEAD]
    running.cancel()
