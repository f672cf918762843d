"""What a child is doing, in a page of memory that only it and the supervisor see.

A child that is stuck in a host call can send no heartbeat, and heartbeats of
hundreds of idle children would be pure cost. So the child writes a few
integers (as Apache httpd's workers do) and the supervisor reads them when it
wants to know. Each child has a page of its own: one that was broken into
cannot speak for another.

Integers are aligned 64-bit words, written whole by the processor.
"""

import math
import mmap
import time
from typing import Final

_SERVED: Final = 0
_IN_FLIGHT: Final = 1
_LAST_ACTIVITY: Final = 2
_SLICE_DEADLINE: Final = 3
_LOST_LINES: Final = 4
_PAGE_WORDS: Final = mmap.PAGESIZE // 8


class Scoreboards:
    """The pages of all children. Made before all forks."""

    def __init__(self, count: int) -> None:
        self._pages = mmap.mmap(-1, count * mmap.PAGESIZE)
        self._words = memoryview(self._pages).cast("q")

    def at(self, index: int) -> "Scoreboard":
        """Return the page with `index`, from 0."""
        return Scoreboard(self._words[index * _PAGE_WORDS : (index + 1) * _PAGE_WORDS])

    def keep_from_forks(self, index: int | None = None) -> None:
        """Have later forks of this process not inherit a page, or any."""
        if index is None:
            self._pages.madvise(mmap.MADV_DONTFORK)
        else:
            self._pages.madvise(mmap.MADV_DONTFORK, index * mmap.PAGESIZE, mmap.PAGESIZE)

    def give_to_forks(self, index: int) -> None:
        """Have later forks of this process inherit a page."""
        self._pages.madvise(mmap.MADV_DOFORK, index * mmap.PAGESIZE, mmap.PAGESIZE)


class Scoreboard:
    """One child's page. Times are of the monotonic clock."""

    __slots__ = ("words",)

    def __init__(self, words: "memoryview[int]") -> None:
        self.words = words

    def clear(self) -> None:
        """Begin anew."""
        for index in range(_LOST_LINES + 1):
            self.words[index] = 0
        self.words[_LAST_ACTIVITY] = time.monotonic_ns()

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

    @property
    def slice_deadline(self) -> float:
        """When the call must have ended whose slice runs now; infinity if none runs."""
        return self.words[_SLICE_DEADLINE] / 1e9 or math.inf
