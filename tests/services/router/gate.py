"""The router's data port in the test's own process, its state set by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from schemas.control import DemandReply, DemandRequest
from schemas.endpoints import Endpoint
from schemas.events import Event
from services.router.bounded import ClientLimits
from services.router.framing import networks
from services.router.invoke import Invocations
from services.router.limits import Limits
from services.router.metrics import Metrics
from services.router.parking import Lot
from services.router.pool import Pool
from services.router.protocol import client_protocol
from services.router.slots import Slots
from services.router.state import Function, State
from services.router.table import Route
from services.router.workings import Workings
from tests.services.router.clients import Peer, Response, connect, request
from tests.services.router.instances import Handler, Instance, echo

MakeGate = Callable[..., Awaitable["Gate"]]


class Gate:
    """The data port in this process, with its state set by hand: no bus in between."""

    def __init__(
        self, limits: Limits, client: ClientLimits, lot: tuple[int, int], fast: bool = True
    ) -> None:
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
        parts = (self.slots, self.pool, limits, self.metrics, self.events.append)
        trusted = networks(["127.0.0.2/32"])
        self.app = Invocations(*parts, trusted)
        self.server_state = ServerState()
        self.workings = Workings(*parts, trusted)
        self._protocol = client_protocol(client, self.workings if fast else None)
        self._config = uvicorn.Config(
            self.app, http=self._protocol, interface="asgi3", ws="none", log_config=None,
            access_log=False, proxy_headers=False,
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
        self.state.put_function(Function(key, revision, **values))
        if route:
            self.route(name, "/" + name, prefix=True)

    def route(self, function: str, pattern: str, prefix: bool = False, **fields: Any) -> None:
        values = {"methods": ("GET", "POST", "PUT"), "host": ""} | fields
        parameters = tuple(s[1:-1] for s in pattern.split("/") if s.startswith("{"))
        self.state.put_route(
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
            async with asyncio.timeout(40):
                return await peer.at_end()
        finally:
            peer.close()

    def quiet(self) -> bool:
        """Whether nothing is in flight or parked, by every account."""
        flying = [
            c for fleet in self.state.fleets.values() for c in fleet.candidates if c.in_flight
        ]
        return not (self.slots.in_flight or len(self.slots.lot) or flying)
