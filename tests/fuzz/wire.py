"""A router's data port without sockets: its real connections, fed from recordings.

The client's connection, the pool's connections and all between them are the
router's own. What a kernel does is done by `RecordingTransport`, so that one
execution takes a millisecond and depends on its bytes alone.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import h11
import uvicorn
from uvicorn.server import ServerState

from keeper.loop import StreamProtocol
from schemas.endpoints import Endpoint
from services.router.bounded import ClientLimits
from services.router.framing import networks
from services.router.invoke import Invocations
from services.router.limits import REPLAY_BYTES, Limits
from services.router.metrics import Metrics
from services.router.parking import Lot
from services.router.pool import Pool
from services.router.problems import Problem
from services.router.protocol import ClientConnection
from services.router.slots import Slots
from services.router.state import Function, State
from services.router.table import Route
from services.router.upstream import Connection
from services.router.workings import Workings
from tests.fuzz.parsers import Llhttp, Parsed, requests

TOKEN: Final = "7" * 32
LIMITS: Final = Limits(grace_s=30.0)
CLIENT_LIMITS: Final = ClientLimits(head_bytes=4096)
BODY_BYTES: Final = 100_000
LENIENT: Final = re.compile(rb" (?:RTSP|ICE)/|\r\n0{20}|(?:^|\n)[A-Z]+ (?:[^\r\n]* )? ")
"""What llhttp takes and h11 does not: other protocols' names, long sizes of chunks, and more than
one space between the words of a request line."""
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

loop: Final = asyncio.new_event_loop()
"""One for all executions."""


class Failures(logging.Handler):
    """Keeps what is logged as an error: no client and no instance may bring that about."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []
        for name in ("services", "uvicorn", "asyncio"):
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def check(self) -> None:
        """Raise what was logged since the last time."""
        records, self.records = self.records, []
        for record in records:
            error = record.exc_info[1] if record.exc_info else None
            raise AssertionError(record.getMessage()) from error


failures: Final = Failures()


