"""How many requests are taken: token buckets, one for each counted client.

Generic cell rate algorithm (ITU-T I.371): a bucket is one number, the time at
which it would be full again. Whoever has been quiet long enough has a full
bucket, which is the same as none, so memory is bounded by forgetting those.
"""

from typing import Final

from schemas.access import RateLimit

MAX_CLIENTS: Final = 10_000
"""Counted for one route. Beyond, the fullest buckets are forgotten in favour of new clients."""
_KEPT: Final = MAX_CLIENTS * 9 // 10
"""So that a flood of new clients costs a sort for every thousandth only."""


class Rates:
    """The buckets of one route. Times are seconds of one monotonic clock."""

    __slots__ = ("_full_at", "_interval_s", "_room_s")

    def __init__(self, limit: RateLimit) -> None:
        self._interval_s = 1.0 / limit.requests_per_s
        self._room_s = limit.burst * self._interval_s
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, client: str, now: float) -> float:
        """Take a request of `client` and return 0, or how long it must wait before the next."""
        full_at = max(self._full_at.get(client, now), now) + self._interval_s
        wait = full_at - now - self._room_s
        # Times of a million requests a second are sums of tiny ones.
        if wait > 1e-9:
            return wait
        if client not in self._full_at and len(self._full_at) >= MAX_CLIENTS:
            self._forget(now)
        self._full_at[client] = full_at
        return 0.0

    def _forget(self, now: float) -> None:
        """Make room: forget full buckets, and of the others those that are full soonest."""
        counted = [(at, client) for client, at in self._full_at.items() if at > now]
        self._full_at = {client: at for at, client in sorted(counted)[-_KEPT:]}
