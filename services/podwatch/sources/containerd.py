"""Pods that a container runtime of this node runs, told by its own events.

A kubelet tells the API server about a pod, which tells its watchers, a good
part of a second after the container was started. The runtime itself tells at
once. It is asked over its socket, in the CRI: that is containerd's in k3s and
in most other clusters, and CRI-O's as well.

Events are hints. At each the container's present state is asked for, and asked
again shortly when it does not show yet what the event said, for the two come
from different parts of a runtime. Everything is listed at the start, whenever
the stream of events was broken, and now and then.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources.runtime import CALL_S, Change, Runtime, RuntimeTrouble
from services.podwatch.sources.sandboxes import ending, is_ours, seen

log = logging.getLogger(__name__)

RESCAN_S: Final = 10.0
REMOVED: Final = "its container was removed"

_RETRY_S: Final = 0.1
_RETRY_MAX_S: Final = 2.0
_AGAIN_S: Final = 0.001
_AGAIN_MAX_S: Final = 0.064
_GIVE_UP_S: Final = 2.0
"""How long to wait for what an event said to show. The next list finds it at last."""


class _Look(msgspec.Struct, frozen=True):
    """A container that is to be looked at, because this happened to it."""

    happened: Literal["started", "ended"]
    at: float
    until: float
    pause_s: float = _AGAIN_S


class ContainerdSource:
    """Follows the keepers that run behind one of these sockets. See `PodSource`."""

    def __init__(self, sockets: Sequence[str], rescan_s: float = RESCAN_S) -> None:
        self._sockets = tuple(sockets)
        self._rescan_s = rescan_s
        self._running: dict[str, PodSeen] = {}
        """What was told and not yet told gone, by container."""
        self._over: set[str] = set()
        """Containers that ended and are still there."""
        self._sandboxes: dict[str, str] = {}
        """The container of each sandbox."""
        self._looks: dict[str, _Look] = {}
        self._look_at_all = False
        self._hinted = asyncio.Event()
        self._complaint = ""

    async def follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield a snapshot, then changes. See `PodSource.follow`."""
        retry_s = _RETRY_S
        while True:
            try:
                async with contextlib.aclosing(self._follow(self._socket())) as sightings:
                    async for sighting in sightings:
                        retry_s = _RETRY_S
                        self._complaint = ""
                        yield sighting
            except RuntimeTrouble as error:
                self._complain(str(error))
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _RETRY_MAX_S)

    def _socket(self) -> str:
        for path in self._sockets:
            if Path(path).is_socket():
                return path
        raise RuntimeTrouble(f"there is no socket {' or '.join(self._sockets)}")

    async def _follow(self, socket: str) -> AsyncGenerator[Sighting, None]:
        """Yield from one connection, for as long as it is of use.

        Raises:
            RuntimeTrouble: it is of no use any more.
        """
        runtime = Runtime(socket)
        self._looks.clear()
        self._look_at_all = False
        reading = asyncio.create_task(self._read(runtime))
        reading.add_done_callback(lambda _: self._hinted.set())
        now = asyncio.get_running_loop().time
        try:
            if not await self._wait(reading, now() + CALL_S):
                raise RuntimeTrouble("it does not tell of events")
            while True:
                self._look_at_all = False
                for sighting in await self._rescan(runtime):
                    yield sighting
                yield Snapshot(tuple(self._running.values()))
                rescan_at = now() + self._rescan_s
                while not self._look_at_all and now() < rescan_at:
                    for container in [c for c, look in self._looks.items() if look.at <= now()]:
                        look = self._looks.pop(container)
                        for sighting in await self._look(runtime, container, look):
                            yield sighting
                    await self._wait(
                        reading, min([rescan_at, *(look.at for look in self._looks.values())])
                    )
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            await runtime.close()

    async def _read(self, runtime: Runtime) -> None:
        """Turn changes into looks.

        Raises:
            RuntimeTrouble: no more are told.
        """
        async with contextlib.aclosing(runtime.changes()) as changes:
            async for change in changes:
                if change is None:
                    self._look_at_all = True
                else:
                    self._look_soon(change)
                self._hinted.set()

    def _look_soon(self, change: Change) -> None:
        at = asyncio.get_running_loop().time()
        container = self._sandboxes.get(change.id, change.id)
        self._looks[container] = _Look(change.happened, at, until=at + _GIVE_UP_S)

    async def _wait(self, reading: asyncio.Task[None], until: float) -> bool:
        """Wait for a hint; return whether one came before `until`.

        Raises:
            RuntimeTrouble: from `reading`.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._hinted.wait()
        except TimeoutError:
            return False
        self._hinted.clear()
        if reading.done():
            reading.result()
        return True

    async def _rescan(self, runtime: Runtime) -> list[Sighting]:
        """Look at every container whose state is not what was told of it."""
        containers, sandboxes = await asyncio.gather(runtime.containers(), runtime.sandboxes())
        ours = {c.id: c for c in containers if c.sandbox in sandboxes}
        sightings: list[Sighting] = []
        for container in ours.values():
            runs = not container.exited and sandboxes[container.sandbox]
            settled = container.id in (self._running if runs else self._over)
            if not settled:
                sightings += await self._look(runtime, container.id)
        for container_id in set(self._running) - set(ours):
            sightings.append(self._gone(container_id, REMOVED))
        self._over &= set(ours)
        return sightings

    async def _look(
        self, runtime: Runtime, container_id: str, look: _Look | None = None
    ) -> list[Sighting]:
        """Compare what is known of one container with how it is; return the difference."""
        listed = await runtime.containers(container_id)
        if not listed:
            # Nothing of ours, or not any more.
            return [self._gone(container_id, REMOVED)] if container_id in self._running else []
        sandbox, container = await asyncio.gather(
            runtime.sandbox(listed[0].sandbox), runtime.container(container_id)
        )
        if sandbox is None or container is None:
            self._look_again(container_id, look)
            return []
        if not is_ours(sandbox) or container_id in self._over:
            return []
        sightings: list[Sighting] = []
        why = ending(sandbox, container)
        known = self._running.get(container_id)
        pod = seen(sandbox, container)
        if container.state != "created" and pod != known and not (known and why):
            self._running[container_id] = pod
            self._sandboxes[sandbox.id] = container_id
            sightings.append(pod)
        if why:
            # One that is made to be started again was never told.
            if container_id in self._running:
                sightings.append(self._gone(container_id, why))
            self._over.add(container_id)
        elif look is not None and (look.happened, container.state) != ("started", "running"):
            self._look_again(container_id, look)
        return sightings

    def _look_again(self, container_id: str, look: _Look | None) -> None:
        now = asyncio.get_running_loop().time()
        if look is None or now > look.until:
            return
        pause_s = min(look.pause_s * 2, _AGAIN_MAX_S)
        again = msgspec.structs.replace(look, at=now + look.pause_s, pause_s=pause_s)
        # What happened meanwhile is to be looked at instead.
        self._looks.setdefault(container_id, again)

    def _gone(self, container_id: str, reason: str) -> PodGone:
        pod = self._running.pop(container_id)
        self._sandboxes = {s: c for s, c in self._sandboxes.items() if c != container_id}
        return PodGone(pod.uid, reason)

    def _complain(self, text: str) -> None:
        """Log why nothing can be told, once."""
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot follow the pods of this node: %s", text)
