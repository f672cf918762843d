"""Pods that are processes of this machine, told by a directory and by the kernel.

The pod runtime `processes` keeps one directory for each pod with a `pod.json`
in it. That directory is to this source what containerd is to a cluster:
inotify says that a pod was added or removed, and a pidfd for each process says
that it ended, at once and however it ended, also when it is not our child.

A pid alone proves nothing, for it may have been given to another process since
`pod.json` was written; pid and start time together do.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Final

import msgspec
from asyncinotify import Inotify, Mask

from schemas.pods import LocalPod
from services.pids import has_ended, open_process
from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot

log = logging.getLogger(__name__)

POD_FILE: Final = "pod.json"
LOG_FILE: Final = "log"
RESCAN_S: Final = 10.0

ENDED: Final = "its process ended"
REMOVED: Final = "its directory was removed"

_RETRY_S: Final = 0.5
_MAX_POD_FILE_BYTES: Final = 64 * 1024
_PIDS_END: Final = 2**22
"""Linux gives out no larger pid: PID_MAX_LIMIT in proc(5)."""
_WATCHED: Final = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE | Mask.ONLYDIR
_ROOT_GONE: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT


class _Running(msgspec.Struct, frozen=True):
    """A pod whose process runs, and the descriptor that tells when it ends."""

    pod: LocalPod
    pidfd: int


class ProcessSource:
    """Follows the pods below one directory. See `PodSource`."""

    def __init__(self, pods: Path, rescan_s: float = RESCAN_S) -> None:
        self._pods = pods
        self._rescan_s = rescan_s
        self._running: dict[str, _Running] = {}
        self._over: set[str] = set()
        """Pods that ended and whose directory is still there."""
        self._complaints: dict[str, str] = {}
        self._hints: dict[str | None, None] = {}
        self._hinted = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield a snapshot, then changes. See `PodSource.follow`."""
        try:
            while True:
                try:
                    with Inotify() as inotify:
                        async for sighting in self._follow(inotify):
                            yield sighting
                except OSError as error:
                    # Such as a directory that is not there yet, or no inotify watch left.
                    log.warning("cannot follow the pods below %s: %s", self._pods, error)
                await asyncio.sleep(_RETRY_S)
        finally:
            for uid in tuple(self._running):
                self._forget(uid)

    async def _follow(self, inotify: Inotify) -> AsyncGenerator[Sighting, None]:
        """Yield from one inotify instance, for as long as it is of use.

        Raises:
            OSError: the directory cannot be watched, or is gone.
        """
        inotify.add_watch(self._pods, _WATCHED | _ROOT_GONE)
        reading = asyncio.create_task(self._read(inotify))
        reading.add_done_callback(lambda _: self._hinted.set())
        try:
            while True:
                for sighting in self._rescan(inotify):
                    yield sighting
                yield Snapshot(tuple(self._seen(entry.pod) for entry in self._running.values()))
                rescan_at = asyncio.get_running_loop().time() + self._rescan_s
                while (uids := await self._next_hints(reading, rescan_at)) is not None:
                    for uid in uids:
                        for sighting in self._look(inotify, uid):
                            yield sighting
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self, inotify: Inotify) -> None:
        """Turn inotify events into hints.

        Raises:
            FileNotFoundError: the directory of all pods is gone.
        """
        async for event in inotify:
            if Mask.Q_OVERFLOW in event.mask:
                self._hint(None)
            elif event.path is None:
                continue
            elif event.watch is not None and event.watch.path != self._pods:
                self._hint(event.watch.path.name)
            elif event.mask & _ROOT_GONE:
                raise FileNotFoundError(f"{self._pods} was removed")
            elif event.name is not None:
                self._hint(event.name.name)

    def _hint(self, uid: str | None) -> None:
        """Have one pod looked at, or with None all of them."""
        self._hints[uid] = None
        self._hinted.set()

    async def _next_hints(self, reading: asyncio.Task[None], until: float) -> list[str] | None:
        """Return the pods to look at, or None when it is time to look at all of them.

        Raises:
            OSError: from `reading`.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._hinted.wait()
        except TimeoutError:
            return None
        self._hinted.clear()
        if reading.done():
            reading.result()
        hints, self._hints = self._hints, {}
        return None if None in hints else [uid for uid in hints if uid is not None]

    def _rescan(self, inotify: Inotify) -> Iterator[Sighting]:
        """Look at everything there is, and at everything there was."""
        found = {path.name for path in self._pods.iterdir() if path.is_dir()}
        self._over &= found
        self._complaints = {uid: text for uid, text in self._complaints.items() if uid in found}
        for uid in found | set(self._running):
            yield from self._look(inotify, uid)

    def _look(self, inotify: Inotify, uid: str) -> Iterator[Sighting]:
        """Compare what is known of one pod with its file and its process; tell the difference."""
        known = self._running.get(uid)
        if known is not None and has_ended(known.pidfd):
            self._forget(uid)
            self._over.add(uid)
            yield PodGone(uid, ENDED)
            return
        if uid in self._over:
            return
        try:
            # Before the file is read, so that whatever is written later is told.
            inotify.add_watch(self._pods / uid, _WATCHED)
            pod = _read_pod(self._pods / uid)
        except (FileNotFoundError, NotADirectoryError) as error:
            if known is not None and error.filename == self._pods / uid:
                self._forget(uid)
                yield PodGone(uid, REMOVED)
            return
        except (OSError, ValueError) as error:
            self._complain(uid, str(error))
            return
        if known is not None:
            if msgspec.structs.replace(pod, labels=known.pod.labels) != known.pod:
                self._complain(uid, "it was changed; a pod stays what it was")
            return
        yield self._seen(pod)
        pidfd = open_process(pod.pid, pod.start_ticks)
        if pidfd is None:
            self._over.add(uid)
            yield PodGone(uid, ENDED)
            return
        self._running[uid] = _Running(pod, pidfd)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, uid, pidfd)

    def _ended(self, uid: str, pidfd: int) -> None:
        # A pidfd stays readable, so it must not be waited for again.
        asyncio.get_running_loop().remove_reader(pidfd)
        self._hint(uid)

    def _forget(self, uid: str) -> None:
        entry = self._running.pop(uid)
        asyncio.get_running_loop().remove_reader(entry.pidfd)
        os.close(entry.pidfd)

    def _seen(self, pod: LocalPod) -> PodSeen:
        return PodSeen(
            uid=pod.uid,
            name=pod.name,
            labels=pod.labels,
            ip=pod.ip,
            port=pod.port,
            started_at=pod.created_at,
            log=str(self._pods / pod.uid / LOG_FILE),
        )

    def _complain(self, uid: str, text: str) -> None:
        """Log what is wrong with a pod's file, once."""
        if self._complaints.get(uid) != text:
            self._complaints[uid] = text
            log.error("ignoring %s of pod %s: %s", POD_FILE, uid, text)


def _read_pod(directory: Path) -> LocalPod:
    """Return the pod that `directory` describes.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it describes no pod, or another one.
    """
    with (directory / POD_FILE).open("rb") as file:
        content = file.read(_MAX_POD_FILE_BYTES + 1)
    if len(content) > _MAX_POD_FILE_BYTES:
        raise ValueError(f"it is larger than {_MAX_POD_FILE_BYTES} bytes")
    pod = msgspec.json.decode(content, type=LocalPod)
    if pod.uid != directory.name:
        raise ValueError(f"it describes pod {pod.uid!r}")
    if not 0 < pod.pid < _PIDS_END:
        raise ValueError(f"{pod.pid} is no pid")
    return pod
