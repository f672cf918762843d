"""Carry the functions' log lines from the keepers' logs to the stream LOGS.

One task for each keeper reads its log and publishes what it finds, in order,
each line under an id made of its place: a batch that is repeated after a lost
answer or a restart is stored once. The place is remembered after the answer.
Nothing is held in memory: while the bus is away, lines wait in the file.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

import msgspec
from asyncinotify import Inotify, Mask

from schemas import subjects
from schemas.events import LogLine
from services.bus.connection import Bus
from services.bus.errors import BusError, BusRefused
from services.bus.publish import publish
from services.podwatch.lines import GarbageError, Meter, parse
from services.podwatch.offsets import Offsets, Position
from services.podwatch.rotated import RotatedTail
from services.podwatch.sources import LogFormat
from services.podwatch.tail import Batch, Line, Tail

log = logging.getLogger(__name__)

_PAUSE_S: Final = 1.0
_LOOK_S: Final = 5.0
"""How often to look at a log of which no change was told."""
_LOOK_SOON_S: Final = 0.1
"""When to look for the rest of a log whose writer changes to another file."""
_AT_ONCE: Final = 64
"""Lines on their way to the bus at one time, for each log."""


class _Followed(msgspec.Struct):
    """A log that is followed."""

    task: asyncio.Task[None]
    grown: asyncio.Event
    ended: bool = False
    """Nothing is written to it any more: stop at its end."""


class LogCarrier:
    """Follows the logs of the pods it is told of."""

    def __init__(self, bus: Bus, offsets: Offsets, meter: Meter | None = None) -> None:
        self._bus = bus
        self._offsets = offsets
        self._meter = meter or Meter()
        self._followed: dict[str, _Followed] = {}
        self._inotify = Inotify()
        self._watched: dict[Path, asyncio.Event] = {}
        self._unreadable: set[str] = set()
        """Pods whose log could not be opened, which is said once."""
        self.published = 0
        self.dropped = 0
        """Lines over the rate, too long, or cut unread."""
        self.garbage = 0

    async def run(self) -> None:
        """Wake the readers of logs that grow, until cancelled; then let the files go."""
        try:
            async for event in self._inotify:
                if Mask.Q_OVERFLOW in event.mask:
                    for followed in self._followed.values():
                        followed.grown.set()
                elif event.watch is not None and event.watch.path in self._watched:
                    self._watched[event.watch.path].set()
        finally:
            tasks = {followed.task for followed in self._followed.values()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            self._inotify.close()

    def follow(self, uid: str, path: Path, namespace: str, log_format: LogFormat = "lines") -> None:
        """Carry the lines of this pod's log, from where it was left. Harmless to repeat."""
        if uid in self._followed:
            return
        grown = asyncio.Event()
        carrying = self._carry(uid, path, namespace, grown, log_format)
        task = asyncio.create_task(carrying, name=f"log of {uid}")
        self._followed[uid] = _Followed(task, grown)
        task.add_done_callback(lambda _: self._followed.pop(uid, None))

    def end(self, uid: str) -> None:
        """Read this pod's log to its end and let it go."""
        if (followed := self._followed.get(uid)) is not None:
            followed.ended = True
            followed.grown.set()

    def keep(self, uids: set[str]) -> None:
        """Forget how far the logs of other pods than these were read."""
        self._offsets.keep(uids | set(self._followed))
        self._unreadable &= uids

    async def _carry(
        self,
        uid: str,
        path: Path,
        namespace: str,
        grown: asyncio.Event,
        log_format: LogFormat,
    ) -> None:
        try:
            tail, position = self._open(uid, path, log_format)
            watch = self._inotify.add_watch(tail.watched, Mask.MODIFY | Mask.CREATE)
        except OSError as error:
            if uid not in self._unreadable:
                log.warning("cannot follow the log of pod %s: %s", uid, error)
            self._unreadable.add(uid)
            return
        self._watched[tail.watched] = grown
        try:
            await self._read(uid, tail, position, namespace, grown)
        finally:
            del self._watched[tail.watched]
            # It may have gone together with its file.
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(watch)
            tail.close()

    def _open(
        self, uid: str, path: Path, log_format: LogFormat
    ) -> tuple[Tail | RotatedTail, Position]:
        if log_format == "cri":
            rotated = RotatedTail(path, self._offsets.last(uid))
            return rotated, rotated.begin
        tail = Tail(path)
        return tail, self._offsets.get(uid, tail.inode)

    async def _read(
        self,
        uid: str,
        tail: Tail | RotatedTail,
        position: Position,
        namespace: str,
        grown: asyncio.Event,
    ) -> None:
        while True:
            # Before the log is looked at, so that no line after it is missed.
            grown.clear()
            ended = self._followed[uid].ended
            while (batch := tail.read(position)) is not None:
                position = await self._take(uid, tail, namespace, batch, position)
                self._offsets.put(uid, position)
                # A batch of nothing but garbage waits for nobody, and a pod may die meanwhile.
                await asyncio.sleep(0)
            if ended and not tail.waits:
                return
            trimmed = tail.trim(position)
            if trimmed != position:
                position = trimmed
                self._offsets.put(uid, position)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SOON_S if tail.waits else _LOOK_S):
                    await grown.wait()

    async def _take(
        self,
        uid: str,
        tail: Tail | RotatedTail,
        namespace: str,
        batch: Batch,
        position: Position,
    ) -> Position:
        """Publish a batch; return where to go on. Waits for as long as the bus is away."""
        lines = self._admitted(batch.lines, namespace)
        self.dropped += batch.skipped
        for start in range(0, len(lines), _AT_ONCE):
            some = lines[start : start + _AT_ONCE]
            while not await self._publish(uid, some):
                if (cut := tail.cut_backlog(position)) is not None:
                    self.dropped += cut.skipped
                    return cut.then
                await asyncio.sleep(_PAUSE_S)
        return batch.then

    def _admitted(self, lines: tuple[Line, ...], namespace: str) -> list[tuple[Position, LogLine]]:
        now = asyncio.get_running_loop().time()
        admitted = []
        for line in lines:
            try:
                parsed = parse(line.raw, namespace)
            except GarbageError:
                self.garbage += 1
                continue
            if parsed is None:
                continue
            if (passed := self._meter.admit(parsed, now)) is None:
                self.dropped += 1
            else:
                admitted.append((line.at, passed))
        return admitted

    async def _publish(self, uid: str, lines: list[tuple[Position, LogLine]]) -> bool:
        """Publish lines in order; return whether the bus has taken or refused every one."""
        results = await asyncio.gather(
            *(
                publish(
                    self._bus,
                    subjects.LOGS.subject(namespace=line.namespace, function=line.function),
                    msgspec.json.encode(line),
                    message_id=f"{uid}.{at.generation}.{at.offset}",
                )
                for at, line in lines
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, BusError):
                raise result
        refused = [result for result in results if isinstance(result, BusRefused)]
        if refused:
            log.warning("%d log lines were refused: %s", len(refused), refused[0])
            self.dropped += len(refused)
        done = [r for r in results if isinstance(r, int | BusRefused)]
        self.published += len(done) - len(refused)
        return len(done) == len(results)
