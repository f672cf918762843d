"""Name a process for certain, and hold it: a pid is reused, one with its start time is not.

Nor is a pidfd, which stands for one process whatever becomes of the pid.
"""

import os
import select
from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot, or None if it does not run.

    Field 22 of /proc/<pid>/stat, see proc(5). A zombie does not run.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in field 2 may hold spaces and parentheses, so count from its end.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def is_running(pid: int, ticks: int) -> bool:
    """Whether the process that started as `pid` at `ticks` still runs."""
    return start_ticks(pid) == ticks


def open_process(pid: int, ticks: int) -> int | None:
    """Return a pidfd of the process that started as `pid` at `ticks`, or None if it has ended.

    Raises:
        OSError: no descriptor is left.
    """
    if not is_running(pid, ticks):
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Again: until it was held, the pid could become another process's.
    if is_running(pid, ticks):
        return pidfd
    os.close(pidfd)
    return None


def has_ended(pidfd: int, within_s: float = 0.0) -> bool:
    """Wait for up to `within_s` for the process to end, and return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, within_s) * 1000))
