"""What a service process is: settings, JSON logs, signals, an admin port, an orderly end.

A service is one async function `main(process, settings)`. Around it, `serve`
does what any supervisor (`wasmfn up`, systemd, Kubernetes) expects of a
process: it says when it is ready and why not, stops when told within a bounded
time, and never limps on after a part of it has died. A service's `__main__` is

    class Settings(ServiceSettings, frozen=True, kw_only=True):
        http: str = "127.0.0.1:8080"

    async def main(process: Process, settings: Settings) -> None:
        routes = process.ready.needs("routes", "no snapshot yet")
        async with connect(settings, process.name) as bus:
            process.start(follow_routes(bus, routes.met), "the follower of routes")
            await process.stopping.wait()
            await drain()

    if __name__ == "__main__":
        serve("router", Settings, main)

Exit codes: 0 stopped when told, 1 failed, 2 wrong settings or usage.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, Literal, NoReturn, TypeVar

import msgspec
import prometheus_client
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from schemas.settings import SettingsError, read_settings
from services.bus.connection import BusSettings
from services.bus.errors import BusError
from services.logs import write_json_logs

log = logging.getLogger(__name__)

_CANCEL_S: Final = 3.0
"""How long a cancelled part may take to clean up before the process ends without it."""


class ServiceSettings(BusSettings, frozen=True, kw_only=True):
    """What every service can be told. A service's own Struct extends it."""

    admin: str = "127.0.0.1:0"
    """Where /healthz, /readyz and /metrics are; port 0 lets the system choose."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    grace_s: float = 10.0
    """How long work in flight may take to end after a signal."""


S = TypeVar("S", bound=ServiceSettings)
Main = Callable[["Process", S], Coroutine[Any, Any, None]]


class PublicError(Exception):
    """A failure whose message is one sentence for the operator: no traceback is logged."""


class Condition:
    """One thing that a service needs before it is ready. Made by `Ready.needs`."""

    def __init__(self, ready: "Ready", name: str, reason: str) -> None:
        self._ready = ready
        self._name = name
        self.missing(reason)

    def met(self) -> None:
        """Say that it is there."""
        self._ready._set(self._name, "")  # noqa: SLF001 - the two are one thing

    def missing(self, reason: str) -> None:
        """Say that it is not there, and why."""
        self._ready._set(self._name, reason)  # noqa: SLF001


class Ready:
    """Whether a service can do its work, and what it lacks.

    Not ready until `main` has named what it needs and every need is met.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._all_met = asyncio.Event()

    def needs(self, name: str, reason: str = "not there yet") -> Condition:
        """Add a need, unmet for now because of `reason`."""
        return Condition(self, name, reason)

    @property
    def waiting_for(self) -> dict[str, str]:
        """What is missing, with the reason of each."""
        if not self._reasons:
            return {"start": "starting"}
        return {name: reason for name, reason in self._reasons.items() if reason}

    async def wait(self) -> None:
        """Return once every need is met."""
        await self._all_met.wait()

    def _set(self, name: str, reason: str) -> None:
        self._reasons[name] = reason
        if self.waiting_for:
            self._all_met.clear()
        else:
            self._all_met.set()


class Process:
    """The running service, as its `main` sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = Ready()
        self.stopping = asyncio.Event()
        """Set by the first signal: finish what is in flight and return."""
        self.admin_url = ""
        self.admin_routes: list[BaseRoute] = []
        """What the admin port serves besides health and metrics. May be added to at any time."""
        self._group = asyncio.TaskGroup()
        self._parts: set[asyncio.Task[Any]] = set()
        self._failed = asyncio.Event()

    def start(self, part: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `part` beside `main`. If it raises, the whole process ends with an error."""
        task = self._group.create_task(self._supervise(part, name), name=name)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _run(self, main: Coroutine[Any, Any, None]) -> None:
        async with self._group:
            await self._supervise(main, "main")
            for part in tuple(self._parts):
                part.cancel()

    async def _supervise(self, part: Coroutine[Any, Any, Any], name: str) -> Any:
        try:
            return await part
        except Exception as error:
            error.add_note(f"in {name}")
            self._failed.set()
            raise


class Server(uvicorn.Server):
    """A uvicorn that leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: `serve` handles signals, and tells its parts in order."""
        yield


