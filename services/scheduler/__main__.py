"""Run a scheduler: `python -m services.scheduler [SETTINGS.toml]`."""

import asyncio
import os
import socket
from pathlib import Path

from services.bus.connection import connect
from services.bus.events import event_log
from services.bus.lease import Reign, lead
from services.bus.streams import ensure_buckets, ensure_streams
from services.process import Process, PublicError, serve
from services.scheduler.artifacts import Artifacts
from services.scheduler.keepers import read_control_key
from services.scheduler.leader import Leader
from services.scheduler.pods.processes import ProcessRuntime, ProcessSettings
from services.scheduler.settings import SchedulerSettings


async def main(process: Process, settings: SchedulerSettings) -> None:
    """Contend for the lease, and schedule whenever it is ours, until told to stop."""
    leading = process.ready.needs("role", "not elected yet, and no other leads")
    try:
        key = read_control_key(Path(settings.control_key_file))
    except ValueError as error:
        raise PublicError(str(error)) from None
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
    async with connect(settings, "scheduler") as bus, event_log(bus) as events:
        process.start(bus.watch(), "the connection to NATS")
        await ensure_streams(bus.js)
        await ensure_buckets(bus.js)
        artifacts = Artifacts(bus, Path(settings.cache_dir))

        async def govern(reign: Reign) -> None:
            leader = Leader(bus, events, reign, settings, key, runtime, artifacts)
            await leader.govern(leading.met)

        holder = f"{socket.gethostname()}/{os.getpid()}"
        contest = process.start(lead(bus, "scheduler", holder, govern), "leading")
        await process.stopping.wait()
        contest.cancel()
        await asyncio.wait({contest})
    runtime.close()


if __name__ == "__main__":
    serve("scheduler", SchedulerSettings, main)
