"""Name a process for certain: a pid is reused, a pid with its start time is not."""

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
