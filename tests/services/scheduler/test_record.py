"""What a leader writes down, and what it cannot write any more."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from schemas.active import ActiveRoute
from schemas.endpoints import Endpoint
from schemas.specs import RouteSpec
from schemas.streams import ACTIVE, ENDPOINTS, STATUS, TIMERS
from schemas.timers import TimerMark
from services.bus.connection import Bus, connect
from services.bus.events import event_log
from services.bus.lease import Reign
from services.bus.streams import ensure_streams
from services.scheduler.audience import Audience
from services.scheduler.record import DeposedError, Record
from services.scheduler.world import World
from tests.conftest import NatsServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUTE = ("route", "default", "r")


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        yield bus


@contextlib.asynccontextmanager
async def leader(bus: Bus, term: int) -> AsyncIterator[tuple[Record, Reign]]:
    """One whose clock says for ever that its lease holds."""
    reign = Reign(term, lambda: True)
    async with event_log(bus) as events:
        yield Record(bus, events, reign, World(), Audience()), reign


async def write_all(record: Record, *, revision: int) -> list[str]:
    """Write to every stream that is a leader's; return what could not be written."""
    endpoint = Endpoint("default", "f", "i", "10.0.0.1", 1, "p", "n", revision, 1, "t", NOW)
    route = ActiveRoute("default", "r", revision, RouteSpec(function="f", path="/f"))
    refused = []
    for name, write in (
        ("put in force", lambda: record.activate(route)),
        ("publish", lambda: record.publish_endpoint(endpoint)),
        ("say", lambda: record.set_status(ROUTE, "active", "", observed=revision, active=1)),
        ("mark", lambda: record.mark_timer(("default", "t"), TimerMark(NOW, revision))),
        ("withdraw", lambda: record.withdraw_endpoint(endpoint, "test")),
        ("take out of force", lambda: record.deactivate(ROUTE)),
        ("say nothing", lambda: record.clear_status(ROUTE, "gone")),
        ("forget", lambda: record.forget_timer(("default", "t"))),
    ):
        # Each write is NATS's to refuse: to this leader's mind the term goes on.
        record._reign = Reign(record._reign.term, lambda: True)
        try:
            await write()
        except DeposedError:
            refused.append(name)
    return refused


async def sequences(bus: Bus) -> list[int]:
    streams = (ACTIVE, ENDPOINTS, STATUS, TIMERS)
    return [(await bus.js.stream_info(stream.name)).state.last_seq for stream in streams]


async def test_a_leader_that_was_succeeded_and_does_not_know_writes_nothing(bus: Bus) -> None:
    async with leader(bus, 1) as (old, _), leader(bus, 2) as (new, _):
        await old.begin()
        assert await write_all(old, revision=1) == []
        await new.begin()
        before = await sequences(bus)
        assert len(await write_all(old, revision=2)) == 8
        assert await sequences(bus) == before
        assert await write_all(new, revision=3) == []


async def test_a_leader_that_is_refused_leads_no_more(bus: Bus) -> None:
    async with leader(bus, 1) as (old, reign), leader(bus, 2) as (new, _):
        await old.begin()
        await new.begin()
        with pytest.raises(DeposedError):
            await old.clear_status(ROUTE, "gone")
        assert not reign.holds
        assert reign.lost.is_set()


async def test_a_leader_that_wakes_after_its_successor_began_does_not_begin(bus: Bus) -> None:
    async with leader(bus, 1) as (old, reign), leader(bus, 2) as (new, _):
        await new.begin()
        with pytest.raises(DeposedError):
            await old.begin()
        assert not reign.holds
        assert await write_all(new, revision=1) == []