def serve(name: str, settings: type[S], main: Main[S]) -> NoReturn:
    """Run the service `name` until it is told to stop, and exit.

    Settings come from the TOML file named as the only argument, if any, and from
    the environment (`WASMFN_<NAME>_…`) over it. `main` returns when it has ended
    after `process.stopping`; returning earlier is a failure.
    """
    write_json_logs(name)
    try:
        file = _settings_file(name, sys.argv[1:])
        chosen = read_settings(settings, f"WASMFN_{name.upper()}_", os.environ, file)
    except SettingsError as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence says it all
        sys.exit(2)
    logging.getLogger().setLevel(chosen.log_level.upper())
    # Taken out of the environment, so that no child speaks in our name.
    notify_socket = os.environ.pop("NOTIFY_SOCKET", "")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_run(name, chosen, main, notify_socket))
    sys.exit(code)


def _settings_file(name: str, arguments: list[str]) -> str:
    if len(arguments) > 1:
        raise SettingsError(f"usage: python -m services.{name} [SETTINGS.toml]")
    return arguments[0] if arguments else ""


async def _run(name: str, settings: S, main: Main[S], notify_socket: str) -> int:
    process = Process(name)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, process, number)
    loop.set_exception_handler(_on_stray_exception)
    try:
        async with _admin(process, settings.admin):
            body = asyncio.create_task(process._run(main(process, settings)))  # noqa: SLF001
            ready = asyncio.create_task(_tell_ready(process, notify_socket))
            try:
                await _ends(process, body, settings.grace_s, notify_socket)
            finally:
                ready.cancel()
            return _outcome(process, body)
    except PublicError as error:
        _tell_failure(process, error)
        return 1


def _outcome(process: Process, body: asyncio.Task[None]) -> int:
    """Return the exit code, and log why if it is not 0."""
    if body.cancelled():
        return 0  # Told to stop, and stopped; what was cut off is in the log.
    error = body.exception()
    if error is None and not process.stopping.is_set():
        error = PublicError("it ended by itself, without being told to stop")
    if error is None:
        return 0
    for leaf in _leaves(error):
        _tell_failure(process, leaf)
    return 1


async def _ends(
    process: Process, body: asyncio.Task[None], grace_s: float, notify_socket: str
) -> None:
    """Return when `body` has ended, which it must soon after a signal or a failure."""
    told = asyncio.create_task(process.stopping.wait())
    failed = asyncio.create_task(process._failed.wait())  # noqa: SLF001
    try:
        await asyncio.wait({body, told, failed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        failed.cancel()
    if process.stopping.is_set():
        _notify(notify_socket, "STOPPING=1")
        await asyncio.wait({body}, timeout=grace_s)
        if not body.done():
            log.warning("work in flight did not end within %g s; cancelling it", grace_s)
    body.cancel()
    await asyncio.wait({body}, timeout=_CANCEL_S)
    if not body.done():
        log.error("a part does not end when cancelled; leaving without it")
        os._exit(1)


def _on_signal(process: Process, number: int) -> None:
    if process.stopping.is_set():
        log.warning("told twice to stop; leaving at once")
        os._exit(128 + number)
    log.info("stopping")
    process.stopping.set()


def _on_stray_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("the event loop reports: %s", context.get("message"), exc_info=error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _tell_failure(process: Process, error: BaseException) -> None:
    where = " ".join(getattr(error, "__notes__", ()))
    said = str(error) or type(error).__name__
    known = isinstance(error, (PublicError, SettingsError, BusError))
    log.error(
        "the %s failed%s: %s",
        process.name,
        where and f" {where}",
        said,
        exc_info=None if known else error,
    )


async def _tell_ready(process: Process, notify_socket: str) -> None:
    await process.ready.wait()
    _notify(notify_socket, f"READY=1\nX_WASMFN_ADMIN={process.admin_url}")
    log.info("ready", extra={"admin": process.admin_url})


def _notify(path: str, message: str) -> None:
    """Tell the supervisor, by the protocol of sd_notify(3)."""
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, address)
        except OSError as error:
            log.warning("cannot tell the supervisor: %s", error)


@contextlib.asynccontextmanager
async def _admin(process: Process, address: str) -> AsyncIterator[None]:
    """Serve the admin port while inside, so also while the service ends."""
    listener = _listen(address)
    process.admin_url = "http://{}:{}".format(*listener.getsockname()[:2])

    async def healthz(_: Request) -> Response:
        return _json(200, {"service": process.name, "pid": os.getpid()})

    async def readyz(_: Request) -> Response:
        missing = process.ready.waiting_for
        if process.stopping.is_set():
            missing = {"stop": "stopping"}
        return _json(503 if missing else 200, {"ready": not missing, "waiting_for": missing})

    async def metrics(_: Request) -> Response:
        return Response(
            prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST
        )

    process.admin_routes += [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
    app = Starlette()
    app.router.routes = process.admin_routes
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve([listener]), name="admin port")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except (OSError, ValueError, OverflowError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no HOST:PORT"
        raise PublicError(f"cannot listen on the admin address {address}: {reason}") from error


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
