"""For how long something has been so, counting only time in which somebody looked.

Who waits for a process to do something must not count the time in which that
process could do nothing: after a machine was suspended, or everything on it
stopped and continued, the clock says that all are late.
"""

from typing import Final

PAUSE_S: Final = 1.0
"""What counts at most between two looks. Looks are meant to be closer than that."""


class Patience:
    """How long a condition has held. Times are of the monotonic clock."""

    __slots__ = ("_held", "_held_s", "_looked")

    def __init__(self) -> None:
        self._held = False
        self._held_s = 0.0
        self._looked = 0.0

    def held_s(self, holds: bool, now: float) -> float:
        """Return for how many seconds the condition has held, which holds now or does not."""
        if not holds:
            self._held_s = 0.0
        elif self._held:
            self._held_s += min(now - self._looked, PAUSE_S)
        self._held = holds
        self._looked = now
        return self._held_s
