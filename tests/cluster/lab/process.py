"""A process that the lab started, known well enough that no other is ever signalled."""

import os
import select
import signal
from pathlib import Path
from typing import NamedTuple

from tests.cluster.lab import paths


class Process(NamedTuple):
    """One process; `started` is its start time in clock ticks since the machine booted."""

    pid: int
    started: int

    def signal(self, how: signal.Signals, wait_s: float = 0) -> bool:
        """Send a signal and return if the process is gone within `wait_s`.

        The descriptor keeps meaning this process, also if its id is given to another.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if started(self.pid) != self.started:
                return True
            signal.pidfd_send_signal(descriptor, how)
            readable, _, _ = select.select([descriptor], [], [], wait_s)
            return bool(readable)
        except ProcessLookupError:
            return True
        finally:
            os.close(descriptor)

    def alive(self) -> bool:
        return started(self.pid) == self.started

    def stop(self, within_s: float = 10) -> None:
        """Ask it to end, and make it end if it does not."""
        if not self.signal(signal.SIGTERM, within_s):
            self.kill()

    def kill(self) -> None:
        """Make it end and wait until it has."""
        if not self.signal(signal.SIGKILL, 30):
            raise TimeoutError(f"process {self.pid} does not end")


def started(pid: int) -> int | None:
    """Return the start time of a process that has not ended, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a name in brackets, which may hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def only_child(pid: int) -> Process | None:
    """Return the one child of a process that forks once, or None while it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not children:
        return None
    child = int(children[0])
    ticks = started(child)
    return None if ticks is None else Process(child, ticks)


def save(name: str, process: Process) -> None:
    paths.PIDS.mkdir(parents=True, exist_ok=True)
    (paths.PIDS / name).write_text(f"{process.pid} {process.started}\n")


def load(name: str) -> Process | None:
    """Return the process recorded under `name` if it still runs."""
    try:
        pid, ticks = (paths.PIDS / name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    process = Process(int(pid), int(ticks))
    return process if process.alive() else None
