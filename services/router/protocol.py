"""The client's side of the data port: uvicorn's llhttp protocol, made safe to face the world.

Plain invocations are answered from the callbacks of llhttp, by
`services.router.invocation`; all else goes to the ASGI application, as uvicorn
does it. Both have their turn in the order in which they came.

uvicorn leaves to a front proxy what this router is itself: a bound on a head's
size and time, on idle and half-sent connections, trailers that must not turn
into headers or grow without end, upgrades, requests in absolute form, and a bad request that must
not be answered in the middle of another one's answer. Those are here, too.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from schemas.names import new_correlation_id
from services.router.admission import Admitted, Head, Refused, admit, read_head
from services.router.answer import front
from services.router.deadline import Deadline
from services.router.framing import header_lines
from services.router.heads import END
from services.router.invocation import Invocation
from services.router.origin import Origin, absolute_form, announces_body
from services.router.problems import Problem, encode
from services.router.request import Request
from services.router.tracing import fresh_trace, read_trace
from services.router.workings import Workings

_MAX_HEADERS: Final = 100
"""A keeper takes 128; the router adds some."""
_OF_ONE: Final = frozenset({b"x-request-id", b"traceparent", b"upgrade"})
"""Headers of a head that does not come twice, or must be looked at each time."""
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
    workings: ClassVar[Workings | None] = None
    """What plain invocations work with; without it all goes to the application."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.on_lost: Callable[[], object] | None = None
        """Called when the client is gone before its answer is complete."""
        self._origin = Origin("unknown", "http", ())
        self._common: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        """The headers of every answer, and the same as lines."""
        self._turn: Invocation | None = None
        """The invocation that is being answered; the application's have `on_lost`."""
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
        self._head: Head | None = None
        """The last that was read of what came last."""
        self._usual: Head | None = None
        """The known one that came last: most clients send the same again."""
        self._lead: tuple[Admitted | None, bytes] = (None, b"")
        """What its requests begin with at an instance, as it was admitted."""
        self._head_bytes = 0
        self._fruitless = 0
        """Bytes of input that neither completed a head nor held any of a body."""
        self._answered = False
        """A refusal is written; what the application thinks of it does not matter any more."""

    # What an invocation calls.

    def write(self, data: bytes) -> bool:
        """Send `data`, and return whether more may follow at once."""
        self.transport.write(data)
        return not self.flow.write_paused

    def common_lines(self) -> bytes:
        """Return the header lines that stand in every answer."""
        headers = self.server_state.default_headers
        if self._common[0] is not headers:
            # uvicorn makes a new list each second, with the date.
            self._common = (headers, header_lines(headers))
        return self._common[1]

    def lead(self, head: Head, admitted: Admitted) -> bytes:
        """Return what an instance gets first: all of the head but the ids and its own lines."""
        if self._lead[0] is not admitted:
            front, chained = head.outgoing
            origin = self._origin.lines(head.incoming.host, chained)
            self._lead = (admitted, b"".join((front, origin, admitted.parameters)))
        return self._lead[1]

    def expect_body(self, within_s: float) -> None:
        """Read the body, and tell the invocation if nothing comes of it for so long."""
        self.flow.resume_reading()
        self._deadline.within(within_s)

    def pause_body(self) -> None:
        """Read nothing more of the body for now."""
        self._deadline.clear()
        self.flow.pause_reading()

    def on_answered(self, keep_alive: bool, now: float) -> None:
        """Give its turn to the next request, or wait for it, or close."""
        self._turn = None
        waits = self._in_body or self._in_head or self.pipeline or self.flow.read_paused
        if keep_alive and not waits and not self._close_next:
            # If the client has just left, `connection_lost` stops the clock.
            self._deadline.until(now + self.limits.keep_alive_s)
            return
        if self.transport.is_closing():
            return
        if self._close_next or not keep_alive:
            if self._in_body:
                self._close_softly()
            else:
                self.transport.close()
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            # Not at once: a thousand short requests would stand on each other's shoulders.
            self.loop.call_soon(self._start_asgi_task, *self.pipeline.pop())
        elif self._in_body:
            # Answered early: the rest is read for a while, so that the answer gets through.
            self._deadline.within(_LINGER_S)
        else:
            self._await_request()

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
        if self._answered:
            return
        if isinstance(self.cycle, RequestResponseCycle):
            self.cycle.disconnected = True
        if self.transport is not None:
            self.transport.abort()

    # What the event loop calls.

    def connection_made(  # type: ignore[override]  # as in uvicorn: a stream's transport
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        if self.workings is not None and self.client is not None:
            trusted = self.workings.trusted
            self._origin = Origin(self.client[0], self.scheme or "http", trusted)
        if len(self.connections) > self.limits.max_connections:
            detail = "too many connections are open; send the request again a little later"
            self._refuse(Problem(503, detail, retry_after_s=1.0, close=True))
            self.transport.close()
        else:
            self._deadline.within(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(self.cycle, Invocation):
            self.cycle = None  # type: ignore[assignment]  # uvicorn would tell it as its own
        super().connection_lost(exc)
        self.pipeline.clear()
        self._deadline.stop()
        self._leave()

    def data_received(self, data: bytes) -> None:  # noqa: C901 - calls cost more than branches
        if self._deaf:
            return
        workings = self.workings
        cycle = self.cycle
        fresh = not (self._in_head or self._in_body) and (cycle is None or cycle.response_complete)
        if fresh and workings is not None:
            head = self._usual
            if head is None or not data.startswith(head.raw):
                head = workings.heads.known.get(data[: data.find(END) + len(END)])
            if head is not None and len(data) == head.size:
                self._usual = head
                if self._serve_known(workings, head, data):
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
        if fresh and workings is not None and self._head is not None:
            self._learn(workings, self._head, data)
        if self._in_head or self._in_body:
            self._await_more()
        elif not self._deadline.awaiting and self._is_quiet():
            # Something that begins no request, such as empty lines, keeps nothing open.
            self._deadline.within(self.limits.keep_alive_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._turn is not None:
            self._turn.on_client_writable()

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head = None
        self._in_head = True
        self._head_awaited = False
        self._head_bytes = 0
        self._fruitless = 0

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
        if self.workings is None or not self._invoke(self.workings):
            self._hand_over()
        if upgrade:
            # An offer that we ignore, as we may (RFC 9110, section 7.8).
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        if self._deaf:
            return
        cycle = self.cycle
        if not isinstance(cycle, Invocation):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._deaf:
            return
        self._deadline.clear()
        cycle = self.cycle
        if not isinstance(cycle, Invocation):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.on_body_end()
        if self._is_quiet():
            self._await_request()

    def _invoke(self, workings: Workings) -> bool:
        """Begin a plain invocation, or let it wait for its turn; False if the request is none.

        Its body is still to come.
        """
        parser = self.parser
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        keep_alive = version != "1.0" and parser.should_keep_alive()
        # A fragment is not for servers (RFC 9110, section 4.2.5).
        target = self.url.partition(b"#")[0] if b"#" in self.url else self.url
        request = Request(method, version, keep_alive)
        verdict: Admitted | Problem
        try:
            head = read_head(version, method, target, self.headers, keep_alive=keep_alive)
            if head is None:
                return False
            request = self._head = head
            verdict = admit(workings.state, head)
        except Refused as refused:
            verdict = refused.problem
        else:
            if not verdict.is_plain:
                self._head = None
                return False
        quiet = self._is_quiet()
        invocation = Invocation(workings, self, request, read_trace(self.headers))
        invocation.verdict = verdict
        self.cycle = invocation  # type: ignore[assignment]  # it stands in for uvicorn's
        if quiet:
            self._turn = invocation
            invocation.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((invocation, self.app))  # type: ignore[arg-type]  # the same
        return True

    def _serve_known(self, workings: Workings, head: Head, data: bytes) -> bool:
        """Serve a whole request whose head is known. False if it is no plain invocation now."""
        try:
            admitted = admit(workings.state, head)
        except Refused:
            return False
        if not admitted.is_plain:
            return False
        # The parser stands between two requests, and stays there.
        self._deadline.clear()
        self._turn = invocation = Invocation(workings, self, head, fresh_trace())
        self.cycle = invocation  # type: ignore[assignment]  # it stands in for uvicorn's
        invocation.serve(head, admitted, data[len(head.raw) :])
        return True

    def _learn(self, workings: Workings, head: Head, data: bytes) -> None:
        """Remember the head of a request that came in one piece, to know it again."""
        end = data.find(END) + len(END)
        incoming = head.incoming
        if (
            not self._in_head
            and not self._in_body
            and incoming.length != "chunked"
            and len(data) == end + incoming.length
            and head.keep_alive
            and not incoming.expects_continue
            and not any(name in _OF_ONE for name, _ in self.headers)
        ):
            workings.heads.learn(data[:end], head, len(data))

    def _hand_over(self) -> None:
        """Begin an ASGI cycle, as uvicorn does."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.scope["state"]["client"] = self
        super().on_headers_complete()

    # What uvicorn calls.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Give a request its turn."""
        if self.transport.is_closing():
            return
        if isinstance(cycle, Invocation):
            self._turn = cycle
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.on_answered(keep_alive=True, now=monotonic())

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
        self._leave()
        if not (quiet and self._in_body):
            # Else it was answered early, and what is written now would be another's answer.
            headers, body = encode(problem, new_correlation_id())
            if self.parser.get_method() == b"HEAD":
                body = b""
            self.transport.write(front(problem.status, headers) + b"\r\n" + body)
        self._close_softly()

    def _leave(self) -> None:
        """Tell whoever prepares an answer that nobody waits for it any more."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.on_lost()
        if self.on_lost is not None:
            self.on_lost()

    def _close_softly(self) -> None:
        """Close so that a client which is still sending sees what was written."""
        self._deaf = True
        if self.transport.can_write_eof():
            # Half-closed: a full close with unread input would reset the answer away.
            self.transport.write_eof()
            self._deadline.within(_LINGER_S)
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
            cycle = self.cycle
            if isinstance(cycle, Invocation) and not cycle.response_complete:
                cycle.on_body_pause()
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
        elif self._in_body and not self._is_quiet() and isinstance(self.cycle, Invocation):
            self.cycle.on_stall()
        else:
            self.transport.abort()


def client_protocol(limits: ClientLimits, workings: Workings | None) -> type[ClientConnection]:
    """Return the protocol class for `uvicorn.Config(http=…)`.

    Args:
        limits: what it holds its clients to.
        workings: what plain invocations work with; without it all goes to the application.
    """
    return type("ClientConnection", (ClientConnection,), {"limits": limits, "workings": workings})
