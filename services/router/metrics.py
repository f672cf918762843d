"""What the router counts, as Prometheus reads it."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from services.router.fleet import Fleet
from services.router.tally import BUCKETS_S


class Metrics:
    """The counts since the start that are of no single function."""

    def __init__(self) -> None:
        self.retries = 0
        self.cold_starts = 0
        self.overflows = 0
        self.truncated = 0
        """Answers that broke off in the middle: the client's connection was closed."""
        self.clients_gone = 0
        self.ejections: dict[str, int] = {}

    def families(self, fleets: Iterable[Fleet]) -> Iterator[Metric]:
        """Yield them and those of each fleet in the form of prometheus_client."""
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
        for fleet in fleets:
            tally, function = fleet.tally, fleet.function
            if tally is None:
                continue
            for status_class, count in enumerate(tally.classes):
                if count:
                    requests.add_metric((*function, f"{status_class}xx"), count)
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), tally.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            latency.add_metric(function, buckets, tally.seconds)
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
        self,
        metrics: Metrics,
        fleets: Callable[[], Iterable[Fleet]],
        gauges: Iterable[tuple[str, str, Callable[[], float]]],
    ) -> None:
        """Take the counts, what returns the fleets, and (name, help, function) of each gauge."""
        self._metrics = metrics
        self._fleets = fleets
        self._gauges = tuple(gauges)

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        yield from self._metrics.families(self._fleets())
        for name, text, read in self._gauges:
            yield GaugeMetricFamily(f"wasmfn_router_{name}", text, value=read())
