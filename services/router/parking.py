"""Requests that wait for an endpoint: in order, bounded, never overtaken.

Pure bookkeeping; the clock, the futures and the bus are elsewhere. Its
invariants:

- no more than `per_function` wait for one function and `total` in all;
- within a function, who came first is served first;
- who left is not served, and nobody is served twice;
- a function that nobody waits for takes no room.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from services.router.table import Key

W = TypeVar("W")


class Lot(Generic[W]):
    """The waiting requests of all functions. A waiter is any hashable object."""

    def __init__(self, per_function: int, total: int) -> None:
        self.per_function = per_function
        self.total = total
        self.parked = 0
        self._queues: dict[Key, dict[W, None]] = {}

    def __len__(self) -> int:
        return self.parked

    def waiting(self, function: Key) -> int:
        """Return how many wait for `function`."""
        return len(self._queues.get(function, ()))

    def functions(self) -> Iterator[tuple[Key, int]]:
        """Yield each function that is waited for, with how many wait."""
        for function, queue in self._queues.items():
            yield function, len(queue)

    def park(self, function: Key, waiter: W) -> bool:
        """Add `waiter` at the end. False if there is no room: refuse the request at once."""
        queue = self._queues.get(function)
        if self.parked >= self.total or (queue and len(queue) >= self.per_function):
            return False
        if queue is None:
            queue = self._queues[function] = {}
        queue[waiter] = None
        self.parked += 1
        return True

    def leave(self, function: Key, waiter: W) -> bool:
        """Take `waiter` out, wherever it stands. False if it was not waiting any more."""
        queue = self._queues.get(function)
        if queue is None or waiter not in queue:
            return False
        del queue[waiter]
        self._shrink(function, queue)
        return True

    def next(self, function: Key) -> W | None:
        """Take out and return the oldest waiter of `function`."""
        queue = self._queues.get(function)
        if queue is None:
            return None
        waiter = next(iter(queue))
        del queue[waiter]
        self._shrink(function, queue)
        return waiter

    def _shrink(self, function: Key, queue: dict[W, None]) -> None:
        self.parked -= 1
        if not queue:
            del self._queues[function]
