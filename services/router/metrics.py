"""What the router counts: plain integers on the way of a request, read when asked.

prometheus_client's own counters take a lock and a look-up of labels for each
increment, which is several times what the rest of the bookkeeping costs.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from services.router.table import Key

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_FIRST_S: Final = BUCKETS_S[0]
NOBODY: Final[Key] = ("", "")
"""Stands for requests that no route took."""


class _Series:
    """The counts of one function."""

    __slots__ = ("buckets", "classes", "seconds")

    def __init__(self) -> None:
        self.classes = [0] * 6
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0


class Metrics:
    """All counts since the start."""

    def __init__(self) -> None:
        self.retries = 0
        self.cold_starts = 0
        self.overflows = 0
        self.truncated = 0
        """Answers that broke off in the middle: the client's connection was closed."""
        self.clients_gone = 0
        self.ejections: dict[str, int] = {}
        self._series: dict[Key, _Series] = {}

    def answered(self, function: Key, status: int, seconds: float) -> None:
        """Count one answer."""
        series = self._series.get(function)
        if series is None:
            series = self._series[function] = _Series()
        series.classes[status // 100] += 1
        # Most are in the first: to find that so is half the price of a search.
        bucket = bisect_left(BUCKETS_S, seconds) if seconds > _FIRST_S else 0
        series.buckets[bucket] += 1
        series.seconds += seconds

    def forget(self, function: Key) -> None:
        """Drop the counts of a function that does not exist any more."""
        self._series.pop(function, None)

    def answers(self) -> dict[Key, int]:
        """Return how many answers each function has given."""
        return {function: sum(series.classes) for function, series in self._series.items()}

    def families(self) -> Iterator[Metric]:
        """Yield the counts in the form of prometheus_client."""
        requests = CounterMetricFamily(
            "wasmfn_router_requests",
            "Answers by function and status class; no function: no route matched.",
            labels=("namespace", "function", "status"),
        )
        latency = HistogramMetricFamily(
            "wasmfn_router_request_seconds",
            "From the request's head to the answer's last byte, parking included.",
            labels=("namespace", "function"),
        )
        for function, series in self._series.items():
            for status_class, count in enumerate(series.classes):
                if count:
                    requests.add_metric((*function, f"{status_class}xx"), count)
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), series.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            latency.add_metric(function, buckets, series.seconds)
        yield requests
        yield latency
        ejections = CounterMetricFamily(
            "wasmfn_router_ejections",
            "Endpoints left alone after a failed call.",
            labels=("cause",),
        )
        for cause, count in self.ejections.items():
            ejections.add_metric((cause,), count)
        yield ejections
        for name, text, count in (
            ("retries", "Calls made again on another endpoint or connection.", self.retries),
            ("cold_starts", "Requests for which an instance was started.", self.cold_starts),
            ("overflows", "Requests refused because too many were parked.", self.overflows),
            ("truncated", "Answers that broke off in the middle.", self.truncated),
            ("clients_gone", "Clients that left before their answer.", self.clients_gone),
        ):
            yield CounterMetricFamily(f"wasmfn_router_{name}", text, value=count)


class Collector:
    """What prometheus_client's registry asks: the counts, and gauges read at that moment."""

    def __init__(
        self, metrics: Metrics, gauges: Iterable[tuple[str, str, Callable[[], float]]]
    ) -> None:
        """Take the counts, and (name, help, function) of each gauge."""
        self._metrics = metrics
        self._gauges = tuple(gauges)

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        yield from self._metrics.families()
        for name, text, read in self._gauges:
            yield GaugeMetricFamily(f"wasmfn_router_{name}", text, value=read())
