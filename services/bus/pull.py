"""Take messages from a durable pull consumer, one at a time, as a worker has room for them.

nats-py's fetch hands back a batch and may leave a request open behind it; what
that then brings is lost until its lease is over. Here one subscription lives as
long as the puller, so that whatever comes for it is delivered, whichever
request it answers. The protocol is in NATS ADR-13 and ADR-9 (heartbeats).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from services.bus.connection import Bus

HEARTBEAT_S: Final = 2.0
_SILENCE_S: Final = 2.5 * HEARTBEAT_S
_ACK_S: Final = 2.0
_NS: Final = 1_000_000_000


class ConsumerGone(Exception):  # noqa: N818 - said by its name
    """There is no such consumer, or JetStream is not there: make sure of it, then pull again."""


class Delivered:
    """One message, ours until it is acknowledged, put back, or its lease is over."""

    def __init__(self, bus: Bus, msg: Msg) -> None:
        self._bus = bus
        self._reply = msg.reply
        self.subject = msg.subject
        self.data = msg.data
        self.headers: dict[str, str] = dict(msg.headers or {})
        metadata = msg.metadata
        self.number = metadata.num_delivered or 1
        """How often it has been delivered, this time included."""
        self.sequence = metadata.sequence.stream
        """Its place in the stream."""
        self.time = metadata.timestamp
        """When the stream stored it."""

    async def acknowledge(self) -> bool:
        """Take it off; False if the server did not say that it is off."""
        try:
            async with self._bus.bounded(_ACK_S):
                await self._bus.nc.request(self._reply, b"+ACK", timeout=2 * _ACK_S)
        except (TimeoutError, nats.errors.Error):
            return False
        return True

    async def extend(self) -> None:
        """Begin its lease anew: it is being worked on."""
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(self._reply, b"+WPI")

    async def put_back(self, delay_s: float) -> None:
        """Have it delivered again, to anyone, not before `delay_s`."""
        payload = b"-NAK " + msgspec.json.encode({"delay": int(delay_s * _NS)})
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(self._reply, payload)


class Puller:
    """Pulls from one consumer. Made by `open_puller`."""

    def __init__(self, bus: Bus, stream: str, consumer: str, inbox: str) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = inbox
        self._request = 0
        self._items: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def next(self, expires_s: float) -> Delivered | None:
        """Return the next message, or None if there was none within about `expires_s`.

        Also None when the connection broke. Call again either way.

        Raises:
            ConsumerGone: the server says so.
        """
        await self._bus.wait_connected()
        if self._items.empty():
            await self._ask(expires_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + expires_s + HEARTBEAT_S
        while True:
            try:
                async with asyncio.timeout_at(min(until, loop.time() + _SILENCE_S)):
                    item = await self._items.get()
            except TimeoutError:
                return None
            if item is None:
                return None
            status = (item.headers or {}).get("Status")
            if status is None:
                return Delivered(self._bus, item)
            said = str((item.headers or {}).get("Description", "")).lower()
            if status == "503" or (status == "409" and "consumer" in said and "exceed" not in said):
                raise ConsumerGone(said or "no such consumer")
            if status != "100" and item.subject == f"{self._inbox}.{self._request}":
                return None

    def broken(self) -> None:
        """Wake who waits: the request did not survive the connection."""
        self._items.put_nowait(None)

    async def receive(self, msg: Msg) -> None:
        """Take one message of the subscription."""
        self._items.put_nowait(msg)

    async def _ask(self, expires_s: float) -> None:
        self._request += 1
        beats = {"idle_heartbeat": int(HEARTBEAT_S * _NS)} if expires_s > 2 * HEARTBEAT_S else {}
        request = {"batch": 1, "expires": int(expires_s * _NS), **beats}
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(
                self._subject,
                msgspec.json.encode(request),
                reply=f"{self._inbox}.{self._request}",
            )


@contextlib.asynccontextmanager
async def open_puller(bus: Bus, stream: str, consumer: str) -> AsyncIterator[Puller]:
    """Open a puller. When left, requests that are open end, and nothing more is delivered."""
    inbox = bus.nc.new_inbox()
    puller = Puller(bus, stream, consumer, inbox)
    subscription = await bus.nc.subscribe(f"{inbox}.*", cb=puller.receive)
    try:
        with bus.on_break(puller.broken):
            yield puller
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
