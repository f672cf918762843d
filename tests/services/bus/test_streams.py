"""The stream table on a real server."""

import asyncio

import msgspec
import pytest
from nats.js import api

from schemas.streams import LEASES, STREAMS
from services.bus.connection import connect
from services.bus.errors import BusRefused, StreamConflict
from services.bus.streams import BUCKETS, ensure_buckets, ensure_streams


async def test_every_stream_and_bucket_is_made_by_several_services_at_once_and_again(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        for _ in range(2):
            await asyncio.gather(*(ensure_streams(bus.js) for _ in range(4)))
            await asyncio.gather(*(ensure_buckets(bus.js) for _ in range(4)))
        names = {info.config.name for info in await bus.js.streams_info()}
        assert names == {s.name for s in STREAMS} | {f"OBJ_{b.name}" for b in BUCKETS}
        for stream in STREAMS:
            config = (await bus.js.stream_info(stream.name)).config
            assert tuple(config.subjects) == stream.subjects
            assert config.max_bytes == stream.max_bytes
            assert config.max_msgs_per_subject == stream.max_msgs_per_subject
            assert config.discard == stream.discard
            assert config.max_age == stream.max_age_s
            assert config.allow_rollup_hdrs
            assert config.allow_msg_ttl


async def test_a_bucket_is_an_object_store_for_any_client(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_buckets(bus.js)
        store = await bus.js.object_store(BUCKETS[0].name)
        await store.put("x", b"module")
        assert (await store.get("x")).data == b"module"


async def test_a_changed_definition_is_applied_and_an_operators_settings_stay(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [LEASES])
        found = (await bus.js.stream_info("LEASES")).config
        await bus.js.update_stream(found.evolve(max_consumers=-1, metadata={"owner": "me"}))
        larger = msgspec.structs.replace(LEASES, max_bytes=LEASES.max_bytes * 2)
        await ensure_streams(bus.js, [larger])
        config = (await bus.js.stream_info("LEASES")).config
        assert config.max_bytes == larger.max_bytes
        assert config.metadata["owner"] == "me"


async def test_a_stream_that_cannot_become_ours_is_named_with_the_reason(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await bus.js.add_stream(name="LEASES", subjects=["x"], storage=api.StorageType.MEMORY)
        with pytest.raises(StreamConflict, match="the stream LEASES on this NATS server"):
            await ensure_streams(bus.js, [LEASES])


async def test_subjects_that_belong_to_another_stream_are_a_conflict(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await bus.js.add_stream(name="OTHER", subjects=["wasmfn.>"])
        with pytest.raises(StreamConflict, match="subjects overlap"):
            await ensure_streams(bus.js, [LEASES])


async def test_a_server_without_room_is_told_with_what_to_do(make_nats_server):
    server = make_nats_server(config="jetstream { max_file_store: 1000000 }")
    async with connect(server.settings, "test") as bus:
        with pytest.raises(BusRefused, match="give its data directory more space"):
            await ensure_streams(bus.js)
