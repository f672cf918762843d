"""`python -m services.router [SETTINGS.toml]`: the wiring of the router process."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import socket
from collections.abc import Callable
from typing import Final

import prometheus_client
import uvicorn

from schemas.names import new_instance_id
from schemas.settings import SettingsError
from services.bus.connection import connect, settle
from services.bus.events import event_log
from services.bus.permissions import used_by
from services.bus.streams import provide
from services.process import Process, PublicError, Server, serve
from services.router import sync
from services.router.access.entry import Entry
from services.router.activity import Progress, report
from services.router.asynchronous.start import Asynchronous
from services.router.bounded import ClientLimits
from services.router.demand import asker
from services.router.framing import networks
from services.router.invoke import Invocations
from services.router.limits import Limits
from services.router.metrics import Collector, Metrics
from services.router.parking import Lot
from services.router.pool import Pool
from services.router.protocol import client_protocol
from services.router.settings import RouterSettings
from services.router.slots import Slots
from services.router.state import State
from services.router.workings import Workings

log = logging.getLogger(__name__)

_SNAPSHOT_S: Final = 5.0
_BACKLOG: Final = 2048
_CUT_S: Final = 1.0
"""What is still under way that long before the end of the grace is cut, and tried elsewhere."""
_OTHER_FILES: Final = 64
"""Descriptors that are no connections of clients or to instances."""


async def main(process: Process, settings: RouterSettings) -> None:
    """Serve until told to stop, then let what is in flight end."""
    try:
        trusted = networks(settings.trusted_proxies)
    except ValueError as error:
        raise SettingsError(f"setting WASMFN_ROUTER_TRUSTED_PROXIES: {error}") from None
    if settings.http_fd is None:
        listener = listen(settings.http)
    else:
        listener = socket.socket(fileno=settings.http_fd)
    router = new_instance_id()
    serving = process.ready.needs("http", "not listening yet")
    limits = Limits(
        connect_s=settings.connect_s,
        grace_s=settings.answer_grace_s,
        stall_s=settings.stall_s,
        transfer_s=settings.transfer_s,
        park_s=settings.park_s,
    )
    metrics = Metrics()
    pool = Pool(settings.connect_s, settings.upstream_idle_s)
    async with connect(settings, "router") as bus, event_log(bus) as events:
        await provide(bus, settings, used_by("router"))
        slots = Slots(
            router,
            State(),
            Lot(settings.park_per_function, settings.park_total),
            asker(bus),
            metrics,
            events.emit,
            pool.drop,
            settings.park_s,
        )
        complete = asyncio.Event()
        progress = Progress()
        sync.start(process, bus, slots, complete.set, progress.applied)
        process.start(report(bus, router, slots, progress), "activity")
        process.start(bus.watch(), "bus")
        await settle(bus.nc)
        asynchronous = Asynchronous(bus, slots, pool, limits, events.emit, settings)
        process.admin_routes += asynchronous.admin_routes
        entry = Entry(settings.token_key_origins)
        app = Invocations(
            slots, pool, limits, metrics, events.emit, trusted, asynchronous.acceptance, entry
        )
        workings = Workings(slots, pool, limits, metrics, events.emit, trusted)
        server = data_server(app, workings, settings)
        fleets = slots.state.counted
        prometheus_client.REGISTRY.register(Collector(metrics, fleets, gauges(slots, pool, server)))
        # Who connects during a restart waits in the backlog for the whole route table.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SNAPSHOT_S):
                await complete.wait()
        # A full collection over ten thousand functions and routes takes 58 ms, in which nobody is
        # served. What is known by now is not looked at again.
        gc.collect()
        gc.freeze()
        _return_memory()
        process.start(asynchronous.work(complete), "the queue of invocations")
        running = asyncio.create_task(server.serve([listener]), name="data port")
        log.info("serving", extra={"http": "http://{}:{}".format(*listener.getsockname()[:2])})
        serving.met()
        await process.stopping.wait()
        server.should_exit = True
        await asyncio.gather(running, asynchronous.lanes.drain(settings.grace_s - _CUT_S))
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        slots.close()
        pool.close()
        await entry.close()


def _return_memory() -> None:
    """Give back to the system what only the reading of the snapshot needed.

    It lies in pieces between what stays, and glibc gives back none of that by
    itself: 1.1 KiB for each function.
    """
    with contextlib.suppress(AttributeError, OSError):  # Not every C library has it.
        ctypes.CDLL(None).malloc_trim(0)


def _connection_limit(wanted: int) -> int:
    """Return how many clients there can be: each may need a connection to an instance as well."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 2 * wanted + _OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, (hard - _OTHER_FILES) // 2)
    if possible < wanted:
        log.warning("only %d connections are possible with %d open files", possible, hard)
    return min(wanted, possible)


def listen(address: str) -> socket.socket:
    """Return the data port's listener. PublicError says why there is none."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no HOST:PORT"
        advice = "set WASMFN_ROUTER_HTTP to a free address"
        raise PublicError(f"cannot serve at {address}: {reason}; {advice}") from error


def data_server(app: Invocations, workings: Workings, settings: RouterSettings) -> Server:
    """Return the server of the data port, not yet running."""
    limits = ClientLimits(
        head_s=settings.head_s,
        head_bytes=settings.head_bytes,
        keep_alive_s=settings.keep_alive_s,
        max_connections=_connection_limit(settings.max_connections),
    )
    return Server(
        uvicorn.Config(
            app,
            http=client_protocol(limits, workings),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, int(settings.grace_s) - 1),
        )
    )


def gauges(
    slots: Slots, pool: Pool, server: Server
) -> tuple[tuple[str, str, Callable[[], float]], ...]:
    """Return what is read at the moment of asking."""
    state = slots.state
    return (
        ("in_flight", "Requests at an instance.", lambda: sum(slots.in_flight.values())),
        ("parked", "Requests that wait for an instance.", lambda: len(slots.lot)),
        ("routes", "Routes in force.", lambda: len(state.table)),
        ("functions", "Functions in force.", lambda: len(state.functions)),
        ("idle_connections", "Connections to instances, idle.", pool.idle),
        ("connections", "Connections of clients.", lambda: len(server.server_state.connections)),
    )


if __name__ == "__main__":
    serve("router", RouterSettings, main)
