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

    __slots__ = ("_loop", "_passed", "_timer", "at", "rings")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], object]) -> None:
        self.at = _NEVER
        """Whoever moves it to before `rings` must `arm`."""
        self.rings = _NEVER
        """When the timer that runs will ring; it may be before `at`, never after."""
        self._loop = loop
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None

    @property
    def awaiting(self) -> bool:
        """Whether there is anything that must come in time."""
        return self.at != _NEVER

    def within(self, seconds: float) -> None:
        """Wait for `seconds` from now on, whatever was awaited before."""
        self.until(monotonic() + seconds)

    def until(self, at: float) -> None:
        """Wait until `at`. For who knows what time it is: reading the clock costs as much again."""
        self.at = at
        if at < self.rings:
            self.arm()

    def arm(self) -> None:
        """Let the timer ring at `at`, which is before it would."""
        if self._timer is not None:
            self._timer.cancel()
        self.rings = self.at
        self._timer = self._loop.call_later(self.at - monotonic(), self._ring)

    def clear(self) -> None:
        """Await nothing."""
        self.at = _NEVER

    def stop(self) -> None:
        """Await nothing any more: let go of the timer, too."""
        self.at = self.rings = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self.rings = _NEVER
        if self.at == _NEVER:
            return
        left = self.at - monotonic()
        if left <= 0:
            self.at = _NEVER
            self._passed()
        else:
            self.rings = self.at
            self._timer = self._loop.call_later(left, self._ring)
