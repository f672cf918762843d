"""The event log from the side of a service that must not be held up by it."""

import msgspec

from schemas.events import Event, new_event
from schemas.streams import EVENTS
from services.bus.connection import connect
from services.bus.events import EventLog, event_log
from services.bus.streams import ensure_streams


def event(number: int = 0) -> Event:
    return new_event("router", "default", "function", "sort", "cold-start", f"number {number}")


async def stored(bus) -> list[Event]:
    info = await bus.js.stream_info("EVENTS")
    return [
        msgspec.json.decode((await bus.js.get_msg("EVENTS", sequence)).data, type=Event)
        for sequence in range(info.state.first_seq, info.state.last_seq + 1)
    ]


async def test_what_was_emitted_is_stored_in_order_on_its_subject(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [EVENTS])
        emitted = [event(i) for i in range(50)]
        async with event_log(bus) as events:
            for one in emitted:
                events.emit(one)
        assert await stored(bus) == emitted
        message = await bus.js.get_msg("EVENTS", 1)
        assert message.subject == "wasmfn.events.router.default.function.sort.cold-start"


async def test_an_event_emitted_twice_is_stored_once(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [EVENTS])
        one = event()
        async with event_log(bus) as events:
            events.emit(one)
            events.emit(one)
        assert await stored(bus) == [one]


async def test_events_outlast_a_restart_of_the_server(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js, [EVENTS])
        async with event_log(bus) as events:
            events.emit(event(1))
            await events.drain()
            nats_server.restart()
            events.emit(event(2))
            await events.drain()
        assert [e.message for e in await stored(bus)] == ["number 1", "number 2"]


async def test_beyond_the_bound_events_are_dropped_and_counted(nats_server, caplog):
    async with connect(nats_server.settings, "test") as bus:
        events = EventLog(bus, limit=3)
        for i in range(5):
            events.emit(event(i))
        assert events.dropped == 2
        assert caplog.text.count("events are dropped until NATS is back") == 1


async def test_leaving_while_nats_is_away_takes_a_bounded_time(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        nats_server.kill()
        async with event_log(bus) as events:
            events.emit(event())
