"""Remove what no kept revision of any spec leads to, now and then.

Decided is from what was read whole, or not at all: a stream that cannot be read
to its end, or was replaced, means that nothing is removed in this round. Before
each removal the claims of this very moment are asked once more.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from schemas.builds import MODULES_BUCKET
from schemas.events import NO_NAMESPACE, new_event
from services.builder import garbage
from services.builder.claimants import Claimants, Unreadable, read_kept
from services.builder.claims import Claim, union
from services.builder.garbage import Garbage, Stored
from services.builder.images import ImageBuilder
from services.builder.pipeline import Pipeline
from services.builder.records import Records
from services.bus import objects
from services.bus.connection import Bus
from services.bus.errors import BusError, Conflict
from services.bus.events import EventLog

log = logging.getLogger(__name__)

_SHOWN: Final = 100
"""How many names of each kind an event lists."""


class Collector:
    """Collects garbage. `run` does it for ever."""

    def __init__(
        self,
        bus: Bus,
        records: Records,
        claimants: Claimants,
        pipeline: Pipeline,
        images: ImageBuilder,
        events: EventLog,
        *,
        after_s: float,
    ) -> None:
        self._bus = bus
        self._records = records
        self._claimants = claimants
        self._pipeline = pipeline
        self._images = images
        self._events = events
        self._after_s = after_s

    async def run(self, every_s: float) -> None:
        """Collect every `every_s` seconds, not at once."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.collect()
            except (Unreadable, BusError, OSError) as error:
                log.warning("nothing more is collected for now: %s", error)

    async def collect(self) -> None:
        """Remove what may go.

        Raises:
            Unreadable, BusError, OSError: not everything could be read, or removed.
        """
        await self._records.complete.wait()
        await self._claimants.complete.wait()
        # What is stored comes first: whatever leads to it was published before it is read.
        stored = [
            Stored(found.name, found.stored)
            for found in await objects.list_all(self._bus, MODULES_BUCKET)
        ]
        layouts = await self._images.made()
        kept = await read_kept(self._bus)
        found = garbage.find(
            self._records,
            stored,
            layouts,
            self._claimed(kept.claim),
            garbage.ages(kept.since, datetime.now(UTC), self._after_s),
        )
        removed = Garbage(
            builds=tuple([b for b in found.builds if await self._remove_record(b, kept.claim)]),
            objects=tuple([o for o in found.objects if await self._remove_object(o, kept.claim)]),
            layouts=tuple([i for i in found.layouts if await self._remove_layout(i, kept.claim)]),
        )
        if removed != Garbage():
            self._tell(removed)

    def _claimed(self, kept: Claim) -> Claim:
        return union([kept, self._claimants.claim()])

    async def _remove_record(self, build: str, kept: Claim) -> bool:
        record = self._records.get(build)
        if record is None or garbage.keeps(record, self._claimed(kept)):
            return False
        try:
            await self._records.remove(build)
        except Conflict:
            return False  # It was written anew, so it is wanted.
        return True

    async def _remove_object(self, name: str, kept: Claim) -> bool:
        # A build of that module would find it, and be done.
        async with self._pipeline.alone(name.partition(".")[0]):
            if name in garbage.needed_objects(self._records, self._claimed(kept)):
                return False
            await objects.remove(self._bus, MODULES_BUCKET, name)
        return True

    async def _remove_layout(self, build: str, kept: Claim) -> bool:
        if self._records.get(build) is not None or build in self._claimed(kept).builds:
            return False
        await self._images.discard(build)
        return True

    def _tell(self, removed: Garbage) -> None:
        self._events.emit(
            new_event(
                "builder",
                NO_NAMESPACE,
                "build",
                "garbage",
                "collected",
                f"{len(removed.builds)} builds, {len(removed.objects)} stored modules and artifacts"
                f" and {len(removed.layouts)} images, which no kept revision names, were removed",
                builds=removed.builds[:_SHOWN],
                objects=removed.objects[:_SHOWN],
                images=removed.layouts[:_SHOWN],
            )
        )
