"""Children that were forked before they are needed: how many there are to be, and when.

A spare child has rehearsed, which takes milliseconds off a cold start, and
costs some megabytes while it waits. So an idle keeper has one. When a load call
finds none, loads come faster than one at a time: then there are more, for a while.
"""

import math
from typing import Final

from keeper.children import Child

MOST: Final = 4
MORE_FOR_S: Final = 30.0
"""How long there are more than one after a load call that found none."""
DELAY_S: Final = 0.05
"""How long after a load call the next one is forked: at first the loading child needs the
processor."""
PAUSE_S: Final = 1.0
"""How long after one has died by itself the next one is forked: it may do the same."""


class Spares:
    """The children that wait. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._waiting: list[Child] = []
        self._next = 0.0
        self._more_until = 0.0

    def missing(self, now: float) -> bool:
        """Tell whether one more is to be forked now."""
        return now >= self.due(now)

    def due(self, now: float) -> float:
        """Return when one more is to be forked; infinity: there are enough."""
        return self._next if len(self._waiting) < self._wanted(now) else math.inf

    def add(self, child: Child) -> None:
        """Take a child that was just forked."""
        self._waiting.append(child)

    def take(self, now: float) -> Child | None:
        """Return the child that has waited longest, for a load call, if there is one."""
        self._next = now + DELAY_S
        if self._waiting:
            return self._waiting.pop(0)
        self._more_until = now + MORE_FOR_S
        return None

    def surplus(self, now: float) -> list[Child]:
        """Return those that are not wanted any more; they are forgotten."""
        wanted = self._wanted(now)
        surplus, self._waiting = self._waiting[wanted:], self._waiting[:wanted]
        return surplus

    def lost(self, child: Child, now: float) -> None:
        """Forget a child that has ended, if it is one of these."""
        if child in self._waiting:
            self._waiting.remove(child)
            self._next = now + PAUSE_S

    def _wanted(self, now: float) -> int:
        return MOST if now < self._more_until else 1
