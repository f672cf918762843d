"""Run a scheduler: `python -m services.scheduler [SETTINGS.toml]`."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import nats.errors
import prometheus_client

from schemas.leases import Lease
from schemas.streams import LEASES
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus, connect
from services.bus.errors import BusError
from services.bus.events import event_log
from services.bus.follow import follow
from services.bus.lease import Reign, lead
from services.bus.permissions import used_by
from services.bus.state import Put
from services.bus.streams import ensure_applications, provide
from services.process import Process, PublicError, serve
from services.scheduler.artifacts import Artifacts
from services.scheduler.keepers import read_control_key
from services.scheduler.leader import Leader
from services.scheduler.memory import Memory
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.pods import PodError, PodRuntime
from services.scheduler.pods.native import NativeRuntime
from services.scheduler.pods.processes import ProcessRuntime, ProcessSettings
from services.scheduler.settings import SchedulerSettings

log = logging.getLogger(__name__)


async def main(process: Process, settings: SchedulerSettings) -> None:
    """Contend for the lease, and schedule whenever it is ours, until told to stop."""
    leading = process.ready.needs("role", "not elected yet, and no other leads")
    try:
        key = read_control_key(Path(settings.control_key_file))
    except ValueError as error:
        raise PublicError(str(error)) from None
    metrics = SchedulerMetrics()
    prometheus_client.REGISTRY.register(metrics)
    holder = f"{socket.gethostname()}/{os.getpid()}"
    async with (
        _runtime(settings) as (runtime, deployments),
        connect(settings, "scheduler") as bus,
        event_log(bus) as events,
    ):
        process.start(bus.watch(), "the connection to NATS")
        await provide(bus, settings, used_by("scheduler"))
        await _provide_applications(bus, settings)
        process.start(_provide_again(bus, settings), "streams")
        process.start(_see_leaders(bus, holder, leading.met), "leaders")
        artifacts = Artifacts(bus, Path(settings.cache_dir))
        memory = Memory()

        async def govern(reign: Reign) -> None:
            leader = Leader(
                bus, events, reign, settings, key, runtime, artifacts, memory, deployments
            )
            metrics.term, metrics.world = reign.term, leader.world
            try:
                await leader.govern(leading.met)
            finally:
                metrics.term, metrics.world = 0, None

        contest = process.start(lead(bus, "scheduler", holder, govern), "leading")
        await process.stopping.wait()
        contest.cancel()
        await asyncio.wait({contest})


@contextlib.asynccontextmanager
async def _runtime(
    settings: SchedulerSettings,
) -> AsyncIterator[tuple[PodRuntime, NativeRuntime | None]]:
    """Yield where keepers run, and images by themselves. Leaving it leaves them running."""
    if settings.runtime == "kubernetes":
        # Nobody else pays for its imports.
        from services.scheduler.pods.apiserver import connect as connect_api  # noqa: PLC0415
        from services.scheduler.pods.deployments import KubernetesDeployments  # noqa: PLC0415
        from services.scheduler.pods.kubernetes import KubernetesRuntime  # noqa: PLC0415

        try:
            async with connect_api(settings.kubernetes_namespace, settings.kubeconfig) as server:
                keepers = KubernetesRuntime(
                    server, settings.keeper_image, settings.keeper_capacity, settings.keeper_pod
                )
                yield keepers, KubernetesDeployments(server, settings.keeper_pod)
        except PodError as error:
            raise PublicError(str(error)) from None
        return
    runtime = ProcessRuntime(
        ProcessSettings(
            pods=Path(settings.pods_dir),
            control_key=Path(settings.control_public_key_file),
            artifact_key=Path(settings.artifact_public_key_file),
            cache=Path(settings.cache_dir),
            capacity=settings.keeper_capacity,
            ip=settings.keeper_ip,
        )
    )
    try:
        yield runtime, None
    finally:
        runtime.close()


async def _provide_again(bus: Bus, settings: SchedulerSettings) -> None:
    """Make the streams anew after a reconnection: the server may have lost its data."""
    broken = asyncio.Event()
    with bus.on_break(broken.set):
        while True:
            await broken.wait()
            broken.clear()
            await bus.wait_connected()
            try:
                await provide(bus, settings, used_by("scheduler"))
                await _provide_applications(bus, settings)
            except (BusError, nats.errors.Error) as error:
                log.warning("cannot make sure of the streams: %s", error)
                await asyncio.sleep(1.0)
                broken.set()


async def _provide_applications(bus: Bus, settings: SchedulerSettings) -> None:
    """Make the streams of applications. One that cannot be made is no reason not to serve."""
    try:
        await ensure_applications(bus.js, settings.applications, replicas=settings.nats_replicas)
    except (BusError, nats.errors.Error) as error:
        log.warning("the streams of applications could not be made: %s", error)


async def _see_leaders(bus: Bus, holder: str, ready: Callable[[], None]) -> None:
    """Call `ready` when another scheduler leads: a standby has nothing more to wait for.

    What counts is a renewal: the lease that is found at first may be that of a dead one.
    """
    async for update in follow(bus, LEASES.name):
        if isinstance(update, Put):
            with contextlib.suppress(*UNREADABLE):
                lease = msgspec.json.decode(update.entry.payload, type=Lease)
                if lease.holder and not lease.holder.startswith(f"{holder}/"):
                    ready()


if __name__ == "__main__":
    serve("scheduler", SchedulerSettings, main)
