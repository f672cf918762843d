"""A queue of keys to look at again, for level-triggered reconciling.

What happened is not queued, only *to what* it happened: a handler reads the
state as it is when it runs, so many events on one key are one run, and an event
lost or doubled changes nothing. The invariants, one test each:

1. Puts of a key that waits already merge into one.
2. A key is never worked on twice at the same time.
3. A put during the work on its key makes the key run once more afterwards.
4. A failing key is tried again after a delay that doubles up to a cap, with jitter.
5. A success resets the delay.
6. A delayed put does not run early; of several for a key the earliest stands;
   a put without delay need not wait for them, nor for the delay after a failure.
7. At most `parallel` handlers run at once.
8. After `close`, what waits now is finished, what waits for its time is
   dropped, nothing more is taken in, and `run` returns.

The design is that of the work queue in Kubernetes' client-go.
"""

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_S: Final = 0.05
LAST_DELAY_S: Final = 30.0


class Agenda(Generic[K]):
    """Which keys wait, are being worked on, or have a time to come. Pure: time is given."""

    def __init__(self) -> None:
        self._waiting: dict[K, None] = {}  # A dict keeps the order of arrival.
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._times: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}

    def put(self, key: K) -> None:
        """Have `key` worked on as soon as may be."""
        if key in self._working:
            self._again.add(key)
        else:
            self._waiting[key] = None

    def put_at(self, key: K, when: float) -> None:
        """Put `key` when `advance` reaches `when`, unless it is to come earlier anyway."""
        if when < self._times.get(key, float("inf")):
            self._times[key] = when
            heapq.heappush(self._heap, (when, next(self._order), key))

    def advance(self, now: float) -> None:
        """Put every key whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._times.get(key) == when:
                del self._times[key]
                self.put(key)

    def next_time(self) -> float | None:
        """Return the next time at which `advance` puts something."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self) -> K | None:
        """Return the key that waited longest, now being worked on, or None."""
        for key in self._waiting:
            del self._waiting[key]
            self._working.add(key)
            return key
        return None

    def finish(self, key: K) -> None:
        """End the work on `key`, well done."""
        self._failures.pop(key, None)
        self._end(key)

    def fail(self, key: K, now: float, jitter: float) -> float:
        """End the work on `key` and have it tried again; return in how many seconds.

        `jitter` from 0 to 1 draws the delay between half and the whole of what
        the number of failures in a row gives.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        whole = min(FIRST_DELAY_S * 2.0 ** min(failures, 64), LAST_DELAY_S)
        delay_s = whole * (0.5 + jitter / 2)
        if key not in self._again:
            self.put_at(key, now + delay_s)
        self._end(key)
        return delay_s

    def forget_times(self) -> None:
        """Drop every put that waits for its time."""
        self._times.clear()
        self._heap.clear()

    @property
    def working(self) -> int:
        """How many keys are being worked on."""
        return len(self._working)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being worked on."""
        return not self._waiting and not self._working

    def _end(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._waiting[key] = None


class WorkQueue(Generic[K]):
    """Runs `handle(key)` for every key that was put, while `run` runs.

    `handle` may return a number of seconds after which to look at the key again.
    What it raises is logged and makes the key fail; it ends nothing else. Errors
    in `expected` are told by their sentence, any other with its traceback.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[K], Awaitable[float | None]],
        *,
        parallel: int = 8,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self._handle = handle
        self._parallel = parallel
        self._expected = expected
        self._agenda: Agenda[K] = Agenda()
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, key: K) -> None:
        """Have `key` looked at soon. Nothing happens after `close`."""
        if not self._closed:
            self._agenda.put(key)
            self._wake.set()

    def put_after(self, key: K, delay_s: float) -> None:
        """Have `key` looked at in `delay_s` seconds at the latest."""
        if not self._closed:
            self._agenda.put_at(key, asyncio.get_running_loop().time() + delay_s)
            self._wake.set()

    def close(self) -> None:
        """Take in nothing more; `run` returns when what waits is done."""
        self._closed = True
        self._agenda.forget_times()
        self._wake.set()

    async def run(self) -> None:
        """Work until closed. Cancelling it cancels the handlers that run."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as handlers:
            while not (self._closed and self._agenda.idle):
                self._wake.clear()
                self._agenda.advance(loop.time())
                while self._agenda.working < self._parallel:
                    if (key := self._agenda.take()) is None:
                        break
                    handlers.create_task(self._work(key), name=f"{self.name} {key}")
                try:
                    async with asyncio.timeout_at(self._agenda.next_time()):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # A key's time has come.

    async def _work(self, key: K) -> None:
        try:
            again_s = await self._handle(key)
        except Exception as error:  # noqa: BLE001 - one key's failure must not end the others
            self._failed(key, error)
        else:
            self._agenda.finish(key)
            if again_s is not None:
                self.put_after(key, again_s)
        self._wake.set()

    def _failed(self, key: K, error: Exception) -> None:
        delay_s = self._agenda.fail(key, asyncio.get_running_loop().time(), random.random())  # noqa: S311 - jitter
        if self._closed:
            self._agenda.forget_times()
        log.warning(
            "%s of %s failed and is tried again: %s",
            self.name,
            key,
            str(error) or type(error).__name__,
            extra={"delay_s": round(delay_s, 3)},
            exc_info=None if isinstance(error, self._expected) else error,
        )
