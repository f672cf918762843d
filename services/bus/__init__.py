"""The services' one way to NATS: connect, make streams, publish, follow, lead.

What each module offers; nothing is re-exported, so that the import says where a
name lives and nobody pays for what they do not use.

    from services.bus.connection import connect, settle
    async with connect(settings, "router") as bus:      # Bus: .nc (nats-py), .js, .connected
        ...
    await settle(bus.nc)        # before "ready": the server has all our subscriptions

    from services.bus.streams import ensure_streams, ensure_buckets
    await ensure_streams(bus.js)                        # all of schemas.streams.STREAMS

    from services.bus.publish import publish, tombstone
    sequence = await publish(bus, subject, payload, expected=seq_or_None)   # stored, or raises
    sequence = await tombstone(bus, subject)                                # deleted, all revisions

    from services.bus.follow import follow
    from services.bus.state import Deleted, Put, Replaced, Snapshot
    async for update in follow(bus, "ACTIVE", [subjects.ACTIVE.filter(kind="route")]):
        match update:
            case Snapshot(entries): ...     # first, once, complete
            case Put(entry): ...            # entry.subject .sequence .payload .time .headers
            case Deleted(subject, sequence): ...
            case Replaced(): ...            # keep what is served; puts of the new stream follow

    from services.bus.lease import lead
    async def govern(reign): ...            # reign.term, reign.holds, reign.lost
    await lead(bus, "scheduler", holder, govern)        # runs govern while leading, for ever

    from services.bus.events import event_log
    async with event_log(bus) as events:
        events.emit(new_event(...))         # never waits, never fails

    from services.bus.objects import find, read, write
    content = await read(bus, MODULES_BUCKET, name, max_bytes)   # whole and checked, or None

Errors are in `services.bus.errors`: `Conflict`, `BusRefused`, `BusUnavailable`,
`StreamConflict`, all `BusError`. A service supervises `bus.watch()`, which raises
when the connection is gone for good.
"""
