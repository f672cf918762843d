"""The token buckets: exact against the plain definition, and bounded."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from schemas.access import RateLimit
from services.router.access import rates
from services.router.access.rates import Rates


class PlainBucket:
    """A bucket that is filled drop by drop: the definition."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.tokens = float(limit.burst)
        self.at = 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(
            self.limit.burst, self.tokens + (now - self.at) * self.limit.requests_per_s
        )
        self.at = now
        if self.tokens < 1 - 1e-6:
            return False
        self.tokens -= 1
        return True


@given(
    # Powers of two: both sides are exact, so that equality means something.
    rate=st.sampled_from([0.5, 1.0, 8.0, 64.0]),
    burst=st.integers(1, 8),
    pauses=st.lists(st.integers(0, 64).map(lambda n: n / 16), max_size=60),
)
def test_as_many_are_taken_as_a_bucket_holds(
    rate: float, burst: int, pauses: Sequence[float]
) -> None:
    limit = RateLimit(rate, burst)
    ours, plain, now = Rates(limit), PlainBucket(limit), 0.0
    for pause in pauses:
        now += pause
        assert (ours.wait_s("a", now) == 0) == plain.take(now)


@given(burst=st.integers(1, 8), rate=st.sampled_from([0.5, 1.0, 8.0]))
def test_who_waits_as_long_as_told_is_taken(burst: int, rate: float) -> None:
    ours = Rates(RateLimit(rate, burst))
    for _ in range(burst):
        assert ours.wait_s("a", 10.0) == 0
    wait = ours.wait_s("a", 10.0)
    assert 0 < wait <= 1 / rate
    assert ours.wait_s("a", 10.0 + wait) == 0


def test_each_client_has_a_bucket_of_its_own() -> None:
    ours = Rates(RateLimit(1.0, 1))
    assert ours.wait_s("a", 0.0) == 0
    assert ours.wait_s("a", 0.0) > 0
    assert ours.wait_s("b", 0.0) == 0


def test_a_flood_of_clients_is_bounded_and_frees_nobody_who_is_over_the_limit() -> None:
    ours = Rates(RateLimit(0.001, 5))
    for _ in range(5):
        assert ours.wait_s("greedy", 0.0) == 0
    for n in range(3 * rates.MAX_CLIENTS):
        ours.wait_s(f"client {n}", 0.001 * n)
        assert len(ours) <= rates.MAX_CLIENTS
    assert ours.wait_s("greedy", 31.0) > 0


def test_a_bucket_that_is_full_again_takes_no_memory() -> None:
    ours = Rates(RateLimit(1000.0, 1))
    for n in range(rates.MAX_CLIENTS):
        ours.wait_s(str(n), 0.0)
    ours.wait_s("new", 100.0)
    assert len(ours) == 1
