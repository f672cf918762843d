"""The running parts of a local platform, as one supervised tree.

They are all started at once, since each waits for what it needs. They are kept
up: a part that dies is started again and said to have died. And they are taken
down in the order in which nothing in flight is cut: who takes requests first,
the bus last.
"""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

import msgspec

from schemas.events import NO_NAMESPACE, new_event
from schemas.pods import LocalPod
from services.scheduler.pods.processes import read_pod, stop_all
from wasmfn import natsserver, orphans, paths
from wasmfn.discovery import Platform, PlatformFile, Pointer, read_token
from wasmfn.notify import NotifySocket
from wasmfn.paths import write_private
from wasmfn.programs import NATS, STOP_ORDER, Place, nats_program, service_programs
from wasmfn.supervision import FailedError, Supervised

_START_S: Final = 30.0
_KEEPERS_S: Final = 5.0
_SPARE_S: Final = 10.0
_LOOK_S: Final = 0.005
_STORAGE_S: Final = 2.0
_ROOM_BYTES: Final = 16 * 1024 * 1024
"""Less is full again before anything is done with it."""


class Tree:
    """The running platform."""

    def __init__(
        self, place: Place, listener: socket.socket, on_note: Callable[[str], None]
    ) -> None:
        """Nothing is started yet. `listener` is the router's: closed when that is to end."""
        self._place = place
        self._listener = listener
        self._layout = place.layout
        self._on_note = on_note
        self._notify = NotifySocket(self._heard)
        self._telling: set[asyncio.Task[None]] = set()
        self._published = False
        programs = service_programs(place, self._notify.address, os.environ)
        if place.nats_server:
            programs.insert(0, nats_program(place, os.environ))
        self._parts = {
            program.name: Supervised(program, self._record, self._died) for program in programs
        }

    async def run(self, stop: asyncio.Event, on_ready: Callable[[Platform], None]) -> None:
        """Run everything until `stop` is set, then end it in order.

        Raises:
            FailedError: a part did not start.
        """
        tasks = {asyncio.create_task(part.run()) for part in self._parts.values()}
        if NATS in self._parts:
            tasks.add(asyncio.create_task(self._watch_storage(self._parts[NATS])))
        starting = asyncio.create_task(self._start(on_ready))
        stopped = asyncio.create_task(stop.wait())
        try:
            waiting = {starting, stopped, *tasks}
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (starting, stopped):
                task.cancel()
            self._withdraw()
            await self._end()
            for task in tasks:
                task.cancel()
            await asyncio.wait({*tasks, *self._telling})
            self._notify.close()
            self._layout.processes.unlink(missing_ok=True)

    def kill(self) -> None:
        """End everything now."""
        for part in self._parts.values():
            part.kill()
        stop_all(self._layout.pods, 0.0)

    async def _start(self, on_ready: Callable[[Platform], None]) -> None:
        """Return when all is ready and said so.

        Raises:
            FailedError: it takes too long.
        """
        until = asyncio.get_running_loop().time() + _START_S
        if NATS in self._parts:
            host, _, port = self._place.nats_url.removeprefix("nats://").rpartition(":")
            await _in_time(self._parts[NATS], natsserver.until_answering(host, int(port)), until)
            self._parts[NATS].is_ready()
        for part in self._parts.values():
            await _in_time(part, part.ready.wait(), until)
        if not await _keeper_answers(self._layout.pods, _SPARE_S):
            self._on_note(
                "no keeper is ready yet, so the first function will take longer;"
                f" see {self._layout.logs / 'scheduler.log'}"
            )
        self._publish()
        on_ready(self.platform())

    async def _watch_storage(self, nats: Supervised) -> None:
        """Restart a NATS that stores nothing any more once its disk has room."""
        told = False
        while True:
            await asyncio.sleep(_STORAGE_S)
            problem = await natsserver.cannot_store(self._place.nats_health)
            if not problem:
                told = False
            elif shutil.disk_usage(self._layout.nats).free >= _ROOM_BYTES:
                self._on_note("there is room for NATS again")
                nats.restart()
            elif not told:
                told = True
                self._on_note(
                    "NATS takes nothing more until there is room on its disk; what is served"
                    f" stays as it is: {problem}"
                )

    def platform(self) -> Platform:
        """Return how to reach this platform."""
        place = self._place
        return Platform(
            nats_url=place.nats_url,
            token=read_token(place.token_file) if place.token_file else None,
            http_url=f"http://{place.http}",
            data_dir=self._layout.data,
            admin_urls=self._admin_urls(),
        )

    def _admin_urls(self) -> dict[str, str]:
        return {name: part.admin_url for name, part in self._parts.items() if part.admin_url}

    def _publish(self) -> None:
        """Let the commands find this platform."""
        place = self._place
        us = orphans.started(os.getpid())
        file = PlatformFile(
            http=f"http://{place.http}",
            nats=place.nats_url,
            token_file=str(place.token_file) if place.token_file else None,
            pid=us.pid,
            start_ticks=us.start_ticks,
            admin=self._admin_urls(),
        )
        try:
            write_private(self._layout.platform, msgspec.json.encode(file))
            pointer = paths.pointer()
            pointer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(pointer, msgspec.json.encode(Pointer(data_dir=str(self._layout.data))))
        except OSError as error:
            self._on_note(f"the commands may not find this platform by themselves: {error}")
        self._published = True

    def _withdraw(self) -> None:
        """Stop the commands from finding this platform."""
        self._published = False
        with contextlib.suppress(OSError):
            self._layout.platform.unlink(missing_ok=True)

    def _heard(self, pid: int, said: dict[str, str]) -> None:
        """Take a notification from one of our services; from anyone else it is nothing."""
        for part in self._parts.values():
            if part.started is not None and part.started.pid == pid and said.get("READY") == "1":
                part.is_ready(said.get("X_WASMFN_ADMIN", ""))
                if self._published:
                    self._publish()

    def _record(self) -> None:
        """Write down what runs, so that it is found should we be killed."""
        running = {name: part.started for name, part in self._parts.items() if part.started}
        try:
            orphans.record(self._layout.processes, running)
        except OSError as error:
            self._on_note(f"cannot write {self._layout.processes}: {error.strerror}")

    def _died(self, part: Supervised, how: str) -> None:
        """Say that a part has died and is started again, to the person and to the event log."""
        name = part.program.name
        self._on_note(f"the {name} {how} and is started again; see {part.program.log}.1")
        task = asyncio.create_task(self._tell(name, how))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, name: str, how: str) -> None:
        # Most runs never need it, and NATS's client takes long to import.
        from services.bus.connection import BusSettings, connect  # noqa: PLC0415
        from services.bus.errors import BusError  # noqa: PLC0415
        from services.bus.events import event_log  # noqa: PLC0415

        place = self._place
        settings = BusSettings(
            nats_url=place.nats_url,
            nats_token_file=str(place.token_file) if place.token_file else "",
        )
        event = new_event(
            "up", NO_NAMESPACE, "service", name, "restarted",
            f"The {name} {how} and is started again.", level="warning",
        )  # fmt: skip
        with contextlib.suppress(BusError):
            async with connect(settings, "wasmfn up") as bus, event_log(bus) as events:
                events.emit(event)

    async def _end(self) -> None:
        """End everything in order."""
        self._listener.close()
        for names in STOP_ORDER:
            await asyncio.gather(*(self._parts[name].stop() for name in names))
        await asyncio.to_thread(stop_all, self._layout.pods, _KEEPERS_S)
        if NATS in self._parts:
            await self._parts[NATS].stop()


async def _in_time(part: Supervised, wait: Coroutine[None, None, object], until: float) -> None:
    try:
        async with asyncio.timeout_at(until):
            await wait
    except TimeoutError:
        raise FailedError(part.program, f"was not ready within {_START_S:g} s") from None


async def _keeper_answers(pods: Path, within_s: float) -> bool:
    """Return whether a keeper below `pods` answers, waiting for it until it does."""
    # While the others start; one processor has nothing to do.
    from services.podwatch.probe import until_ready  # noqa: PLC0415

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not (running := _running(pods)):  # noqa: ASYNC110 - for a second, once
                await asyncio.sleep(_LOOK_S)
            await until_ready(running[0].uid, running[0].ip, running[0].port)
            return True
    return False


def _running(pods: Path) -> list[LocalPod]:
    return [pod for directory in pods.iterdir() if (pod := read_pod(directory)) is not None]
