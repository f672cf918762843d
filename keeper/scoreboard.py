"""What a child is doing, in a page of memory that only it and the zygote see.

A child that is stuck in a host call can send no heartbeat, and heartbeats of
hundreds of idle children would be pure cost. So the child writes a few
integers (as Apache httpd's workers do) and the zygote reads them when it
wants to know. Each child has a page of its own: one that was broken into
cannot speak for another.

Integers are aligned 64-bit words, written whole by the processor.
"""

import mmap
import time
from typing import Final

_SERVED: Final = 0
_IN_FLIGHT: Final = 1
_LAST_ACTIVITY: Final = 2
_SLICE_DEADLINE: Final = 3
_LOST_LINES: Final = 4


class Scoreboard:
    """One child's page; make it before the fork. Times are of the monotonic clock."""

    __slots__ = ("_page", "words")

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = memoryview(self._page).cast("q")
        self.words[_LAST_ACTIVITY] = time.monotonic_ns()

    def close(self) -> None:
        """Unmap the page in this process."""
        self.words.release()
        self._page.close()

    def began(self) -> None:
        """Count an invocation as in flight."""
        self.words[_IN_FLIGHT] += 1

    def ended(self) -> None:
        """Count an invocation as done."""
        words = self.words
        words[_IN_FLIGHT] -= 1
        words[_SERVED] += 1
        words[_LAST_ACTIVITY] = time.monotonic_ns()

    def enter(self, deadline: float) -> None:
        """User code is about to run a slice; its call must have ended at `deadline`."""
        self.words[_SLICE_DEADLINE] = int(deadline * 1e9)

    def leave(self) -> None:
        """User code has given control back."""
        self.words[_SLICE_DEADLINE] = 0

    def lost_line(self) -> None:
        """Count a log line that found the pipe full."""
        self.words[_LOST_LINES] += 1

    @property
    def served(self) -> int:
        """Invocations that have ended."""
        return self.words[_SERVED]

    @property
    def in_flight(self) -> int:
        """Invocations that have begun and not ended."""
        return self.words[_IN_FLIGHT]

    @property
    def lost_lines(self) -> int:
        """Log lines that were dropped."""
        return self.words[_LOST_LINES]

    @property
    def idle_s(self) -> float:
        """Seconds since the last invocation ended; 0 while one is in flight."""
        if self.words[_IN_FLIGHT]:
            return 0.0
        return max(0.0, (time.monotonic_ns() - self.words[_LAST_ACTIVITY]) / 1e9)

    def overdue_s(self) -> float:
        """Seconds by which the slice that runs now has passed its call's deadline; 0 if none."""
        deadline = self.words[_SLICE_DEADLINE]
        return max(0.0, (time.monotonic_ns() - deadline) / 1e9) if deadline else 0.0
