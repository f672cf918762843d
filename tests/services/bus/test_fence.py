"""A stream stores nothing of a term that is over, however late it comes."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.streams import ACTIVE, TERM_HEADER
from services.bus.connection import Bus, BusSettings, connect
from services.bus.errors import BusUnavailable, Fenced
from services.bus.fence import Fence
from services.bus.follow import follow
from services.bus.publish import publish, raise_fence, tombstone
from services.bus.state import Put, Snapshot
from services.bus.streams import ensure_streams
from tests.conftest import NATS_SERVER

A = "wasmfn.active.route.default.a"
B = "wasmfn.active.route.default.b"


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [ACTIVE])
        yield bus


async def test_behind_the_fence_of_a_term_nothing_of_an_earlier_one_is_stored(bus):
    old = await raise_fence(bus, ACTIVE, 1)
    await publish(bus, A, b"old", fence=old)
    new = await raise_fence(bus, ACTIVE, 2)
    for subject in (A, B):
        with pytest.raises(Fenced, match="is not stored for term 1"):
            await publish(bus, subject, b"late", fence=old)
    with pytest.raises(Fenced):
        await tombstone(bus, A, fence=old)
    assert (await bus.js.get_last_msg("ACTIVE", A)).data == b"old"
    await publish(bus, A, b"new", fence=new)
    await tombstone(bus, A, fence=new)


async def test_an_earlier_term_raises_no_fence_behind_a_later_one(bus):
    await raise_fence(bus, ACTIVE, 7)
    with pytest.raises(Fenced) as caught:
        await raise_fence(bus, ACTIVE, 6)
    assert caught.value.later == 7


async def test_a_term_may_raise_its_fence_again_and_what_it_wrote_stands(bus):
    first = await raise_fence(bus, ACTIVE, 1)
    again = await raise_fence(bus, ACTIVE, 1)
    assert again.sequence == first.sequence
    await publish(bus, A, b"1", fence=first)


async def test_a_stream_that_lost_its_fence_takes_nothing_until_there_is_a_new_one(bus):
    fence = await raise_fence(bus, ACTIVE, 1)
    await bus.js.purge_stream("ACTIVE")
    with pytest.raises(Fenced):
        await publish(bus, A, b"1", fence=fence)
    await publish(bus, A, b"1", fence=await raise_fence(bus, ACTIVE, 2))


async def test_followers_see_no_fence(bus):
    await publish(bus, A, b"1", fence=await raise_fence(bus, ACTIVE, 1))
    updates = follow(bus, "ACTIVE")
    first = await anext(updates)
    assert isinstance(first, Snapshot)
    assert [entry.subject for entry in first.entries] == [A]
    await publish(bus, B, b"1", fence=await raise_fence(bus, ACTIVE, 2))
    async with asyncio.timeout(30):
        second = await anext(updates)
    assert isinstance(second, Put)
    assert second.entry.subject == B
    await updates.aclose()


async def test_a_fence_waits_for_its_stream_until_the_deadline(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        with pytest.raises(BusUnavailable):
            await raise_fence(bus, ACTIVE, 1, deadline_s=0.3)


STEP = st.tuples(st.integers(1, 4), st.sampled_from(["begin", "write", "delete"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(steps=st.lists(STEP, max_size=20))
def test_whoever_writes_when_the_terms_in_a_stream_only_rise(nats_server, steps):
    """Leaders begin, sleep and write in any order: each step may be one that comes late."""

    async def run() -> list[int]:
        async with connect(nats_server.settings, "test") as bus:
            await ensure_streams(bus.js, [ACTIVE])
            await bus.js.purge_stream("ACTIVE")
            fences: dict[int, Fence] = {}
            stored: list[tuple[int, int]] = []
            for number, (term, what) in enumerate(steps):
                try:
                    if what == "begin":
                        fences[term] = await raise_fence(bus, ACTIVE, term)
                        stored.append((fences[term].sequence, term))
                    elif term in fences:
                        name = f"wasmfn.active.route.default.n{number}"
                        if what == "write":
                            sequence = await publish(bus, name, b"1", fence=fences[term])
                        else:
                            sequence = await tombstone(bus, name, fence=fences[term])
                        stored.append((sequence, term))
                        written = await bus.js.get_last_msg("ACTIVE", name)
                        assert (written.headers or {})[TERM_HEADER] == str(term)
                except Fenced:
                    assert any(later > term for later in fences)
            return [term for _, term in sorted(stored)]

    terms = asyncio.run(run())
    assert terms == sorted(terms)


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[BusSettings]:
    """Three servers that are one, in which streams can have three replicas."""
    ports, routes = ([_free_port() for _ in range(3)] for _ in range(2))
    peers = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
    servers = [
        subprocess.Popen(
            [NATS_SERVER, "-a", "127.0.0.1", "-p", str(ports[n]), "-js", "-sd", tmp_path / str(n),
             "--name", f"n{n}", "--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{routes[n]}",
             "--routes", peers],
            stderr=subprocess.DEVNULL,
        )
        for n in range(3)
    ]  # fmt: skip
    yield BusSettings(
        nats_url=",".join(f"nats://127.0.0.1:{port}" for port in ports), nats_wait_s=30
    )
    for server in servers:
        server.kill()
        server.wait()


async def test_replicated_streams_take_many_at_a_time_and_none_of_a_term_that_is_over(replicated):
    """They refuse what expects the same as a message that is under way: it is tried again."""
    async with connect(replicated, "test") as bus:
        async with asyncio.timeout(60):
            while True:
                try:
                    await ensure_streams(bus.js, [ACTIVE], replicas=3)
                    break
                except Exception:  # noqa: BLE001 - whatever a cluster says that still elects
                    await asyncio.sleep(0.2)
        old = await raise_fence(bus, ACTIVE, 1, deadline_s=30)
        names = [f"wasmfn.active.route.default.n{n}" for n in range(200)]
        await asyncio.gather(*(publish(bus, n, b"1", fence=old, deadline_s=30) for n in names))
        assert old.crowded
        await raise_fence(bus, ACTIVE, 2, deadline_s=30)
        late = await asyncio.gather(
            *(publish(bus, n, b"2", fence=old, deadline_s=30) for n in names),
            return_exceptions=True,
        )
        assert {type(error) for error in late} == {Fenced}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
