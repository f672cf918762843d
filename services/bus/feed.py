"""One ordered consumer of a stream: each subject's last message, then everything new.

A feed either delivers every message in order or fails with `FeedLost`; it never
heals itself. Whoever reads it opens another and compares, so there is one way
to recover from a restarted server, a lost message, a lost connection and a
deleted consumer. That is also why this is no `subscribe(ordered_consumer=True)`
of nats-py: that one resumes in silence at a sequence which, in a new stream,
never comes.

The wire protocol of push consumers is in NATS ADR-9 (heartbeats and flow
control) and ADR-17 (ordered consumers).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js import api

from services.bus.connection import Bus
from services.bus.state import Entry

HEARTBEAT_S: Final = 1.0
_SILENCE_S: Final = 2.2 * HEARTBEAT_S
_REQUEST_S: Final = 1.0
"""A request that a restart swallowed must not hold up the next attempt."""
_QUEUE: Final = 256
"""Messages read ahead. When full, flow control stops the server."""


class FeedLost(Exception):  # noqa: N818 - said by its name
    """The feed has missed something, or cannot tell: open another one."""


class Feed:
    """A running consumer. Read it with `snapshot` to the end, then with `next`."""

    def __init__(self, bus: Bus, stream: str, created: datetime) -> None:
        self._bus = bus
        self._stream = stream
        self.created = created
        """When the stream was made: tells one stream from its successor of the same name."""
        self.initial = 0
        """How many messages the snapshot has, or had when the consumer was made."""
        self._items: asyncio.Queue[tuple[Entry | None, int]] = asyncio.Queue(_QUEUE)
        self._last = 0
        self._lost = ""

    async def snapshot(self) -> AsyncIterator[Entry]:
        """Yield the last message of each subject, tombstones included, and end when complete.

        Of a feed opened with `since`: every message from then on.
        """
        received = 0
        while self.initial:
            entry, pending = await self._next()
            if entry is not None:
                received += 1
                yield entry
            # The three ways in which a server says that nothing older waits.
            if entry is None or pending == 0 or received > self.initial:
                break
        if await _created(self._bus, self._stream) != self.created:
            raise FeedLost("the stream was replaced while it was read")

    async def next(self) -> Entry | None:
        """Return the next new message, or None about each second when there is none."""
        entry, _ = await self._next()
        return entry

    async def _next(self) -> tuple[Entry | None, int]:
        """Return (entry, messages behind it); (None, 0) when the server says it is idle."""
        if self._lost:
            raise FeedLost(self._lost)
        try:
            async with asyncio.timeout(_SILENCE_S):
                item = await self._items.get()
        except TimeoutError:
            raise FeedLost("no heartbeat") from None
        if self._lost:
            raise FeedLost(self._lost)
        return item

    def lose(self, reason: str) -> None:
        """Fail the reader, at once if it waits."""
        self._lost = self._lost or reason
        with contextlib.suppress(asyncio.QueueFull):
            self._items.put_nowait((None, 0))

    async def receive(self, msg: Msg) -> None:
        """Take one message of the subscription. Waits when the reader is behind."""
        if not msg.reply.startswith("$JS.ACK."):
            await self._control(msg)
            return
        meta = msg.metadata
        if meta.sequence.consumer != self._last + 1:
            self.lose(f"message {self._last + 1} of the consumer is missing")
            return
        self._last = meta.sequence.consumer
        entry = Entry(
            msg.subject, meta.sequence.stream, msg.data, meta.timestamp, dict(msg.headers or {})
        )
        await self._items.put((entry, meta.num_pending))

    async def _control(self, msg: Msg) -> None:
        headers = msg.headers or {}
        # Answered only here, after everything before it was taken: this is the brake.
        reply = msg.reply or headers.get("Nats-Consumer-Stalled")
        if reply:
            await self._bus.nc.publish(reply)
        last = headers.get("Nats-Last-Consumer")
        if last is None:
            return
        if int(last) != self._last:
            self.lose(f"the server is at message {last}, this feed at {self._last}")
        elif not reply:
            await self._items.put((None, 0))


@contextlib.asynccontextmanager
async def open_feed(
    bus: Bus, stream: str, filters: Sequence[str], *, since: datetime | None = None
) -> AsyncIterator[Feed]:
    """Open a feed of the subjects that match `filters`; no filters means all.

    A stream that is a log and not a table is read from the time `since`.

    Raises:
        TimeoutError: the bus is away, or it is not permitted.
        nats.js.errors.NotFoundError: there is no such stream.
    """
    feed = Feed(bus, stream, await _created(bus, stream))
    inbox = bus.nc.new_inbox()
    with bus.on_break(lambda: feed.lose("the connection was lost")):
        subscription = await bus.nc.subscribe(inbox, cb=feed.receive)
        try:
            config = _consumer(inbox, filters, since)
            async with bus.bounded(_REQUEST_S):
                info = await bus.js.add_consumer(stream, config)
            delivered = info.delivered.consumer_seq if info.delivered else 0
            feed.initial = delivered + (info.num_pending or 0)
            yield feed
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()


def _consumer(inbox: str, filters: Sequence[str], since: datetime | None) -> api.ConsumerConfig:
    policy = api.DeliverPolicy
    return api.ConsumerConfig(
        deliver_subject=inbox,
        deliver_policy=policy.LAST_PER_SUBJECT if since is None else policy.BY_START_TIME,
        opt_start_time=since,
        filter_subjects=list(filters) or [">"],
        ack_policy=api.AckPolicy.NONE,
        max_deliver=1,
        flow_control=True,
        idle_heartbeat=HEARTBEAT_S,
        # It lives as long as its subscription; nothing of it is worth a disk.
        inactive_threshold=5 * HEARTBEAT_S,
        mem_storage=True,
        num_replicas=1,
    )


async def _created(bus: Bus, stream: str) -> datetime:
    # The server always says so; the client's type leaves it open.
    async with bus.bounded(_REQUEST_S):
        info = await bus.js.stream_info(stream)
    return info.created or datetime.min.replace(tzinfo=UTC)