class RecordingTransport(asyncio.Transport):
    """In the place of a socket: keeps what is written, and says when it is."""

    def __init__(
        self,
        protocol: StreamProtocol,
        on_write: Callable[[bytes], None],
        soon: Callable[..., object] = loop.call_soon,
    ) -> None:
        """Take whom it is for, and how its loop is asked to do something soon."""
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.paused = False
        self.closing = False
        self.aborted = False
        self.on_resume: Callable[[], None] = lambda: None
        self._soon = soon
        self._protocol = protocol
        self._on_write = on_write

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written += data
            self._on_write(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = self.aborted or not self.closing
        self.close()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._soon(self.on_resume)


class RecordedInstance:
    """In the place of a keeper's child, on one connection: reads requests, and answers.

    It reads with h11 and with llhttp, which must agree on every byte.
    """

    def __init__(self, stage: "Stage", connection: Connection) -> None:
        self.stage = stage
        self.connection = connection
        self.transport = RecordingTransport(connection, self._on_write)
        self.transport.on_resume = self._pump
        self._coming: list[bytes | None] = []
        """What the router has not read; None for the end."""
        self._h11 = h11.Connection(h11.SERVER)
        self._llhttp = Llhttp()
        self._body = b""
        self._head: h11.Request | None = None

    def _on_write(self, data: bytes) -> None:
        self._llhttp.feed(data)
        self._h11.receive_data(data)
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._head = event
                self._body = b""
                if self._h11.they_are_waiting_for_100_continue:
                    self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._tell(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._on_request()
                return
            else:
                assert event is h11.NEED_DATA, event
                return

    def _on_request(self) -> None:
        head = self._head
        assert head is not None
        parsed = Parsed(head.method, head.target, list(head.headers), self._body)
        assert self._llhttp.done[-1] == parsed, (self._llhttp.done[-1], parsed)
        assert self._h11.trailing_data[0] == b""
        check_forwarded(parsed)
        self._h11.send(h11.Response(status_code=204, headers=[]))
        self._h11.send(h11.EndOfMessage())
        self._h11.start_next_cycle()
        calls = self.stage.calls
        calls.append(parsed)
        if self.stage.script:
            self._tell(*self.stage.script, *((None,) if self.stage.ends else ()))
            self.stage.script = []
            return
        body = b"run %d\n" % len(calls) + self._body
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._tell(answer if head.method == b"HEAD" else answer + body)

    def _tell(self, *pieces: bytes | None) -> None:
        self._coming += pieces
        loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Let the router read one piece, and look again soon."""
        if self.transport.closing or self.transport.paused or not self._coming:
            return
        piece = self._coming.pop(0)
        if piece is not None:
            self.connection.data_received(piece)
            loop.call_soon(self._pump)
        else:
            self.connection.eof_received()
            self.transport.close()


class RecordedPool(Pool):
    """A pool whose new connections lead to recorded instances."""

    def __init__(self, stage: "Stage") -> None:
        super().__init__(LIMITS.connect_s, 15.0)
        self._stage = stage
        self.made: list[RecordedInstance] = []

    async def connect(self, endpoint: Endpoint) -> Connection:
        connection = Connection(self, endpoint)
        instance = RecordedInstance(self._stage, connection)
        connection.connection_made(instance.transport)
        self.made.append(instance)
        return connection


class Client(ClientConnection):
    """A client's connection that notes which requests it reads."""

    limits = CLIENT_LIMITS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.methods: list[bytes] = []
        self.refused = b"GET"
        """The method of what was refused last, as far as it was read."""

    def _refuse(self, problem: Problem) -> None:
        self.refused = self.parser.get_method()
        super()._refuse(problem)

    def on_headers_complete(self) -> None:
        if not self._deaf:
            self.methods.append(self.parser.get_method())
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        free = self._free
        super().data_received(data)
        if free and self._alone and self._usual is not None:
            # Its head was known: the parser has not seen it.
            self.methods.append(self._usual.method.encode())


class Stage:
    """One router, with a function at `/f` and, by a parameter, at `/p/{id}/x`."""

    def __init__(self, *, fast: bool = True) -> None:
        self.calls: list[Parsed] = []
        """The requests that instances got whole, in order."""
        self.script: list[bytes] = []
        """What the next request is answered with, in pieces; else with a run's number and its
        own body."""
        self.ends = False
        """The instance closes behind its script."""
        self.state = State()
        self.state.complete = True
        self.pool = RecordedPool(self)
        self.metrics = Metrics()
        self.slots = Slots(
            "router", self.state, Lot(16, 64), self._ask, self.metrics, lambda event: None,
            self.pool.drop, LIMITS.park_s,
        )  # fmt: skip
        parts = (self.slots, self.pool, LIMITS, self.metrics, lambda event: None)
        trusted = networks(["127.0.0.2/32"])
        self.workings = Workings(*parts, trusted)
        self.server = ServerState()
        self._class = type("Fuzzed", (Client,), {"workings": self.workings if fast else None})
        self._config = uvicorn.Config(
            Invocations(*parts, trusted), http=self._class, interface="asgi3", ws="none",
            log_config=None, access_log=False, proxy_headers=False,
        )  # fmt: skip
        key = ("default", "f")
        self.state.put_function(Function(key, 1, timeout_s=5.0, body_bytes=BODY_BYTES))
        for pattern, parameters in (("/f", ()), ("/p/{id}/x", ("id",))):
            self.state.put_route(
                Route("default", pattern, 1, key, pattern, not parameters, _METHODS, "",
                      parameters)
            )  # fmt: skip
        for port in (1, 2):
            self.state.put_endpoint(
                Endpoint("default", "f", str(port), "127.0.0.1", port, "pod", "local", 1, 1, TOKEN,
                         datetime.now(UTC))
            )  # fmt: skip

    async def _ask(self, function: Any, request: Any) -> Any:
        await asyncio.Event().wait()

    def connect(self) -> "Peer":
        """Return a new client."""
        return Peer(self._class(self._config, self.server, {}, loop))

    async def close(self, *peers: "Peer") -> None:
        """Let the clients leave, and see that nothing is left of them."""
        for peer in peers:
            peer.transport.close()
        await settle()
        for task in tuple(self.server.tasks):
            task.cancel()
        await settle()
        assert not self.server.connections
        assert not self.server.tasks
        assert not self.slots.in_flight
        assert not len(self.slots.lot)
        for fleet in self.state.fleets.values():
            assert not any(candidate.in_flight for candidate in fleet.candidates)
        for instance in self.pool.made:
            instance.transport.close()
        self.pool.close()
        self.slots.close()
        await settle()
        failures.check()


class Peer:
    """A client, which sends bytes and keeps what comes."""

    def __init__(self, connection: Client) -> None:
        self.connection = connection
        self.transport = RecordingTransport(connection, lambda data: None)
        connection.connection_made(self.transport)

    @property
    def received(self) -> bytes:
        return bytes(self.transport.written)

    async def send(self, data: bytes, *, slow: bool = False) -> bool:
        """Send a piece, and return whether the router has read it. `slow`: and read nothing."""
        if slow:
            self.connection.pause_writing()
        read = not (self.transport.closing or self.transport.paused)
        if read:
            self.connection.data_received(data)
        await settle()
        if slow:
            self.connection.resume_writing()
            await settle()
        self._check_bounds()
        return read

    def _check_bounds(self) -> None:
        """Check that no more is held of what came than may be."""
        cycles = [cycle for cycle, _ in self.connection.pipeline]
        held = sum(len(piece) for cycle in cycles for piece in getattr(cycle, "_pieces", ()))
        # As much as came in one piece before the connection paused.
        assert held <= 65536 + REPLAY_BYTES
        assert len(self.connection.workings.heads.known) <= 512 if self.connection.workings else 1


async def settle() -> None:
    """Let all happen that can happen without time passing."""
    for _ in range(200):
        await asyncio.sleep(0)
        if not loop._ready:  # type: ignore[attr-defined]
            return


def check_forwarded(request: Parsed) -> None:
    """Check that a request is one that the platform may send to an instance."""
    names = [name for name, _ in request.headers]
    for name in (b"host", b"x-request-id", b"via", b"x-forwarded-for",
                 b"x-forwarded-proto", b"x-forwarded-host", b"x-wasmfn-instance"):  # fmt: skip
        assert names.count(name) == 1, (name, request)
    assert names.count(b"traceparent") <= 1
    fields = dict(request.headers)
    assert fields[b"x-wasmfn-instance"] == TOKEN.encode()
    assert fields[b"x-forwarded-for"] == b"127.0.0.1", request
    assert not {b"connection", b"te", b"trailer", b"upgrade", b"keep-alive", b"proxy",
                b"proxy-connection", b"forwarded"} & set(names), request  # fmt: skip
    for name in names:
        plain = name.replace(b"_", b"-")
        assert not plain.startswith(b"x-wasmfn-") or name in (
            b"x-wasmfn-instance", b"x-wasmfn-param-id"
        ), request  # fmt: skip
    framing = names.count(b"content-length"), names.count(b"transfer-encoding")
    assert framing in ((0, 0), (1, 0), (0, 1)), request


def meant(raw: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return method, target in origin form and body of the requests that h11 reads in `raw`."""
    return [(r.method, _origin_form(r.target), r.body) for r in requests(raw)]


def _origin_form(target: bytes) -> bytes:
    target = target.partition(b"#")[0]
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return target
    ends = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
    path = rest[min(ends) :] if ends else b""
    path = path if path.startswith(b"/") else b"/" + path
    # A question mark that nothing follows.
    return path.removesuffix(b"?") if path.count(b"?") == 1 else path
