"""A client's connection that takes no more room and time than it is given.

uvicorn leaves to a front proxy what this router is itself: a bound on a head's
size and time, on idle and half-sent connections, trailers that must not turn
into headers or grow without end, upgrades, requests in absolute form, and a bad
request that must not be answered in the middle of another one's answer. Those
are here, and nothing of what is answered to a request that is well-formed.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from

import asyncio
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from schemas.names import new_correlation_id
from services.router.answer import front
from services.router.deadline import Deadline
from services.router.origin import absolute_form, announces_body
from services.router.problems import GONE, Problem, encode

_MAX_HEADERS: Final = 100
"""A keeper takes 128; the router adds some."""
LINGER_S: Final = 5.0
"""How long the rest of a refused request is read, so that its client sees the answer."""


class ClientLimits(msgspec.Struct, frozen=True):
    """What one client connection may take."""

    head_s: float = 10.0
    head_bytes: int = 32 * 1024
    keep_alive_s: float = 60.0
    max_connections: int = 16_384


class BoundedConnection(HttpToolsProtocol, ABC):
    """One connection of a client, up to the end of each request's head and body."""

    limits: ClassVar[ClientLimits] = ClientLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline = Deadline(self.loop, self._on_deadline)
        """One for whatever is awaited of the client: nothing, a head, a body's next piece."""
        self._in_head = False
        self._head_awaited = False
        """Time runs for the head that has begun."""
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
        self._served: RequestResponseCycle | None = None
        """The application's request that is being answered. `cycle` is the last that came."""

    # What is done with a request.

    @abstractmethod
    def _on_request(self) -> None:
        """Begin to serve the request whose head is complete."""

    @abstractmethod
    def _on_piece(self, body: bytes) -> None:
        """Take a piece of the body."""

    @abstractmethod
    def _on_end(self) -> None:
        """Take note that the body is complete."""

    @abstractmethod
    def _on_pause(self) -> None:
        """Take note that there is no more of the body at the moment."""

    @abstractmethod
    def _on_stall(self) -> bool:
        """Give up a body that does not come. False if nobody waits for it."""

    @abstractmethod
    def _leave(self, status: int) -> None:
        """Tell whoever prepares an answer that nobody waits for it any more.

        Args:
            status: what the client got instead; `GONE` if it has left.
        """

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
        if self._answered:
            return
        if self._served is not None:
            self._served.disconnected = True
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
            self._deadline.within(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        # What uvicorn tells: that of the application whose turn it is.
        self.cycle = self._served  # type: ignore[assignment]  # none is as before the first
        super().connection_lost(exc)
        self.pipeline.clear()
        self._deadline.stop()
        self._leave(GONE)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fruitless += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse_malformed()
        except httptools.HttpParserUpgrade:
            pass  # An offer that is ignored; on_headers_complete has seen to what follows.
        if self._deaf or self.transport.is_closing():
            return
        if self._in_head or self._in_body:
            self._await_more()
        elif not self._deadline.awaiting and self._is_quiet():
            # Something that begins no request, such as empty lines, keeps nothing open.
            self._deadline.within(self.limits.keep_alive_s)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_awaited = False
        self._head_bytes = 0
        self._fruitless = 0
        # What ran may be the bound of a wait that is over.
        self._deadline.clear()

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
        self._deadline.clear()
        if self._head_bytes > self.limits.head_bytes or len(self.headers) > _MAX_HEADERS:
            self._refuse_head()
            return
        if self.url[:1] != b"/" and not self._take_absolute_form():
            detail = "the request's target is not a path or URL that is served here"
            self._refuse(Problem(400, detail, close=True))
            return
        upgrade = self.parser.should_upgrade()
        if upgrade and (self.parser.get_method() == b"CONNECT" or announces_body(self.headers)):
            # llhttp does not read the body of such a request.
            detail = "no upgrade or tunnel is served here; send the request without Upgrade"
            self._refuse(Problem(501, detail, close=True))
            return
        self._in_body = True
        self._on_request()
        if upgrade:
            # An offer that we ignore, as we may (RFC 9110, section 7.8).
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        if not self._deaf:
            self._on_piece(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._deaf:
            return
        self._deadline.clear()
        self._on_end()
        if self._is_quiet():
            self._await_request()

    # Refusals.

    def _refuse_malformed(self) -> None:
        """Answer what llhttp could not read."""
        detail = "the request is not well-formed HTTP/1.1; its framing or a header is wrong"
        self._refuse(Problem(400, detail, close=True))

    def _refuse_head(self) -> None:
        most = f"{self.limits.head_bytes} bytes and {_MAX_HEADERS} headers"
        self._refuse(
            Problem(431, f"a request's head or trailers are at most {most}; send less", close=True)
        )

    def _refuse(self, problem: Problem) -> None:
        """Answer `problem` if it is this request's turn, and take nothing more from the client."""
        self._deaf = True
        self._deadline.clear()
        quiet = self._is_quiet()
        if not quiet:
            if not self._in_body or self.pipeline:
                # Earlier requests are owed their answers; this one gets the close.
                self.pipeline.clear()
                self._close_next = True
                return
            if self.cycle.response_started:
                self.abort()
                return
            if isinstance(self.cycle, RequestResponseCycle):
                self.cycle.disconnected = True
        self._answered = True
        self._leave(problem.status)
        if not (quiet and self._in_body):
            # Else it was answered early, and what is written now would be another's answer.
            headers, body = encode(problem, new_correlation_id())
            if self.parser.get_method() == b"HEAD":
                body = b""
            self.transport.write(front(problem.status, headers) + b"\r\n" + body)
        self._close_softly()

    def _close_softly(self) -> None:
        """Close so that a client which is still sending sees what was written."""
        self._deaf = True
        if self.transport.can_write_eof():
            # Half-closed: a full close with unread input would reset the answer away.
            self.transport.write_eof()
            self.flow.resume_reading()
            self._deadline.within(LINGER_S)
        else:
            self.transport.close()

    def _is_quiet(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _take_absolute_form(self) -> bool:
        """Take host and path from a target in absolute form, if it is one."""
        found = absolute_form(self.url)
        if found is None:
            return False
        host, self.url = found
        given = sum(name == b"host" for name, _ in self.headers)
        # None or two are no less wrong beside such a target (RFC 9112, section 3.2).
        if given == 1 or (not given and self.parser.get_http_version() == "1.0"):
            self.headers[:] = [header for header in self.headers if header[0] != b"host"]
            self.headers.append((b"host", host))
        return True

    # Time.

    def _await_more(self) -> None:
        """Bound what is still to come of a request."""
        # llhttp tells nothing of a header, trailer or chunk extension that does not end,
        # and httptools copies what it has of it at every piece.
        if self._fruitless > self.limits.head_bytes:
            self._refuse_head()
        elif self._in_body:
            self._on_pause()
        elif not self._head_awaited and self._is_quiet():
            self._await_request()

    def _await_request(self) -> None:
        """Give the client its time to send a request's head, or to begin one."""
        self._head_awaited = self._in_head
        self._deadline.within(self.limits.head_s if self._in_head else self.limits.keep_alive_s)

    def _on_deadline(self) -> None:
        if self._deaf:
            self.transport.abort()
        elif self._in_head:
            detail = f"the request's head did not come within {self.limits.head_s:g} s"
            self._refuse(Problem(408, detail, close=True))
        elif self._is_quiet() or (self._in_body and not self._on_stall()):
            self.transport.abort()
        # Else it is the client that waits: a bound that is over need not be taken back.
