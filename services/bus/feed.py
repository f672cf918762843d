"""Read a stream as a table: each subject's last message, then everything new.

A feed either delivers every message in order or fails with `FeedLost`; it never
heals itself. Whoever reads it opens another and compares, so there is one way
to recover from a restarted server, a lost message, a lost connection and a
deleted consumer. That is also why this is no `subscribe(ordered_consumer=True)`
of nats-py: that one resumes in silence at a sequence which, in a new stream,
never comes.

Snapshot and news come from two consumers, one after the other. Of a consumer of
last messages the server counts again, subject by subject, how many are left,
whenever older messages are removed: decision 13 has the figures.

The wire protocol of push consumers is in NATS ADR-9 (heartbeats and flow
control) and ADR-17 (ordered consumers).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
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
    """What a stream holds, and what comes. Read it with `snapshot` to the end, then with `next`."""

    def __init__(
        self, bus: Bus, stream: str, filters: Sequence[str], since: datetime | None
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._filters = list(filters) or [">"]
        self._since = since
        self._consumer = _Consumer(bus)
        self._snapshot_only = since is None
        """The consumer in use has what was there, and another one has to bring what comes."""
        self._next_sequence = 1
        self.created = datetime.min.replace(tzinfo=UTC)
        """When the stream was made: tells one stream from its successor of the same name."""

    @property
    def initial(self) -> int:
        """How many messages the snapshot has, or had when the feed was opened."""
        return self._consumer.initial

    async def open(self) -> None:
        """Have the server begin with the snapshot. Errors are those of `open_feed`."""
        now = await _look(self._bus, self._stream)
        self.created, self._next_sequence = now.created, now.last_sequence + 1
        policy = api.DeliverPolicy
        start = api.ConsumerConfig(
            deliver_policy=policy.LAST_PER_SUBJECT if self._since is None else policy.BY_START_TIME,
            opt_start_time=self._since,
        )
        await self._consumer.open(self._stream, self._filters, start)

    async def snapshot(self) -> AsyncIterator[Entry]:
        """Yield the last message of each subject, tombstones included, and end when complete.

        Of a feed opened with `since`: every message from then on.
        """
        received = 0
        while self.initial:
            entry, pending = await self._consumer.next()
            if entry is not None:
                received += 1
                self._next_sequence = max(self._next_sequence, entry.sequence + 1)
                yield entry
            # The three ways in which a server says that nothing older waits.
            if entry is None or pending == 0 or received > self.initial:
                break
        await self._check("read")

    async def next(self) -> Entry | None:
        """Return the next new message, or None about each second when there is none.

        Raises:
            FeedLost: something was missed.
        """
        if self._snapshot_only:
            try:
                await self._go_on()
            except (TimeoutError, nats.errors.Error) as error:
                raise FeedLost(f"cannot go on: {str(error) or 'no answer'}") from error
        entry, _ = await self._consumer.next()
        return entry

    def lose(self, reason: str) -> None:
        """Fail the reader, at once if it waits."""
        self._consumer.lose(reason)

    async def close(self) -> None:
        """Have the server deliver nothing more."""
        await self._consumer.close()

    async def _go_on(self) -> None:
        """Follow what comes after what was read."""
        news = _Consumer(self._bus)
        start = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next_sequence
        )
        try:
            await news.open(self._stream, self._filters, start)
        finally:
            await self._consumer.close()
            self._consumer, self._snapshot_only = news, False
        await self._check("followed")

    async def _check(self, doing: str) -> None:
        if (await _look(self._bus, self._stream)).created != self.created:
            raise FeedLost(f"the stream was replaced while it was {doing}")


class _Consumer:
    """One ordered consumer, which delivers every message from its start on or fails."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.initial = 0
        """How many messages there were for it when it was made."""
        self._subscription: Subscription | None = None
        self._items: asyncio.Queue[tuple[Entry | None, int]] = asyncio.Queue(_QUEUE)
        self._last = 0
        self._lost = ""

    async def open(self, stream: str, filters: list[str], start: api.ConsumerConfig) -> None:
        """Make it; `start` says where it begins."""
        inbox = self._bus.nc.new_inbox()
        self._subscription = await self._bus.nc.subscribe(inbox, cb=self.receive)
        config = start.evolve(
            deliver_subject=inbox,
            filter_subjects=filters,
            ack_policy=api.AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_S,
            # It lives as long as its subscription; nothing of it is worth a disk.
            inactive_threshold=5 * HEARTBEAT_S,
            mem_storage=True,
            num_replicas=1,
        )
        async with self._bus.bounded(_REQUEST_S):
            info = await self._bus.js.add_consumer(stream, config)
        delivered = info.delivered.consumer_seq if info.delivered else 0
        self.initial = delivered + (info.num_pending or 0)

    async def next(self) -> tuple[Entry | None, int]:
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

    async def close(self) -> None:
        """Have the server deliver nothing more; it forgets the consumer by itself."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

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
    feed = Feed(bus, stream, filters, since)
    with bus.on_break(lambda: feed.lose("the connection was lost")):
        try:
            await feed.open()
            yield feed
        finally:
            await feed.close()


class _Look(msgspec.Struct, frozen=True):
    created: datetime
    last_sequence: int


async def _look(bus: Bus, stream: str) -> _Look:
    async with bus.bounded(_REQUEST_S):
        info = await bus.js.stream_info(stream)
    # The server always says so; the client's type leaves it open.
    return _Look(info.created or datetime.min.replace(tzinfo=UTC), info.state.last_seq)
