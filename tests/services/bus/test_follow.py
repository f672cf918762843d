"""Following a stream against a real server that dies, freezes, and loses its data."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from nats.js import api

from schemas.specs import MIB
from services.bus.connection import Bus, connect
from services.bus.follow import follow
from services.bus.publish import publish, tombstone
from services.bus.state import Deleted, Put, Replaced, Snapshot, Update


async def make_stream(bus: Bus, history: int = 1) -> None:
    await bus.js.add_stream(
        api.StreamConfig(
            name="THINGS",
            subjects=["things.>"],
            max_msgs_per_subject=history,
            max_bytes=64 * MIB,
            discard=api.DiscardPolicy.NEW,
            duplicate_window=120,
            allow_rollup_hdrs=True,
            allow_msg_ttl=True,
        )
    )


class Table:
    """What a follower was told, as the table that a service would keep."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.sequences: dict[str, int] = {}
        self.updates: list[Update] = []
        self._changed = asyncio.Condition()

    async def run(self, updates: AsyncIterator[Update]) -> None:
        async for update in updates:
            async with self._changed:
                self.updates.append(update)
                match update:
                    case Snapshot(entries):
                        assert len(self.updates) == 1
                        self.rows = {entry.subject: entry.payload for entry in entries}
                    case Put(entry):
                        assert entry.sequence > self.sequences.get(entry.subject, 0)
                        self.sequences[entry.subject] = entry.sequence
                        self.rows[entry.subject] = entry.payload
                    case Deleted(subject):
                        del self.rows[subject]
                    case Replaced():
                        self.sequences.clear()
                self._changed.notify_all()

    async def until(self, rows: dict[str, bytes], within_s: float = 10) -> None:
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: bool(self.updates) and self.rows == rows)

    async def until_told(self, kind: type[Update], within_s: float = 10) -> None:
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: any(isinstance(u, kind) for u in self.updates))


@contextlib.asynccontextmanager
async def following(bus: Bus, *filters: str, resync_s: float = 60) -> AsyncIterator[Table]:
    table = Table()
    task = asyncio.create_task(table.run(follow(bus, "THINGS", filters, resync_s=resync_s)))
    try:
        yield table
    finally:
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await make_stream(bus)
        yield bus


async def test_the_first_update_is_the_complete_snapshot(bus):
    for i in range(1000):
        await bus.nc.publish(f"things.{i % 700}", b"%d" % i)
    await publish(bus, "things.last", b"x")
    async with following(bus) as table:
        await table.until_told(Snapshot)
        (snapshot,) = table.updates
        assert len(snapshot.entries) == 701
        assert table.rows["things.299"] == b"999"
        assert table.rows["things.699"] == b"699"


async def test_an_empty_stream_has_an_empty_snapshot(bus):
    async with following(bus) as table:
        await table.until({})


async def test_changes_follow_the_snapshot(bus):
    await publish(bus, "things.a", b"1")
    async with following(bus) as table:
        await table.until({"things.a": b"1"})
        await publish(bus, "things.a", b"2")
        await publish(bus, "things.b", b"1")
        await table.until({"things.a": b"2", "things.b": b"1"})


async def test_only_the_subjects_asked_for_are_told(bus):
    for subject in ("things.a.1", "things.b.1", "things.c.1"):
        await publish(bus, subject, b"x")
    async with following(bus, "things.a.*", "things.c.*") as table:
        await table.until({"things.a.1": b"x", "things.c.1": b"x"})
        await publish(bus, "things.b.2", b"x")
        await publish(bus, "things.c.2", b"x")
        await table.until({"things.a.1": b"x", "things.c.1": b"x", "things.c.2": b"x"})


async def test_a_tombstone_deletes_and_none_is_in_a_snapshot(bus):
    await publish(bus, "things.a", b"1")
    await publish(bus, "things.b", b"1")
    await tombstone(bus, "things.b")
    async with following(bus) as table:
        await table.until({"things.a": b"1"})
        await tombstone(bus, "things.a")
        await table.until({})
        assert isinstance(table.updates[-1], Deleted)


async def test_a_killed_server_deletes_nothing_and_changes_come_again_soon(nats_server, bus):
    await publish(bus, "things.a", b"1")
    async with following(bus) as table:
        await table.until({"things.a": b"1"})
        for i in range(3):
            nats_server.restart()
            await publish(bus, "things.a", b"after %d" % i)
            await table.until({"things.a": b"after %d" % i}, within_s=5)
        assert not any(isinstance(update, Deleted) for update in table.updates)


async def test_what_was_deleted_while_the_follower_was_away_is_told(nats_server, bus):
    for name in "abc":
        await publish(bus, f"things.{name}", b"1")
    async with connect(nats_server.settings, "other") as other, following(bus) as table:
        await table.until({"things.a": b"1", "things.b": b"1", "things.c": b"1"})
        # As if the connection had been lost over it: the feed hears none of this.
        for subscription in list(bus.nc._subs.values()):
            if subscription._cb is not None and subscription._cb.__name__ == "receive":
                bus.nc._subs.pop(subscription._id)
        await other.js.purge_stream("THINGS", subject="things.b")
        await publish(other, "things.c", b"2")
        await table.until({"things.a": b"1", "things.c": b"2"})
        assert Deleted("things.b", 2) in table.updates


async def test_an_empty_data_directory_is_no_deletion_and_the_new_stream_is_followed(
    nats_server, bus
):
    await publish(bus, "things.a", b"1")
    await publish(bus, "things.b", b"1")
    async with following(bus) as table:
        await table.until({"things.a": b"1", "things.b": b"1"})
        nats_server.lose_data()
        async with connect(nats_server.settings, "other") as other:
            await make_stream(other)
        await table.until_told(Replaced)
        assert table.rows == {"things.a": b"1", "things.b": b"1"}
        await publish(bus, "things.a", b"2")
        await table.until({"things.a": b"2", "things.b": b"1"})
        await tombstone(bus, "things.a")
        await table.until({"things.b": b"1"})


async def test_a_frozen_server_deletes_nothing(nats_server, bus, caplog):
    caplog.set_level("INFO")
    await publish(bus, "things.a", b"1")
    async with following(bus) as table:
        await table.until({"things.a": b"1"})
        await publish(bus, "things.b", b"1")
        await table.until({"things.a": b"1", "things.b": b"1"})
        with nats_server.frozen():
            async with asyncio.timeout(20):
                while "no answer" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                    await asyncio.sleep(0.01)
            assert "no heartbeat" in caplog.text
            assert table.rows == {"things.a": b"1", "things.b": b"1"}
        await publish(bus, "things.a", b"2", deadline_s=10)
        await table.until({"things.a": b"2", "things.b": b"1"})
        assert not any(isinstance(update, Deleted) for update in table.updates)


async def test_a_follower_may_start_before_its_stream_exists(nats_server):
    async with connect(nats_server.settings, "test") as bus, following(bus) as table:
        await bus.nc.flush()
        await make_stream(bus)
        await publish(bus, "things.a", b"1")
        await table.until({"things.a": b"1"})
