"""Keep one program running: start it, hear when it is ready, start it again when it ends.

What a supervisor knows is small and kept in one place: the process, since when
it runs, and whether it is wanted. A program that ends before it was ever ready
is not started again, because what is wrong then will not pass by itself.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from services.pids import start_ticks
from wasmfn.orphans import Started

_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 5.0
_SETTLED_S: Final = 30.0
"""A program that ran this long is started again at once when it ends."""
_TAIL_BYTES: Final = 8192
LOG_BYTES: Final = 32 * 1024 * 1024
"""A longer log is put aside, in the place of the one before."""
_LOOK_S: Final = 5.0


class Program(msgspec.Struct, frozen=True):
    """What is run, and how."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    grace_s: float
    """How long it may take to end after SIGTERM."""
    inherited: tuple[int, ...] = ()
    """Open files of ours that it gets, under their numbers."""


class FailedError(Exception):
    """A program ended, or was not ready in time, before it had ever been ready."""

    def __init__(self, program: Program, how: str) -> None:
        """Say what happened, in the program's own last words if it had some."""
        self.program = program
        words = last_words(program.log)
        super().__init__(
            f"the {program.name} {how}" + (f": {words}" if words else f"; see {program.log}")
        )


class Supervised:
    """One program that is kept running."""

    def __init__(
        self,
        program: Program,
        on_change: Callable[[], None],
        on_death: Callable[["Supervised", str], None],
    ) -> None:
        """Tell `on_change` of each start and end, `on_death` of each unwanted end and how."""
        self.program = program
        self.ready = asyncio.Event()
        self.admin_url = ""
        self.started: Started | None = None
        self._on_change = on_change
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    def is_ready(self, admin_url: str = "") -> None:
        """Take note that the program is ready."""
        self.admin_url = admin_url
        self.ready.set()

    async def run(self) -> None:
        """Keep the program running until it is stopped.

        Raises:
            FailedError: it ended before it was ever ready.
        """
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while not await self._is_stopped(pause_s):
            since = loop.time()
            try:
                how = await self._run_once()
            except OSError as error:
                how = f"cannot be started: {error}"
            if self._stopped.is_set():
                break
            if not self.ready.is_set():
                raise FailedError(self.program, how)
            self._on_death(self, how)
            settled = loop.time() - since > _SETTLED_S
            pause_s = _PAUSE_S if settled or not pause_s else min(pause_s * 2, _PAUSE_MAX_S)

    async def _is_stopped(self, within_s: float) -> bool:
        """Whether the program is not wanted any more, after waiting for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _run_once(self) -> str:
        """Run the program to its end; return how it ended, in words."""
        rotate(self.program.log)
        with self.program.log.open("ab") as log:
            self._process = process = subprocess.Popen(  # noqa: S603, ASYNC220 - a vfork, 1 ms
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.program.environment,
                pass_fds=self.program.inherited,
                # Ctrl-C at a terminal is for us alone: we end them in order.
                start_new_session=True,
                cwd="/",
            )
        self.started = Started(process.pid, start_ticks(process.pid) or 0)
        self._ended.clear()
        self._on_change()
        bounding = asyncio.create_task(_bound(self.program.log))
        try:
            await _exit_of(process.pid)
        finally:
            bounding.cancel()
            # What it left of its group; and when cancelled, itself. Before it is waited
            # for, since until then nobody else can be given its pid.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            self.started = None
            self._ended.set()
            self._on_change()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def restart(self) -> None:
        """End the program in order, so that it is started again."""
        self._send(signal.SIGTERM)

    async def stop(self) -> None:
        """End the program for good: SIGTERM, and SIGKILL after its grace."""
        self._stopped.set()
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.program.grace_s):
                await self._ended.wait()
        except TimeoutError:
            self._send(signal.SIGKILL)
            await self._ended.wait()

    def kill(self) -> None:
        """End the program for good, now."""
        self._stopped.set()
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and not self._ended.is_set():
            self._process.send_signal(number)


async def _exit_of(pid: int) -> None:
    """Return when the child `pid` has ended. It is still to be waited for."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def rotate(log: Path) -> None:
    """Put the last run's log aside as `….1`, so that a log is of one run."""
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_name(log.name + ".1"))


async def _bound(log: Path) -> None:
    """Keep a log that is being written from growing for ever."""
    while True:
        await asyncio.sleep(_LOOK_S)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(shorten, log)


def shorten(log: Path) -> None:
    """Put what a long log holds aside as `….1`, and empty it under its writer, which appends.

    A line that is written in between is lost.
    """
    if log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


def last_words(log: Path) -> str:
    """Return the last error in a log, or else its last line; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = deque(file.read().decode("utf-8", "replace").splitlines())
    except OSError:
        return ""
    said = [_message(line) for line in lines if line.strip()]
    errors = [text for level, text in said if level == "error"]
    return errors[-1] if errors else said[-1][1] if said else ""


class _LogLine(msgspec.Struct):
    message: str
    level: str = ""


def _message(line: str) -> tuple[str, str]:
    """Return level and message of a JSON log line, or the bare line."""
    try:
        decoded = msgspec.json.decode(line, type=_LogLine)
    except msgspec.DecodeError:
        return "", line.strip()
    return decoded.level, decoded.message
