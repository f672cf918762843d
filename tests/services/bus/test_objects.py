"""Objects over a real server, written by us and by nats-py, and broken on purpose."""

import os
from collections.abc import AsyncIterator

import pytest
from nats.js import api

from services.bus.connection import Bus, connect
from services.bus.errors import BusRefused, BusUnavailable
from services.bus.objects import ObjectUnusable, find, list_all, read, remove, write
from services.bus.streams import Bucket, ensure_buckets

BUCKET = "things"
LIMIT = 8 << 20


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await ensure_buckets(bus.js, [Bucket(BUCKET, 64 << 20)])
        yield bus


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 5 << 20])
async def test_what_was_written_is_read(bus: Bus, size: int):
    content = os.urandom(size)
    await write(bus, BUCKET, "a.b/c=", content, {"X-Note": "hi"})
    assert await read(bus, BUCKET, "a.b/c=", LIMIT) == content
    found = await find(bus, BUCKET, "a.b/c=")
    assert found is not None
    assert (found.size, found.header("X-Note"), found.header("X-Other")) == (size, "hi", "")


async def test_other_clients_read_and_write_the_same_objects(bus: Bus):
    store = await bus.js.object_store(BUCKET)
    await store.put("theirs", b"x" * 300_000, api.ObjectMeta(headers={"H": "1"}))
    await write(bus, BUCKET, "ours", b"y" * 300_000)
    assert await read(bus, BUCKET, "theirs", LIMIT) == b"x" * 300_000
    assert (await store.get("ours")).data == b"y" * 300_000


async def test_an_object_that_is_not_there_or_deleted_is_none(bus: Bus):
    assert await find(bus, BUCKET, "x") is None
    await write(bus, BUCKET, "x", b"1")
    await (await bus.js.object_store(BUCKET)).delete("x")
    assert await find(bus, BUCKET, "x") is None
    assert await read(bus, BUCKET, "x", LIMIT) is None


async def test_a_bucket_that_is_not_there_is_an_error(bus: Bus):
    for asking in (find(bus, "none", "x"), read(bus, "none", "x", 1), write(bus, "none", "x", b"")):
        with pytest.raises(BusRefused):
            await asking


async def test_an_object_beyond_the_limit_is_not_read(bus: Bus):
    await write(bus, BUCKET, "x", b"12345")
    with pytest.raises(ObjectUnusable, match="has 5 bytes; at most 4 are taken"):
        await read(bus, BUCKET, "x", 4)


@pytest.mark.parametrize("chunks", [1, 3])
async def test_a_lost_chunk_is_damage_and_no_endless_wait(bus: Bus, monkeypatch, chunks: int):
    monkeypatch.setattr("services.bus.objects._FETCH_S", 0.2)
    await write(bus, BUCKET, "x", b"z" * 100_000 * chunks)
    found = await find(bus, BUCKET, "x")
    last = await bus.js.get_last_msg(f"OBJ_{BUCKET}", f"$O.{BUCKET}.C.{found.nuid}")
    await bus.js.delete_msg(f"OBJ_{BUCKET}", last.seq)
    with pytest.raises(ObjectUnusable, match="is damaged"):
        await read(bus, BUCKET, "x", LIMIT)


async def test_chunks_other_than_announced_are_damage(bus: Bus):
    await write(bus, BUCKET, "x", b"abc")
    found = await find(bus, BUCKET, "x")
    await bus.js.publish(f"$O.{BUCKET}.C.{found.nuid}", b"abd")
    with pytest.raises(ObjectUnusable, match="is damaged"):
        await read(bus, BUCKET, "x", LIMIT)


async def test_reading_leaves_no_consumer_behind(bus: Bus):
    await write(bus, BUCKET, "x", b"z" * 1_000_000)
    await read(bus, BUCKET, "x", LIMIT)
    consumers = await bus.js.consumers_info(f"OBJ_{BUCKET}")
    assert len(consumers) <= 1
    assert all(c.config.inactive_threshold <= 10 for c in consumers)


async def test_a_full_bucket_refuses_and_keeps_what_it_has(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_buckets(bus.js, [Bucket(BUCKET, 400_000)])
        await write(bus, BUCKET, "x", b"1" * 200_000)
        with pytest.raises(BusRefused, match="maximum bytes"):
            await write(bus, BUCKET, "y", b"2" * 400_000)
        assert await read(bus, BUCKET, "x", LIMIT) == b"1" * 200_000
        assert await find(bus, BUCKET, "y") is None


async def test_a_server_that_does_not_answer_is_waited_for_until_the_deadline(
    bus: Bus, nats_server
):
    with nats_server.frozen(), pytest.raises(BusUnavailable):
        await read(bus, BUCKET, "x", LIMIT, deadline_s=0.2)


async def test_every_object_is_listed_and_what_was_removed_is_gone_with_its_content(bus: Bus):
    assert await list_all(bus, BUCKET) == []
    for name in ("a", "b", "c"):
        await write(bus, BUCKET, name, os.urandom(300_000))
    store = await bus.js.object_store(BUCKET)
    await store.delete("c")
    listed = await list_all(bus, BUCKET)
    assert {found.name for found in listed} == {"a", "b"}
    assert all(found.stored.tzinfo is not None for found in listed)
    before = (await bus.js.stream_info(f"OBJ_{BUCKET}")).state.bytes

    await remove(bus, BUCKET, "a")
    await remove(bus, BUCKET, "a")

    assert await find(bus, BUCKET, "a") is None
    assert {found.name for found in await list_all(bus, BUCKET)} == {"b"}
    assert (await bus.js.stream_info(f"OBJ_{BUCKET}")).state.bytes < before - 300_000


async def test_a_bucket_that_is_not_there_is_no_empty_one(bus: Bus):
    with pytest.raises(BusRefused):
        await list_all(bus, "nowhere")
