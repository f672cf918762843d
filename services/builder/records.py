"""The records of all builds, as the stream BUILDS has them.

The builder is their only writer, and one builder runs at a time: two would do
the same work twice and agree. So the records are read once, completely, and
then written through; following the stream on shows when it was replaced.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

import msgspec
import nats.errors

from schemas import subjects
from schemas.builds import Build
from schemas.streams import BUILDS
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.errors import Conflict
from services.bus.follow import follow
from services.bus.publish import publish, tombstone
from services.bus.state import Deleted, Entry, Put, Replaced, Snapshot

log = logging.getLogger(__name__)

_ASK_S: Final = 2.0


class Records:
    """Every build's record by id. `run` follows the stream; wait for `complete` before use."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._records: dict[str, tuple[int, Build]] = {}
        self.complete = asyncio.Event()

    def get(self, build: str) -> Build | None:
        """Return the record of a build, or None if it has none."""
        return self._records.get(build, (0, None))[1]

    def __iter__(self) -> Iterator[Build]:
        return iter([build for _, build in self._records.values()])

    async def write(self, build: Build) -> None:
        """Store `build` as its record.

        Raises:
            Conflict: somebody else has written it.
            BusRefused, BusUnavailable: NATS did not take it.
        """
        known = self._records.get(build.id, (0, None))[0]
        subject = subjects.BUILDS.subject(build=build.id)
        payload = msgspec.json.encode(build)
        try:
            sequence = await publish(self._bus, subject, payload, expected=known)
        except Conflict:
            # Where there is no record, what stands there may be the mark that it was deleted.
            if known or not (mark := await self._mark(subject)):
                raise
            sequence = await publish(self._bus, subject, payload, expected=mark)
        self._put(sequence, build)

    async def remove(self, build: str) -> None:
        """Delete the record of a build. Errors are those of `write`."""
        known = self._records.get(build, (0, None))[0]
        await tombstone(self._bus, subjects.BUILDS.subject(build=build), expected=known)
        self._records.pop(build, None)

    async def run(self) -> None:
        """Follow the stream for ever."""
        async for update in follow(self._bus, BUILDS.name):
            match update:
                case Snapshot(entries):
                    for entry in entries:
                        self._take(entry)
                    self.complete.set()
                case Put(entry):
                    self._take(entry)
                case Deleted(subject):
                    tokens = subjects.BUILDS.parse(subject)
                    self._records.pop(tokens["build"] if tokens else "", None)
                case Replaced():
                    # What was built is not there any more either: it is built when asked for.
                    self._records.clear()

    async def _mark(self, subject: str) -> int:
        """Return the sequence of the tombstone on `subject`, or 0 if that is not what is there."""
        try:
            async with self._bus.bounded(_ASK_S):
                last = await self._bus.js.get_last_msg(BUILDS.name, subject)
        except (TimeoutError, nats.errors.Error):
            return 0
        return 0 if last.data else last.seq or 0

    def _take(self, entry: Entry) -> None:
        try:
            build = msgspec.json.decode(entry.payload, type=Build)
        except UNREADABLE as error:
            log.warning("a build's record cannot be read: %s", error, extra={"on": entry.subject})
            return
        self._put(entry.sequence, build)

    def _put(self, sequence: int, build: Build) -> None:
        if sequence > self._records.get(build.id, (0, None))[0]:
            self._records[build.id] = (sequence, build)
