"""Run a podwatch: `python -P -m services.podwatch [SETTINGS.toml]`."""

from pathlib import Path

import prometheus_client

from services.bus.connection import connect
from services.bus.events import event_log
from services.bus.permissions import used_by
from services.bus.streams import provide
from services.podwatch.logs import LogCarrier
from services.podwatch.metrics import PodwatchMetrics
from services.podwatch.node import Node
from services.podwatch.offsets import Offsets
from services.podwatch.settings import PodwatchSettings
from services.podwatch.sources import PodSource
from services.process import Process, PublicError, serve


async def main(process: Process, settings: PodwatchSettings) -> None:
    """Wire the parts and run them until told to stop."""
    facts = process.ready.needs("facts", "the stream and the pods are not read yet")
    offsets = _open_offsets(Path(settings.state_dir))
    async with connect(settings, f"podwatch {settings.node}") as bus, event_log(bus) as events:
        await provide(bus, settings, used_by("podwatch"))
        logs = LogCarrier(bus, offsets)
        node = Node(settings.node, bus, _source(settings), logs, events)
        prometheus_client.REGISTRY.register(PodwatchMetrics(node, logs, events))
        process.start(bus.watch(), "bus")
        running = [
            process.start(offsets.run(), "offsets"),
            process.start(logs.run(), "logs"),
            process.start(node.run(), "node"),
        ]
        await node.complete.wait()
        facts.met()
        await process.stopping.wait()
        # While the bus is still there, and the places in the logs last of all.
        for part in reversed(running):
            part.cancel()


def _source(settings: PodwatchSettings) -> PodSource:
    # Each brings libraries along that the other two need not pay for.
    match settings.source:
        case "processes":
            from services.podwatch.sources.processes import ProcessSource  # noqa: PLC0415

            return ProcessSource(Path(settings.pods_dir))
        case "containerd":
            from services.podwatch.sources.containerd import ContainerdSource  # noqa: PLC0415

            return ContainerdSource(settings.containerd_sockets)
        case "kubernetes":
            from services.podwatch.sources.kubernetes import KubernetesSource  # noqa: PLC0415

            return KubernetesSource(
                settings.node, settings.kubernetes_namespace, settings.kubeconfig
            )


def _open_offsets(directory: Path) -> Offsets:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}; name another one in WASMFN_PODWATCH_STATE_DIR"
        raise PublicError(f"cannot use the state directory {directory}: {reason}") from error
    return Offsets(directory / "log-offsets.json")


serve("podwatch", PodwatchSettings, main)
