"""A real router process beside a real nats-server, instances that misbehave when told, raw clients."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats
import pytest
import uvicorn
from nats.aio.client import Client
from uvicorn.server import ServerState

from schemas import subjects
from schemas.active import ActiveFunction, ActiveRoute
from schemas.builds import Artifact
from schemas.control import DemandReply, DemandRequest
from schemas.endpoints import Endpoint
from schemas.events import Event
from schemas.names import new_instance_id, new_token
from schemas.pods import PodFact
from schemas.specs import FunctionSpec, Limits, Module, RouteSpec
from services.bus.streams import ensure_streams
from services.router.framing import networks
from services.router.invoke import Invocations
from services.router.limits import Limits as RouterLimits
from services.router.metrics import Metrics
from services.router.parking import Lot
from services.router.protocol import ClientLimits, client_protocol
from services.router.slots import Slots
from services.router.state import Function, State
from services.router.table import Route
from services.router.upstream import Pool

DIGEST = "0" * 64
Handler = Callable[["Call"], Awaitable[None]]


class Response:
    """What a client got."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


class Peer:
    """A raw HTTP/1.1 client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1")[:-4].split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(first.split()[1]), headers

    async def chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readline()
        return body

    async def response(self, method: str = "GET") -> Response:
        status, headers = await self.head()
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Response(status, headers, await self.chunks())
        return Response(
            status, headers, await self.reader.readexactly(int(headers["content-length"]))
        )

    async def at_end(self) -> bytes:
        """Return what else comes until the connection ends, cleanly or not."""
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                rest += data
        return rest

    def close(self) -> None:
        self.writer.close()


async def connect(port: int) -> Peer:
    return Peer(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))


class Call:
    """A request as an instance got it, and the connection to answer it on."""

    def __init__(
        self, instance: "Instance", peer: Peer, first: str, headers: list[tuple[str, str]]
    ) -> None:
        self.instance = instance
        self.peer = peer
        self.method, self.target, _ = first.split(" ")
        self.headers = headers
        self.header = dict(headers)
        self.body = b""

    async def read_body(self) -> bytes:
        if self.header.get("transfer-encoding") == "chunked":
            self.body = await self.peer.chunks()
        else:
            self.body = await self.peer.reader.readexactly(
                int(self.header.get("content-length", 0))
            )
        return self.body

    async def send(self, data: bytes) -> None:
        await self.peer.send(data)

    async def answer(self, body: bytes = b"ok", status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    async def misdirected(self, reason: str) -> None:
        await self.answer(b"", "421 Misdirected Request", f"x-wasmfn-reason: {reason}\r\n")

    def reset(self) -> None:
        """End the connection as a killed process does."""
        self.peer.writer.transport.abort()


async def echo(call: Call) -> None:
    await call.answer(await call.read_body())


class Instance:
    """A raw HTTP server in the place of a keeper's child. `handler` says how it behaves."""

    def __init__(self, function: str, handler: Handler, **fields: Any) -> None:
        self.handler = handler
        self.calls: list[Call] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.fields = {
            "namespace": "default",
            "function": function,
            "instance": new_instance_id(),
            "ip": "127.0.0.1",
            "port": 0,
            "pod": "pod-1",
            "node": "local",
            "revision": 1,
            "concurrency": 4,
            "token": new_token(),
            "time": datetime.now(UTC),
        } | fields

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(**self.fields)

    async def start(self) -> "Instance":
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.fields["port"], limit=1 << 20
        )
        self.fields["port"] = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Die: nothing listens any more, and every connection is reset."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        peer = Peer(reader, writer)
        try:
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                first, *lines = raw.decode("latin-1")[:-4].split("\r\n")
                headers = [
                    (n.lower(), v.strip()) for n, _, v in (li.partition(":") for li in lines)
                ]
                call = Call(self, peer, first, headers)
                self.calls.append(call)
                await self.handler(call)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


