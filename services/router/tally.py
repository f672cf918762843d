"""The count of one function's answers: plain integers on the way of a request.

prometheus_client's own counters take a lock and a look-up of labels for each
increment, which is several times what the rest of the bookkeeping costs.
"""

from bisect import bisect_left
from typing import Final

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_FIRST_S, _SECOND_S = BUCKETS_S[:2]


class Tally:
    """Answers by class of status, and by latency."""

    __slots__ = ("buckets", "classes", "seconds")

    def __init__(self) -> None:
        self.classes = [0] * 6
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        """Of each of `BUCKETS_S`, and of what took longer; not yet added up."""
        self.seconds = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.classes[status // 100] += 1
        self.seconds += seconds
        # Most are in the first two: to find that so is a third of the price of a search.
        if seconds <= _FIRST_S:
            self.buckets[0] += 1
        elif seconds <= _SECOND_S:
            self.buckets[1] += 1
        else:
            self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
