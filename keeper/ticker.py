"""Advances an engine's epoch while calls run, so that they give way to each other.

Compiled code compares the epoch at every loop and function entry and yields
when it has moved. Something outside must move it: user code runs on the only
other thread. Fuel would need no thread, but counts a `memory.fill` of 100 MiB
as one instruction, so a loop of those would hold a child for hours; by epoch
it yields after each. Measured: a tick of 5 ms costs nothing that shows next to
30 us calls.

An idle process must not wake up 200 times a second (hundreds of them share a
node), so the thread parks when no call came during a whole tick.

The thread is one of `_thread`: importing `threading` makes every fork write to
0.4 MiB of memory that would else stay shared.
"""

import _thread
import time
from collections.abc import Callable

from keeper import capi

TICK_S = 0.005
"""The slice that one call runs before others get their turn."""


class Ticker:
    """The thread that moves the epoch of one engine. It starts with the first slice, or before."""

    __slots__ = ("_busy", "_engine", "_parked", "_running", "_started", "_wake", "on_tick")

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._running = False
        self._busy = False
        self._parked = True
        self._started = False
        self.on_tick: Callable[[], None] | None = None
        """Called in the thread at each tick during a slice: it sees what user code keeps from
        the other one."""
        self._wake = _thread.allocate_lock()
        """Held while there is nothing to wake the thread for."""
        self._wake.acquire()

    def start(self) -> bool:
        """Start the thread; False: there is one already."""
        if self._started:
            return False
        self._started = True
        self._parked = False
        _thread.start_new_thread(self._run, ())
        return True

    def enter(self) -> None:
        """A slice begins: tick until `leave`, however late user code really starts."""
        self._running = self._busy = True
        if self._parked:
            self._parked = False
            if self._started:
                try:  # noqa: SIM105 -- `contextlib` would be pages that each child copies
                    self._wake.release()
                except RuntimeError:  # it is awake already
                    pass
            else:
                self.start()

    def leave(self) -> None:
        """The slice is over."""
        self._running = False

    def _run(self) -> None:
        while True:
            self._busy = False
            time.sleep(TICK_S)
            capi.engine_increment_epoch(self._engine)
            if self._running and self.on_tick is not None:
                self.on_tick()
            if not (self._running or self._busy):
                self._park()

    def _park(self) -> None:
        self._parked = True
        # A slice that began between the test and the line above saw a ticker
        # that was not parked and did not wake it: look once more.
        if not self._running:
            self._wake.acquire()
        self._parked = False


class Still(Ticker):
    """One that never ticks, and so has no thread: for calls that end at once."""

    __slots__ = ()

    def enter(self) -> None:
        """A slice begins."""
