"""A feed delivers everything in order, or says that it did not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo, DeliverPolicy

from schemas.streams import ENDPOINTS
from services.bus import feed as feeds
from services.bus.connection import Bus, connect
from services.bus.feed import Feed, FeedLost, open_feed
from services.bus.streams import ensure_streams


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [ENDPOINTS])
        yield bus


async def put(bus: Bus, *names: int, size: int = 1) -> None:
    for name in names:
        await bus.nc.publish(f"wasmfn.endpoints.ns.f.{name}", bytes(size))
    await bus.nc.flush()


async def read(feed: Feed, count: int) -> list[int]:
    sequences: list[int] = []
    async with asyncio.timeout(20):
        while len(sequences) < count:
            if (entry := await feed.next()) is not None:
                sequences.append(entry.sequence)
    return sequences


def lose(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lose a message before the feed sees it, as the client does when its queue is full."""
    receive = feeds._Consumer.receive
    messages = 0

    async def losing(consumer: feeds._Consumer, msg: Msg) -> None:
        nonlocal messages
        messages += msg.reply.startswith("$JS.ACK.")
        if not msg.reply.startswith("$JS.ACK.") or messages != number:
            await receive(consumer, msg)

    monkeypatch.setattr(feeds._Consumer, "receive", losing)


async def test_a_message_lost_in_the_middle_is_noticed_at_the_next(bus, monkeypatch):
    lose(monkeypatch, 2)
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        await feed.next()
        await put(bus, 1, 2, 3)
        with pytest.raises(FeedLost, match="message 2 of the consumer is missing"):
            await read(feed, 3)


async def test_a_lost_last_message_is_noticed_at_the_heartbeat(bus, monkeypatch):
    lose(monkeypatch, 3)
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        await feed.next()
        await put(bus, 1, 2, 3)
        with pytest.raises(FeedLost, match="the server is at message 3, this feed at 2"):
            await read(feed, 3)


async def test_a_consumer_that_was_deleted_is_noticed(bus):
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        await put(bus, 1)
        await read(feed, 1)
        (consumer,) = await consumers(bus)
        await bus.js.delete_consumer("ENDPOINTS", consumer.name)
        with pytest.raises(FeedLost, match="no heartbeat"):
            await read(feed, 1)


async def test_a_broken_connection_is_noticed_at_once(nats_server, bus):
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        await put(bus, 1)
        await read(feed, 1)
        reading = asyncio.create_task(read(feed, 1))
        await asyncio.to_thread(nats_server.kill)
        with pytest.raises(FeedLost, match="the connection was lost"):
            await asyncio.wait_for(reading, 30)


async def test_a_slow_reader_gets_everything_in_order_and_holds_little(bus):
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        for i in range(0, 8000, 100):
            await put(bus, *range(i, i + 100), size=10_000)
            if i == 0:
                assert await read(feed, 1) == [1]
        assert feed._consumer._items.qsize() <= 256
        assert await read(feed, 7999) == list(range(2, 8001))


async def test_a_stream_that_is_replaced_during_the_snapshot_is_no_snapshot(bus):
    await put(bus, 1, 2)
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        await bus.js.delete_stream("ENDPOINTS")
        await ensure_streams(bus.js, [ENDPOINTS])
        with pytest.raises(FeedLost, match="replaced"):
            _ = [entry async for entry in feed.snapshot()]


async def test_a_stream_that_is_replaced_after_the_snapshot_is_noticed(bus):
    await put(bus, 1, 2)
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        assert [entry.sequence async for entry in feed.snapshot()] == [1, 2]
        await bus.js.delete_stream("ENDPOINTS")
        await ensure_streams(bus.js, [ENDPOINTS])
        with pytest.raises(FeedLost, match="replaced"):
            await read(feed, 1)


async def test_nothing_that_comes_while_the_snapshot_is_read_is_missed(bus):
    await put(bus, 1, 2, 3)
    last: dict[str, int] = {}
    async with open_feed(bus, "ENDPOINTS", []) as feed, asyncio.timeout(20):
        async for entry in feed.snapshot():
            if not last:
                await put(bus, 3, 4)
            last[entry.subject] = max(entry.sequence, last.get(entry.subject, 0))
        await put(bus, 5)
        while sorted(last.values()) != [1, 2, 4, 5, 6]:
            if (news := await feed.next()) is not None:
                last[news.subject] = max(news.sequence, last.get(news.subject, 0))


async def test_who_follows_leaves_no_consumer_that_makes_deletions_slow(bus):
    """A server looks at every subject for each of them whenever something is removed."""
    await put(bus, 1, 2)
    async with open_feed(bus, "ENDPOINTS", []) as feed:
        async for _ in feed.snapshot():
            pass
        await put(bus, 3)
        await read(feed, 1)
        (consumer,) = await consumers(bus)
        assert consumer.config.deliver_policy == DeliverPolicy.BY_START_SEQUENCE


async def consumers(bus: Bus) -> list[ConsumerInfo]:
    """Return those that somebody listens to."""
    return [one for one in await bus.js.consumers_info("ENDPOINTS") if one.push_bound]
