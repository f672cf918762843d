"""Publishing to a real server: what is returned is stored, and what is stored is so once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from nats.js import api
from nats.js.errors import NotFoundError

from services.bus.connection import Bus, connect
from services.bus.errors import BusRefused, BusUnavailable, Conflict
from services.bus.publish import publish, tombstone


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await bus.js.add_stream(
            api.StreamConfig(
                name="THINGS",
                subjects=["things.>"],
                max_msgs_per_subject=16,
                max_bytes=100_000,
                discard=api.DiscardPolicy.NEW,
                duplicate_window=60,
                allow_rollup_hdrs=True,
                allow_msg_ttl=True,
            )
        )
        yield bus


async def count(bus: Bus, subject: str = "things.>") -> int:
    info = await bus.js.stream_info("THINGS", subjects_filter=subject)
    return sum((info.state.subjects or {}).values())


async def test_a_publish_returns_the_sequence_under_which_it_is_stored(bus):
    assert await publish(bus, "things.a", b"1") == 1
    assert await publish(bus, "things.a", b"2", headers={"X-Note": "n"}) == 2
    stored = await bus.js.get_msg("THINGS", 2)
    assert (stored.data, stored.headers["X-Note"]) == (b"2", "n")


async def test_an_expectation_that_does_not_hold_is_a_conflict_and_stores_nothing(bus):
    assert await publish(bus, "things.a", b"1", expected=0) == 1
    assert await publish(bus, "things.a", b"2", expected=1) == 2
    for stale in (0, 1, 99):
        with pytest.raises(Conflict) as caught:
            await publish(bus, "things.a", b"3", expected=stale)
        assert (caught.value.subject, caught.value.expected) == ("things.a", stale)
    assert await count(bus) == 2


async def test_a_message_id_stores_once_and_returns_the_first_sequence(bus):
    first = await publish(bus, "things.a", b"1", message_id="m")
    await publish(bus, "things.b", b"1")
    assert await publish(bus, "things.a", b"1", message_id="m") == first
    assert await count(bus, "things.a") == 1


async def test_a_tombstone_leaves_one_empty_message_and_then_nothing(bus):
    for _ in range(3):
        await publish(bus, "things.a", b"1")
    sequence = await tombstone(bus, "things.a", keep_s=1)
    assert await count(bus) == 1
    assert (await bus.js.get_last_msg("THINGS", "things.a")).seq == sequence
    async with asyncio.timeout(30):
        with contextlib.suppress(NotFoundError):
            while True:
                await bus.js.get_last_msg("THINGS", "things.a")
    assert await count(bus) == 0


async def test_a_tombstone_can_expect_too(bus):
    await publish(bus, "things.a", b"1")
    with pytest.raises(Conflict):
        await tombstone(bus, "things.a", expected=7)
    assert await tombstone(bus, "things.a", expected=1) == 2


async def test_publishes_during_restarts_are_stored_once_each_in_order(nats_server, bus):
    async def write() -> list[int]:
        return [await publish(bus, "things.a", b"%d" % i, deadline_s=20) for i in range(40)]

    await bus.js.update_stream((await bus.js.stream_info("THINGS")).config, max_msgs_per_subject=-1)
    writing = asyncio.create_task(write())
    for _ in range(4):
        await asyncio.to_thread(nats_server.restart)
        await asyncio.wait_for(bus.wait_connected(), 30)
    sequences = await writing
    assert sequences == sorted(set(sequences))
    stored = [(await bus.js.get_msg("THINGS", sequence)).data for sequence in sequences]
    assert stored == [b"%d" % i for i in range(40)]
    assert await count(bus) == 40


async def test_a_lost_answer_to_an_expectation_is_no_conflict_with_oneself(nats_server, bus):
    # The server reads it late: the attempt is given up and repeated, and the second
    # is answered with "wrong last sequence", of what is our own message.
    sent = bus.nc.stats["out_msgs"]
    with nats_server.frozen():
        publishing = asyncio.create_task(publish(bus, "things.a", b"1", expected=0, deadline_s=20))
        async with asyncio.timeout(30):
            while bus.nc.stats["out_msgs"] < sent + 2:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
    assert await publishing == 1
    assert await count(bus) == 1


async def test_a_bus_that_stays_away_is_unavailable_at_the_deadline(nats_server, bus):
    nats_server.kill()
    with pytest.raises(BusUnavailable, match=r"within 0\.3 s while publishing on things\.a"):
        await publish(bus, "things.a", b"1", deadline_s=0.3)


async def test_a_subject_that_no_stream_captures_is_named(bus):
    with pytest.raises(BusUnavailable, match="no stream captures this subject"):
        await publish(bus, "nothing.a", b"1", deadline_s=0.3)


async def test_a_full_stream_refuses_and_keeps_what_it_accepted(bus):
    with pytest.raises(BusRefused, match="maximum bytes exceeded"):
        await fill(bus)
    assert await count(bus) > 50
    assert (await bus.js.get_msg("THINGS", 1)).subject == "things.0"


async def fill(bus: Bus) -> None:
    for i in range(200):
        await publish(bus, f"things.{i}", bytes(1000))


async def test_a_message_that_is_too_large_is_refused(bus):
    with pytest.raises(BusRefused, match="maximum payload exceeded"):
        await publish(bus, "things.a", bytes(2 * 1024 * 1024))


async def test_a_publisher_that_is_cancelled_as_the_answer_comes_ends(bus):
    loop = asyncio.get_running_loop()
    since = loop.time()
    await publish(bus, "things.a", b"1")
    takes_s = loop.time() - since
    for i in range(300):
        publishing = asyncio.create_task(publish(bus, "things.a", b"1"))
        await asyncio.sleep(takes_s * i / 200)
        if publishing.cancel():
            await asyncio.wait({publishing})
            assert publishing.cancelled()
