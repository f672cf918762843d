"""Remember which processes were started, and end those that outlived their `up`.

After a kill -9 of `up` its services still run, serve, and hold the ports and the
data. The next `up` on the same data ends them first. A process is known by pid
and start time, so that a stranger which was given the pid is left alone.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.pids import has_ended, open_process, start_ticks
from wasmfn.paths import write_private


class Started(msgspec.Struct, frozen=True):
    """A process that was started."""

    pid: int
    start_ticks: int


def started(pid: int) -> Started:
    """Return how to know the process `pid`, which must be ours and not waited for yet."""
    return Started(pid, start_ticks(pid) or 0)


def record(file: Path, processes: Mapping[str, Started]) -> None:
    """Write down which processes run now, by name. OSError if it cannot be written."""
    write_private(file, msgspec.json.encode(processes))


def end_orphans(file: Path, within_s: float, last: str = "") -> list[str]:
    """End what an earlier `up` has left, and return the names of what still ran.

    They get SIGTERM, and SIGKILL after `within_s`; the process `last` only after
    all others, because they need it to end in order.
    """
    try:
        recorded = msgspec.json.decode(file.read_bytes(), type=dict[str, Started])
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    running = {
        name: pidfd
        for name, process in recorded.items()
        if (pidfd := open_process(process.pid, process.start_ticks)) is not None
    }
    _end([pidfd for name, pidfd in running.items() if name != last], within_s)
    _end([pidfd for name, pidfd in running.items() if name == last], within_s)
    file.unlink(missing_ok=True)
    return list(running)


def _end(pidfds: list[int], within_s: float) -> None:
    for pidfd in pidfds:
        _send(pidfd, signal.SIGTERM)
    deadline = time.monotonic() + within_s
    for pidfd in pidfds:
        if not has_ended(pidfd, deadline - time.monotonic()):
            _send(pidfd, signal.SIGKILL)
            has_ended(pidfd, within_s)
        os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
