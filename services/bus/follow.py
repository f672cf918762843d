"""Follow a stream as state: a complete snapshot, then every change, for ever.

Events are hints and connections break, so state is compared, not trusted: after
every break, and slowly all the time, a fresh complete snapshot is laid over
what was told before and the difference is told. Silence deletes nothing: while
NATS is away there is no update at all, and a subject that a snapshot lacks is
told as deleted only after the stream itself said that nothing is there.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import nats.errors
from nats.js import errors as js_errors

from services.bus.connection import Bus
from services.bus.feed import Feed, FeedLost, open_feed
from services.bus.state import Entry, Held, Replaced, Snapshot, Update

log = logging.getLogger(__name__)

RESYNC_S: Final = 60.0
_REQUEST_S: Final = 1.0
_PAUSE_S: Final = (0.05, 0.15)
_PAUSE_GROWTH: Final = 2.0
_PAUSE_MAX_S: Final = 2.0


async def follow(
    bus: Bus,
    stream: str,
    filters: Sequence[str] = (),
    *,
    resync_s: float = RESYNC_S,
    tombstones: bool = False,
) -> AsyncGenerator[Update, None]:
    """Yield a `Snapshot`, then `Put`, `Deleted` and `Replaced`, without end.

    For one subject, sequences only grow, except after `Replaced`. Trouble with
    the bus is logged and outlasted, never raised: put a timeout around the wait
    for the first update to bound it. Memory: one sequence per subject.

    Args:
        bus: the connection.
        stream: the stream's name.
        filters: subjects to follow, wildcards allowed, not overlapping; none means all.
        resync_s: how often to compare with a fresh snapshot, give or take a quarter.
        tombstones: tell also of the deletion of what was never told of.
    """
    held = Held(tombstones=tombstones)
    pause_s = 0.0
    loop = asyncio.get_running_loop()
    while True:
        await bus.wait_connected()
        began = loop.time()
        try:
            async with open_feed(bus, stream, filters) as feed:
                async for update in _read(bus, stream, feed, held, resync_s):
                    pause_s = 0.0
                    yield update
                    del update  # A snapshot would stay in memory until there is news.
            continue
        except FeedLost as lost:
            log.info("reading %s anew: %s", stream, lost)
        except js_errors.NotFoundError:
            log.warning("there is no stream %s yet; waiting for it", stream)
        except (nats.errors.Error, TimeoutError) as error:
            if bus.connected:
                log.warning("cannot follow %s yet: %s", stream, str(error) or "no answer")
        if loop.time() - began > _PAUSE_MAX_S:
            pause_s = 0.0  # It went well for a while.
        await asyncio.sleep(pause_s)
        pause_s = min(max(pause_s, random.uniform(*_PAUSE_S)) * _PAUSE_GROWTH, _PAUSE_MAX_S)  # noqa: S311 - jitter


async def _read(
    bus: Bus, stream: str, feed: Feed, held: Held, resync_s: float
) -> AsyncIterator[Update]:
    """Yield what one feed tells: all there is, or what differs, then changes for a while."""
    if held.created is None:
        yield await _first(feed, held)
    else:
        if held.created != feed.created:
            log.warning("the stream %s is another one now; what was told stands", stream)
            held.restart(feed.created)
            yield Replaced(stream, feed.created)
        async for update in _compare(bus, stream, feed, held):
            yield update
    async for update in _changes(feed, held, resync_s):
        yield update


async def _first(feed: Feed, held: Held) -> Snapshot:
    """Return all there is."""
    entries = [entry async for entry in feed.snapshot()]
    held.restart(feed.created, entries)
    return Snapshot(
        tuple(entry for entry in entries if entry.payload),
        tuple(entry.subject for entry in entries if not entry.payload),
    )


async def _compare(bus: Bus, stream: str, feed: Feed, held: Held) -> AsyncIterator[Update]:
    """Yield how a complete snapshot differs from what is held."""
    seen: set[str] = set()
    async for entry in feed.snapshot():
        seen.add(entry.subject)
        if (update := held.take(entry)) is not None:
            yield update
    for subject in held.missing(seen):
        last = await _last(bus, stream, subject)
        update = held.drop(subject) if last is None else held.take(last)
        if update is not None:
            yield update


async def _changes(feed: Feed, held: Held, for_s: float) -> AsyncIterator[Update]:
    """Yield changes until it is time to compare again."""
    loop = asyncio.get_running_loop()
    until = loop.time() + for_s * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
    while loop.time() < until:
        entry = await feed.next()
        if entry is not None and (update := held.take(entry)) is not None:
            yield update


async def _last(bus: Bus, stream: str, subject: str) -> Entry | None:
    """Return the last message of `subject`, or None if the stream says there is none."""
    try:
        async with bus.bounded(_REQUEST_S):
            raw = await bus.js.get_last_msg(stream, subject)
    except js_errors.NotFoundError:
        return None
    assert raw.seq is not None  # noqa: S101 - the client's type is wider than the protocol
    assert raw.time is not None  # noqa: S101
    return Entry(subject, raw.seq, raw.data or b"", raw.time, dict(raw.headers or {}))
