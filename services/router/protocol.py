"""The client's side of the data port: uvicorn's llhttp protocol, made safe to face the world.

uvicorn leaves to a front proxy what this router is itself: a bound on a head's
size and time, on idle and half-sent connections, trailers that must not turn
into headers or grow without end, upgrades, requests in absolute form, and a bad request that must
not be answered in the middle of another one's answer. Those, and no more, are
here; everything else is uvicorn's.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from schemas.names import new_correlation_id
from services.router.problems import Problem, encode

_log = logging.getLogger("uvicorn.error.client")
# Below that uvicorn writes a line for each bad request: any client could fill the disk.
_log.setLevel(logging.ERROR)

_MAX_HEADERS: Final = 100
"""A keeper takes 128; the router adds some."""
_LINGER_S: Final = 5.0
"""How long the rest of a refused request is read, so that its client sees the answer."""


class ClientLimits(msgspec.Struct, frozen=True):
    """What one client connection may take."""

    head_s: float = 10.0
    head_bytes: int = 32 * 1024
    keep_alive_s: float = 60.0
    max_connections: int = 16_384


class ClientConnection(HttpToolsProtocol):
    """One connection of a client."""

    limits: ClassVar[ClientLimits] = ClientLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _log
        self.on_lost: Callable[[], object] | None = None
        """Called when the client is gone before its answer is complete."""
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._deaf = False
        """What still comes is thrown away."""
        self._close_next = False
        """Close after the answer that is under way."""
        self._head_bytes = 0
        self._fruitless = 0
        """Bytes of input that neither completed a head nor held any of a body."""
        self._answered = False
        """A refusal is written; what the application thinks of it does not matter any more."""

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
        if self._answered:
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.transport is not None:
            self.transport.abort()

    # What the event loop calls.

    def connection_made(  # type: ignore[override]  # as in uvicorn: a stream's transport
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            detail = "too many connections are open; send the request again a little later"
            self._refuse(Problem(503, detail, retry_after_s=1.0, close=True))
            self.transport.close()
        else:
            self._arm(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fruitless += len(data)
        super().data_received(data)
        if self._deaf or self.transport.is_closing():
            return
        if self._in_head or self._in_body:
            # llhttp tells nothing of a header, trailer or chunk extension that does not end,
            # and httptools copies what it has of it at every piece.
            if self._fruitless > self.limits.head_bytes:
                self._refuse_head()
        elif self._timer is None and self._is_quiet():
            # Something that begins no request, such as empty lines, keeps nothing open.
            self._arm(self.limits.keep_alive_s)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["client"] = self
        self._in_head = True
        self._head_bytes = 0
        self._fruitless = 0
        if self._is_quiet():
            self._arm(self.limits.head_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Later ones are trailers (RFC 9110, section 6.5.1): never merged, here dropped.
        if self._in_head:
            self._head_bytes += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._fruitless = 0
        if self._deaf:
            return
        self._disarm()
        if self._head_bytes > self.limits.head_bytes or len(self.headers) > _MAX_HEADERS:
            self._refuse_head()
            return
        if self.url[:1] != b"/" and not self._absolute_form():
            detail = "the request's target is not a path or URL that is served here"
            self._refuse(Problem(400, detail, close=True))
            return
        upgrade = self.parser.should_upgrade()
        if upgrade and (self.parser.get_method() == b"CONNECT" or self._announces_body()):
            # llhttp does not read the body of such a request.
            detail = "no upgrade or tunnel is served here; send the request without Upgrade"
            self._refuse(Problem(501, detail, close=True))
            return
        super().on_headers_complete()
        self._in_body = True
        if upgrade:
            # An offer that we ignore, as we may (RFC 9110, section 7.8).
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._deaf:
            return
        super().on_message_complete()
        if self._is_quiet():
            self._arm(self.limits.keep_alive_s)

    # What uvicorn calls.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # One timer runs here, for whatever is awaited of the client.
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self._close_next:
            self.transport.close()
        elif self._is_quiet():
            if self._in_body:
                # Answered early: the rest is read for a while, so that the answer gets through.
                self._arm(_LINGER_S)
            else:
                self._arm(self.limits.head_s if self._in_head else self.limits.keep_alive_s)

    def send_400_response(self, msg: str) -> None:
        """Answer what llhttp could not read."""
        detail = "the request is not well-formed HTTP/1.1; its framing or a header is wrong"
        self._refuse(Problem(400, detail, close=True))

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: any client may offer an upgrade."""

    # Refusals.

    def _refuse_head(self) -> None:
        most = f"{self.limits.head_bytes} bytes and {_MAX_HEADERS} headers"
        self._refuse(
            Problem(431, f"a request's head or trailers are at most {most}; send less", close=True)
        )

    def _refuse(self, problem: Problem) -> None:
        """Answer `problem` if it is this request's turn, and take nothing more from the client."""
        self._deaf = True
        self._disarm()
        self._unset_keepalive_if_required()
        if not self._is_quiet():
            if not self._in_body or self.pipeline:
                # Earlier requests are owed their answers; this one gets the close.
                self.pipeline.clear()
                self._close_next = True
                return
            if self.cycle.response_started:
                self.abort()
                return
            self.cycle.disconnected = True
        self._answered = True
        if self.on_lost is not None:
            self.on_lost()
        if not (self._is_quiet() and self._in_body):
            # Else it was answered early, and what is written now would be another's answer.
            headers, body = encode(problem, new_correlation_id())
            lines = [b"%b: %b\r\n" % header for header in headers]
            self.transport.write(b"".join((STATUS_LINE[problem.status], *lines, b"\r\n", body)))
        if self.transport.can_write_eof():
            # Half-closed: a full close with unread input would reset the answer away.
            self.transport.write_eof()
            self._arm(_LINGER_S)
        else:
            self.transport.close()

    def _is_quiet(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding"
            or (name == b"content-length" and value.strip(b"0 ") != b"")
            for name, value in self.headers
        )

    def _absolute_form(self) -> bool:
        """Take host and path from a target in absolute form, if it is one (RFC 9112, 3.2.2)."""
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            return False
        if url.schema not in (b"http", b"https") or not url.host or url.userinfo:
            return False
        name = b"[%b]" % url.host if b":" in url.host else url.host
        host = name if url.port is None else b"%b:%d" % (name, url.port)
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", host))
        if not url.path:
            self.url = b"/" + (b"?" + url.query if url.query else b"")
        return True

    # Time.

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._in_head and not self._deaf:
            detail = f"the request's head did not come within {self.limits.head_s:g} s"
            self._refuse(Problem(408, detail, close=True))
        else:
            self.transport.abort()


def client_protocol(limits: ClientLimits) -> type[ClientConnection]:
    """Return the protocol class that holds its clients to `limits`: `uvicorn.Config(http=…)`."""
    return type("ClientConnection", (ClientConnection,), {"limits": limits})
