"""A bound on a wait that is moved for every request.

Arming and cancelling a timer of the event loop costs more than a microsecond,
and each connection would do it several times for each request. Here moving the
bound is an assignment: the timer that runs is left to find out itself.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

_NEVER: Final = float("inf")


class Deadline:
    """Calls `passed` once what is awaited has not come in time.

    Times are of `time.monotonic`, which is what event loops run by.
    """

    __slots__ = ("_at", "_loop", "_passed", "_rings", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], object]) -> None:
        self._at = _NEVER
        self._loop = loop
        self._passed = passed
        self._rings = _NEVER
        """When the timer that runs will ring; it may be before `_at`, never after."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def awaiting(self) -> bool:
        """Whether there is anything that must come in time."""
        return self._at != _NEVER

    def within(self, seconds: float) -> None:
        """Wait for `seconds` from now on, whatever was awaited before."""
        self.until(monotonic() + seconds)

    def until(self, at: float) -> None:
        """Wait until `at`. For who knows what time it is: reading the clock costs as much again."""
        self._at = at
        if at < self._rings:
            if self._timer is not None:
                self._timer.cancel()
            self._rings = at
            self._timer = self._loop.call_later(at - monotonic(), self._ring)

    def clear(self) -> None:
        """Await nothing."""
        self._at = _NEVER

    def stop(self) -> None:
        """Await nothing any more: let go of the timer, too."""
        self._at = self._rings = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._rings = _NEVER
        if self._at == _NEVER:
            return
        left = self._at - monotonic()
        if left <= 0:
            self._at = _NEVER
            self._passed()
        else:
            self._rings = self._at
            self._timer = self._loop.call_later(left, self._ring)
