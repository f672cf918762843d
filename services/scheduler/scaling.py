"""Say how many processes a function should have, and which may go.

Pure. Everything is counted in processes: an instance of a function with
`processes: 4` is four of them. Up goes at once, since somebody waits. Down goes
one process at a time and is never decided from reports alone: a process that
may go is *asked* whether it is idle, and only it can agree, so a lost report
never ends a request.
"""

import math
from collections.abc import Sequence

import msgspec

from schemas.specs import Scaling

TARGET_USE = 0.8
"""The share of a process's concurrency that is planned for, so that a burst finds some room."""


class Peak:
    """The greatest load of the last one to two windows.

    Reports are samples: between two requests of a busy function one may say
    zero. What counts for scaling down is the greatest of a while.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._begun = 0.0
        self._current = 0
        self._previous = 0

    def see(self, load: int, now: float) -> None:
        """Take a sample."""
        self._turn(now)
        self._current = max(self._current, load)

    def value(self, now: float) -> int:
        """Return the greatest sample."""
        self._turn(now)
        return max(self._current, self._previous)

    def _turn(self, now: float) -> None:
        windows = (now - self._begun) // self._window_s
        if windows >= 1:
            self._previous = self._current if windows < 2 else 0
            self._current = 0
            self._begun = now


def bounds(scaling: Scaling) -> tuple[int, int]:
    """Return the least and the greatest number of processes."""
    return (
        scaling.min_instances * scaling.processes,
        scaling.max_instances * scaling.processes,
    )


def processes_for(scaling: Scaling, load: int) -> int:
    """Return how many processes `load` invocations in flight or parked need.

    Whole instances, within the bounds. No load needs none beyond the minimum.
    """
    least, most = bounds(scaling)
    per_instance = scaling.processes * max(1.0, scaling.concurrency * TARGET_USE)
    instances = math.ceil(load / per_instance)
    return min(most, max(least, instances * scaling.processes))


class Idleness(msgspec.Struct, frozen=True):
    """What is known of one process: since when it may have been idle, on a monotonic clock."""

    instance: str
    since: float


class Ask(msgspec.Struct, frozen=True):
    """Ask `instance` to go if nothing came to it for `idle_s`."""

    instance: str
    idle_s: float
    reason: str


def surplus(
    scaling: Scaling, serving: Sequence[Idleness], peak: int, now: float
) -> tuple[Ask | None, float | None]:
    """Return whom to ask now, and in how many seconds to look again (None: when something changes).

    A process that nothing came to for the idle timeout may always go, down to
    the minimum. Beyond that, processes that the greatest load of late did not need
    may go as soon as nothing is in flight there, but the last one not: only a
    whole idle timeout of quiet ends that.
    """
    least, _ = bounds(scaling)
    if len(serving) <= least:
        return None, None
    timeout = scaling.idle_timeout_s
    oldest = min(serving, key=lambda one: (one.since, one.instance))
    if now - oldest.since >= timeout:
        return Ask(oldest.instance, timeout, f"idle for {timeout:g} s"), None
    if len(serving) > max(processes_for(scaling, peak), scaling.processes):
        # The others were asked or used since; begin with the one longest not asked.
        return Ask(oldest.instance, 0.0, "more processes than the load of late needed"), None
    return None, timeout - (now - oldest.since)
