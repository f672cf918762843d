"""What the scheduler counts, for `/metrics`."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.scheduler.world import World

DEMANDS: Final = Counter("wasmfn_scheduler_demands", "Demands answered.", ["answer"])
TIMER_CALLS: Final = Counter(
    "wasmfn_scheduler_timer_calls", "Calls that timers put on the queue.", ["namespace", "timer"]
)
LOADS: Final = Histogram(
    "wasmfn_scheduler_load_seconds",
    "How long it took to load a process, a wait for a keeper included.",
    ["outcome"],
    buckets=(0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5, 10, 30),
)


class SchedulerMetrics(Collector):
    """Collects from what the leader knows; a standby knows nothing."""

    def __init__(self) -> None:
        self.term = 0
        """The term that this scheduler leads in; 0 while it does not."""
        self.world: World | None = None

    def collect(self) -> Iterable[Metric]:
        """Return each metric as it is now."""
        yield GaugeMetricFamily(
            "wasmfn_scheduler_term", "The term it leads in, or 0.", value=self.term
        )
        world = self.world or World()
        yield GaugeMetricFamily(
            "wasmfn_scheduler_functions", "Functions in force.", value=len(world.active)
        )
        keepers = GaugeMetricFamily("wasmfn_scheduler_keepers", "Keepers.", labels=["state"])
        watched = [keeper.watched for keeper in world.keepers.values()]
        keepers.add_metric(["watched"], watched.count(True))
        keepers.add_metric(["silent"], watched.count(False))
        yield keepers
        processes = GaugeMetricFamily(
            "wasmfn_scheduler_processes", "Processes of functions.", labels=["state"]
        )
        functions = tuple(world.functions.values())
        states = [one.state for function in functions for one in function.instances.values()]
        for state in ("serving", "leaving", "lost"):
            processes.add_metric([state], states.count(state))
        processes.add_metric(["loading"], sum(len(function.loading) for function in functions))
        yield processes
