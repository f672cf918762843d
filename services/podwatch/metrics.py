"""What a podwatch counts, read from plain numbers when the metrics are asked for."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.bus.events import EventLog
from services.podwatch.logs import LogCarrier
from services.podwatch.node import Node


class PodwatchMetrics(Collector):
    """Collects from the parts of one podwatch."""

    def __init__(self, node: Node, logs: LogCarrier, events: EventLog) -> None:
        self._node = node
        self._logs = logs
        self._events = events

    def collect(self) -> Iterable[Metric]:
        """Return each metric as it is now."""
        pods = GaugeMetricFamily(
            "wasmfn_podwatch_pods", "Pods of this node by phase.", labels=["phase"]
        )
        phases = [
            "ready" if fact.ready else fact.phase for fact in tuple(self._node.facts.values())
        ]
        for phase in ("pending", "running", "ready", "dead"):
            pods.add_metric([phase], phases.count(phase))
        yield pods
        yield GaugeMetricFamily(
            "wasmfn_podwatch_facts_waiting",
            "Facts that are not stored on the bus yet.",
            value=self._node.waiting,
        )
        yield CounterMetricFamily(
            "wasmfn_podwatch_facts_published", "Facts stored.", value=self._node.published
        )
        lines = CounterMetricFamily(
            "wasmfn_podwatch_log_lines", "Lines of keeper logs by fate.", labels=["fate"]
        )
        lines.add_metric(["published"], self._logs.published)
        lines.add_metric(["dropped"], self._logs.dropped)
        lines.add_metric(["garbage"], self._logs.garbage)
        yield lines
        yield CounterMetricFamily(
            "wasmfn_podwatch_events_dropped",
            "Events that were not stored.",
            value=self._events.dropped,
        )
