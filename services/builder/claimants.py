"""Who claims builds: what SPECS and ACTIVE hold, followed live or read whole.

The live view knows the last message of each object. Revisions before it are
kept by SPECS too, for a roll back; they are read when something is to be
collected, which is seldom.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
import nats.errors

from schemas import subjects
from schemas.streams import ACTIVE, BUILDS, SPECS
from services.builder.claims import Claim, of_active, of_spec, union
from services.bus.connection import Bus
from services.bus.feed import FeedLost, open_feed
from services.bus.follow import follow
from services.bus.state import Deleted, Entry, Put, Replaced, Snapshot

log = logging.getLogger(__name__)

_BEGINNING = datetime.fromisoformat("1970-01-02T00:00:00+00:00")


class Unreadable(Exception):  # noqa: N818 - a state of the world
    """Not everything could be read, so nothing is known of what is missing."""


class Kept(msgspec.Struct, frozen=True):
    """All that the two streams name, every kept revision included."""

    claim: Claim
    since: datetime
    """When the youngest of the streams that lead to something was made, BUILDS among them. What
    is older may have been claimed before that."""


class Claimants:
    """The claims of the last message of each object. `run` follows them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._claims: dict[str, Claim] = {}
        self._read: set[str] = set()
        self.complete = asyncio.Event()
        """Set once both streams were read whole."""
        self.changed = asyncio.Event()
        """Set whenever what is claimed is to be looked at again; its reader clears it."""

    def claim(self) -> Claim:
        """Return all that is claimed now. Good for a decision only when `complete`."""
        return union(self._claims.values())

    async def run(self) -> None:
        """Follow both streams for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(SPECS.name))
            tasks.create_task(self._follow(ACTIVE.name))

    async def _follow(self, stream: str) -> None:
        async for update in follow(self._bus, stream):
            match update:
                case Snapshot(entries):
                    for entry in entries:
                        self._claims[entry.subject] = claim_of(entry)
                    self._read.add(stream)
                    if len(self._read) == 2:
                        self.complete.set()
                case Put(entry):
                    self._claims[entry.subject] = claim_of(entry)
                case Deleted(subject):
                    self._claims.pop(subject, None)
                case Replaced():
                    # The loss of a stream's data takes nobody's claim away.
                    log.warning("the stream %s is a new one; what was claimed stays so", stream)
            self.changed.set()


async def read_kept(bus: Bus) -> Kept:
    """Return all that is claimed, every kept revision included, as of now.

    Raises:
        Unreadable: not everything could be read.
    """
    claims: list[Claim] = []
    since = _BEGINNING
    for stream in (SPECS.name, ACTIVE.name):
        async with _readable(stream), open_feed(bus, stream, (), since=_BEGINNING) as feed:
            read = [claim_of(entry) async for entry in feed.snapshot()]
            since = max(since, feed.created)
        if len(read) < feed.initial:
            raise Unreadable(f"the stream {stream} changed while it was read")
        claims += read
    async with _readable(BUILDS.name), open_feed(bus, BUILDS.name, ()) as feed:
        since = max(since, feed.created)
    return Kept(union(claims), since)


@contextlib.asynccontextmanager
async def _readable(stream: str) -> AsyncIterator[None]:
    try:
        yield
    except (FeedLost, TimeoutError, nats.errors.Error) as error:
        reason = str(error) or "no answer"
        raise Unreadable(f"the stream {stream} cannot be read: {reason}") from error


def claim_of(entry: Entry) -> Claim:
    """Return what one message of either stream claims."""
    if not entry.payload:
        return Claim()
    if subjects.SPECS.parse(entry.subject) is not None:
        return of_spec(entry.payload, entry.sequence)
    return of_active(entry.payload)