class Router:
    """A running router process."""

    def __init__(self, process: asyncio.subprocess.Process, log: list[dict[str, Any]]) -> None:
        self.process = process
        self.log = log
        self.port = 0
        self.admin = 0

    async def client(self) -> Peer:
        return await connect(self.port)

    async def request(self, *args: Any, **kwargs: Any) -> Response:
        return await request(self.port, *args, **kwargs)

    async def metrics(self) -> dict[str, float]:
        response = await request(self.admin, "GET", "/metrics")
        lines = (li for li in response.body.decode().splitlines() if not li.startswith("#"))
        return {name: float(value) for name, _, value in (li.rpartition(" ") for li in lines)}

    async def metric(self, name: str) -> float:
        return (await self.metrics()).get("wasmfn_router_" + name, 0.0)

    async def until_metric(self, name: str, holds: Callable[[float], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds(await self.metric(name)):
                await asyncio.sleep(0.005)

    def rss_mib(self) -> float:
        with open(f"/proc/{self.process.pid}/status") as status:  # noqa: PTH123
            line = next(li for li in status if li.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


class Gate:
    """The data port in this process, with its state set by hand: no bus in between."""

    def __init__(self, limits: RouterLimits, client: ClientLimits, lot: tuple[int, int]) -> None:
        self.state = State()
        self.state.complete = True
        self.metrics = Metrics()
        self.events: list[Event] = []
        self.demands: list[DemandRequest] = []
        self.replies: asyncio.Queue[DemandReply] = asyncio.Queue()
        """What the scheduler answers, in order."""
        self.instances: list[Instance] = []
        self.pool = Pool(limits.connect_s, 15.0)
        self.slots = Slots(
            "router", self.state, Lot(*lot), self._ask, self.metrics, self.events.append,
            self.pool.drop, limits.park_s,
        )  # fmt: skip
        self.app = Invocations(
            self.slots,
            self.pool,
            limits,
            self.metrics,
            self.events.append,
            networks(["127.0.0.2/32"]),
        )
        self.server_state = ServerState()
        self._protocol = client_protocol(client)
        self._config = uvicorn.Config(
            self.app, http=self._protocol, interface="asgi3", ws="none", log_config=None,
            access_log=False,
        )  # fmt: skip
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        # uvicorn's own loop polls ten times a second, which is slow for a hundred tests.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: self._protocol(self._config, self.server_state, {}, loop), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        for task in tuple(self.server_state.tasks):
            task.cancel()
            await task
        for instance in self.instances:
            await instance.stop()
        self.slots.close()
        self.pool.close()

    async def _ask(self, function: Any, request: DemandRequest) -> DemandReply:
        self.demands.append(request)
        return await self.replies.get()

    def function(
        self, name: str = "f", revision: int = 1, route: bool = True, **limits: Any
    ) -> None:
        values = {"timeout_s": 5.0, "body_bytes": 1 << 20} | limits
        key = ("default", name)
        self.state.functions[key] = Function(key, revision, **values)
        if route:
            self.route(name, "/" + name, prefix=True)

    def route(self, function: str, pattern: str, prefix: bool = False, **fields: Any) -> None:
        values = {"methods": ("GET", "POST", "PUT"), "host": ""} | fields
        parameters = tuple(s[1:-1] for s in pattern.split("/") if s.startswith("{"))
        self.state.table.put(
            Route("default", f"{function}{pattern}", 1, ("default", function), pattern, prefix,
                  parameters=parameters, **values)
        )  # fmt: skip

    async def instance(
        self, handler: Handler = echo, function: str = "f", publish: bool = True, **fields: Any
    ) -> Instance:
        instance = await Instance(function, handler, **fields).start()
        self.instances.append(instance)
        if publish:
            self.put(instance.endpoint)
        return instance

    def put(self, endpoint: Endpoint) -> None:
        self.state.put_endpoint(endpoint)
        self.slots.changed([(endpoint.namespace, endpoint.function)])

    async def client(self) -> Peer:
        return await connect(self.port)

    async def request(self, *args: Any, **kwargs: Any) -> Response:
        return await request(self.port, *args, **kwargs)

    async def raw(self, data: bytes) -> bytes:
        """Send `data` on a fresh connection and return all that comes until it is closed."""
        peer = await self.client()
        try:
            await peer.send(data)
            async with asyncio.timeout(10):
                return await peer.at_end()
        finally:
            peer.close()

    def quiet(self) -> bool:
        """Whether nothing is in flight or parked, by every account."""
        flying = [
            c for fleet in self.state.fleets.values() for c in fleet.candidates if c.in_flight
        ]
        return not (self.slots.in_flight or len(self.slots.lot) or flying)


async def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    peer = await connect(port)
    try:
        lines = {"host": "example.org"} | (headers or {})
        if body is not None:
            lines["content-length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
        await peer.send(head.encode() + b"\r\n" + (body or b""))
        async with asyncio.timeout(30):
            return await peer.response(method)
    finally:
        peer.close()


class Platform:
    """What the other services would say, published as they would."""

    def __init__(self, nc: Client, url: str) -> None:
        self.nc = nc
        self.js = nc.jetstream()
        self.url = url
        self.instances: list[Instance] = []
        self.routers: list[Router] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def publish(self, subject: str, message: Any) -> None:
        await self.js.publish(subject, msgspec.json.encode(message))

    async def delete(self, subject: str) -> None:
        await self.js.publish(subject, b"", headers={"Nats-Rollup": "sub"})

    async def function(self, name: str = "f", revision: int = 1, **limits: Any) -> None:
        spec = FunctionSpec(module=Module(DIGEST), limits=Limits(**limits))
        artifact = Artifact(DIGEST, "e", 1, DIGEST, "s")
        active = ActiveFunction("default", name, revision, spec, DIGEST, artifact, "f.wasm")
        subject = subjects.ACTIVE.subject(kind="function", namespace="default", name=name)
        await self.publish(subject, active)

    async def route(self, name: str = "f", function: str = "f", **spec: Any) -> None:
        spec = {"prefix": "/" + name, "methods": ("GET", "POST")} | spec
        if "path" in spec:
            spec.pop("prefix")
        active = ActiveRoute("default", name, 1, RouteSpec(function=function, **spec))
        subject = subjects.ACTIVE.subject(kind="route", namespace="default", name=name)
        await self.publish(subject, active)

    async def instance(
        self, function: str = "f", handler: Handler = echo, publish: bool = True, **fields: Any
    ) -> Instance:
        instance = await Instance(function, handler, **fields).start()
        self.instances.append(instance)
        if publish:
            await self.endpoint(instance.endpoint)
        return instance

    def endpoint_subject(self, endpoint: Endpoint) -> str:
        return subjects.ENDPOINTS.subject(
            namespace=endpoint.namespace, function=endpoint.function, instance=endpoint.instance
        )

    async def endpoint(self, endpoint: Endpoint) -> None:
        await self.publish(self.endpoint_subject(endpoint), endpoint)

    async def withdraw(self, endpoint: Endpoint) -> None:
        await self.delete(self.endpoint_subject(endpoint))

    async def pod(self, uid: str, phase: Any) -> None:
        fact = PodFact(uid, "local", uid, phase, datetime.now(UTC))
        await self.publish(subjects.PODS.subject(node="local", uid=uid), fact)

    async def scheduler(self, handler: Callable[[Any], Awaitable[bytes]]) -> None:
        """Answer demands as `handler` says."""

        async def serve(msg: Any) -> None:
            task = asyncio.create_task(reply(msg))
            self._tasks.append(task)

        async def reply(msg: Any) -> None:
            await msg.respond(await handler(msg))

        await self.nc.subscribe(subjects.DEMAND.wildcard, cb=serve)
        await self.nc.flush()
        await self.nc.flush()

    async def router(self, **settings: str) -> Router:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("WASMFN_")}
        environ |= {
            "WASMFN_ROUTER_NATS_URL": self.url,
            "WASMFN_ROUTER_HTTP": "127.0.0.1:0",
            "WASMFN_ROUTER_GRACE_S": "5",
        } | {"WASMFN_ROUTER_" + k.upper(): v for k, v in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.router",
            env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        router = Router(process, [])
        self.routers.append(router)
        ready = asyncio.Event()
        self._tasks.append(asyncio.create_task(_read_log(router, ready)))
        async with asyncio.timeout(15):
            await ready.wait()
        return router

    async def close(self) -> None:
        for router in self.routers:
            if router.process.returncode is None:
                router.signal(signal.SIGKILL)
                await router.process.wait()
        for instance in self.instances:
            await instance.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read_log(router: Router, ready: asyncio.Event) -> None:
    assert router.process.stdout is not None
    async for line in router.process.stdout:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"message": line.decode()}
        router.log.append(entry)
        fields = entry.get("fields", {})
        if "http" in fields:
            router.port = int(fields["http"].rpartition(":")[2])
        if "admin" in fields:
            router.admin = int(fields["admin"].rpartition(":")[2])
            ready.set()
    ready.set()


@pytest.fixture
async def platform(nats_server: Any) -> AsyncIterator[Platform]:
    """Return an empty platform: streams, and whoever the test makes speak."""
    nc = await nats.connect(nats_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await ensure_streams(nc.jetstream())
    platform = Platform(nc, nats_server.url)
    yield platform
    await platform.close()
    await nc.close()


@pytest.fixture
async def make_gate() -> AsyncIterator[Callable[..., Awaitable[Gate]]]:
    """Return a function that opens a data port; fields of both kinds of limits may be given."""
    gates: list[Gate] = []

    async def make(per_function: int = 16, total: int = 64, **limits: Any) -> Gate:
        of_client = {f: limits.pop(f) for f in tuple(limits) if f in ClientLimits.__struct_fields__}
        values = {"park_s": 5.0, "stall_s": 5.0, "grace_s": 0.2} | limits
        gate = Gate(RouterLimits(**values), ClientLimits(**of_client), (per_function, total))
        gates.append(gate)
        await gate.start()
        return gate

    yield make
    for gate in gates:
        await gate.close()


@pytest.fixture
async def gate(make_gate: Callable[..., Awaitable[Gate]]) -> Gate:
    """Return a data port with a function `f` at the prefix `/f`, without instances."""
    made = await make_gate()
    made.function()
    return made
