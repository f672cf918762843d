"""The client's side of the data port: uvicorn's llhttp protocol with a fast way through.

Plain invocations are answered from the callbacks of llhttp, by
`services.router.invocation`; all else goes to the ASGI application, as uvicorn
does it. Both have their turn in the order in which they came. A request whose
head is known byte for byte does not even see the parser.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from services.router.admission import Admitted, Head, Refused, admit, read_head
from services.router.bounded import LINGER_S, BoundedConnection, ClientLimits
from services.router.framing import header_lines
from services.router.heads import END
from services.router.invocation import Invocation
from services.router.origin import Origin
from services.router.problems import Problem
from services.router.request import Request
from services.router.tracing import REQUEST_NAME, read_trace
from services.router.workings import Workings

_ENDS: Final = b"\r\n\r\n"
"""Of a line, and of a head."""
_OF_ONE: Final = frozenset({b"x-request-id", b"traceparent", b"upgrade"})
"""Headers of a head that does not come twice, or must be looked at each time."""


class ClientConnection(BoundedConnection):
    """One connection of a client."""

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
        self._common: list[tuple[bytes, bytes]] = []
        """The headers of every answer."""
        self._common_lines = b""
        self._turn: Invocation | None = None
        """The invocation that is being answered; the application's have `on_lost`."""
        self._head: Head | None = None
        """The last that was read of what came last."""
        self._usual: Head | None = None
        """The known one that came last: most clients send the same again."""
        self._lead: tuple[Admitted | None, bytes] = (None, b"")
        """What its requests begin with at an instance, as it was admitted."""
        self._free = False
        """Nothing is under way, and the parser stands between two requests. `_rest` says so; it
        ends with any byte, and with a request that begins behind another one in the same piece."""
        self._alone = False
        """What is under way is a known request, and nothing came since."""
        self._unread = False
        """The last answer is not sent yet, and nothing is begun before it is."""

    # What an invocation calls.

    def write(self, data: bytes) -> bool:
        """Send `data`, and return whether more may follow at once."""
        self.transport.write(data)
        return not self.flow.write_paused

    def common_lines(self) -> bytes:
        """Return the header lines that stand in every answer."""
        headers = self.server_state.default_headers
        if self._common is not headers:
            # uvicorn makes a new list each second, with the date.
            self._common = headers
            self._common_lines = header_lines(headers)
        return self._common_lines

    def lead(self, head: Head, admitted: Admitted) -> bytes:
        """Return what an instance gets first: all of the head but the ids and its own lines."""
        if self._lead[0] is not admitted:
            front, chained = head.outgoing
            origin = self._origin.lines(head.incoming.host, chained)
            self._lead = (admitted, b"".join((front, origin, admitted.parameters)))
        return self._lead[1]

    def conclude(self, front: bytes, request_id: bytes, data: bytes, now: float) -> None:
        """Send a whole answer on a connection that stays open, and give the turn on."""
        if self._common is not self.server_state.default_headers:
            self.common_lines()
        self.transport.write(
            b"".join((front, self._common_lines, REQUEST_NAME, request_id, _ENDS, data))
        )
        if self._alone and not self.flow.write_paused:
            self._turn = None
            self._rest(now)
        else:
            self.on_answered(keep_alive=True, now=now)

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
        self._turn = self._served = None
        flow = self.flow
        waits = self._in_body or self._in_head or self.pipeline or flow.read_paused
        if keep_alive and not (waits or flow.write_paused or self._close_next):
            self._rest(now)
            return
        if self.transport.is_closing():
            return
        if self._close_next or not keep_alive:
            if self._in_body:
                self._close_softly()
            else:
                self._deaf = True
                # What a client does not read would keep the connection for ever.
                self._deadline.within(self.limits.keep_alive_s)
                self.transport.close()
            return
        if flow.write_paused:
            # Else a client that asks and never reads would have all its answers held here.
            self._unread = True
            flow.pause_reading()
            self._deadline.within(self.limits.keep_alive_s)
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            # Not at once: a thousand short requests would stand on each other's shoulders.
            self.loop.call_soon(self._start_asgi_task, *self.pipeline.pop())
        elif self._in_body:
            # Answered early: the rest is read for a while, so that the answer gets through.
            self._deadline.within(LINGER_S)
        elif self._in_head:
            self._await_request()
        else:
            self._rest(now)

    # What the event loop calls.

    def connection_made(  # type: ignore[override]  # as in uvicorn: a stream's transport
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        if self.workings is not None and self.client is not None:
            trusted = self.workings.trusted
            self._origin = Origin(self.client[0], self.scheme or "http", trusted)
            self._free = not self._deaf

    def data_received(self, data: bytes) -> None:
        workings = self.workings
        if not self._free or workings is None:
            self._alone = False
            super().data_received(data)
            return
        self._free = False
        head = self._usual
        if head is None or not data.startswith(head.raw):
            head = workings.heads.known.get(data[: data.find(END) + len(END)])
        if head is not None and len(data) == head.size:
            self._usual = head
            admitted = head.admitted
            if admitted is None or head.edition != workings.state.edition:
                admitted = self._admit_again(workings, head)
            if admitted is not None:
                # The parser stands between two requests, and stays there.
                self._alone = True
                self._turn = invocation = Invocation()
                self.cycle = invocation  # type: ignore[assignment]  # it stands in for uvicorn's
                invocation.serve(workings, self, head, admitted, data[head.end :])
                return
        self._alone = False
        before = self._head
        super().data_received(data)
        head = self._head
        # Empty lines begin no request: the head is still that of the one before.
        if head is not None and head is not before:
            self._learn(workings, head, data)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._turn is not None:
            self._turn.on_client_writable()
        elif self._unread:
            self._unread = False
            self.on_answered(keep_alive=True, now=monotonic())

    # What a request does, as far as it is bounded.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = None
        self._free = self._alone = False

    def _on_request(self) -> None:
        if self.workings is None or not self._invoke(self.workings):
            self._hand_over()

    def _on_piece(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Invocation):
            HttpToolsProtocol.on_body(self, body)
        elif not cycle.response_complete:
            cycle.on_body(body)

    def _on_end(self) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Invocation):
            HttpToolsProtocol.on_message_complete(self)
        elif not cycle.response_complete:
            cycle.on_body_end()

    def _on_pause(self) -> None:
        cycle = self.cycle
        if isinstance(cycle, Invocation) and not cycle.response_complete:
            cycle.on_body_pause()

    def _on_stall(self) -> bool:
        cycle = self.cycle
        if not isinstance(cycle, Invocation):
            return False
        cycle.on_stall()
        return True

    def _leave(self, status: int) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.on_lost(status)
        if self.on_lost is not None:
            self.on_lost()

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
        quiet = self._is_quiet() and not self._unread
        invocation = Invocation()
        invocation.prepare(workings, self, request, read_trace(self.headers), verdict)
        self.cycle = invocation  # type: ignore[assignment]  # it stands in for uvicorn's
        if quiet:
            self._turn = invocation
            invocation.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((invocation, self.app))  # type: ignore[arg-type]  # the same
        return True

    def _admit_again(self, workings: Workings, head: Head) -> Admitted | None:
        """Judge a known head anew: a route or function has changed. None if it is not plain now."""
        try:
            admitted = admit(workings.state, head)
        except Refused:
            return None
        return admitted if admitted.is_plain else None

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

    def _rest(self, now: float) -> None:
        """Wait for the client's next request."""
        self._free = True
        # What is answered would keep its body in memory until then.
        self.cycle = None  # type: ignore[assignment]  # as before the first
        # `Deadline.until`, without the call: this is done for every request.
        # If the client has just left, `connection_lost` stops the clock.
        deadline = self._deadline
        deadline.at = at = now + self.limits.keep_alive_s
        if at < deadline.rings:
            deadline.arm()

    def _hand_over(self) -> None:
        """Begin an ASGI cycle, as uvicorn does."""
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.scope["state"]["client"] = self
        quiet = self._is_quiet()
        HttpToolsProtocol.on_headers_complete(self)
        if quiet:
            self._served = self.cycle

    # What uvicorn calls.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Give a request its turn."""
        if self.transport.is_closing() or self._answered:
            return
        if isinstance(cycle, Invocation):
            self._turn = cycle
            cycle.start()
        else:
            self._served = cycle
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.on_answered(keep_alive=True, now=monotonic())


def client_protocol(limits: ClientLimits, workings: Workings | None) -> type[ClientConnection]:
    """Return the protocol class for `uvicorn.Config(http=…)`.

    Args:
        limits: what it holds its clients to.
        workings: what plain invocations work with; without it all goes to the application.
    """
    return type("ClientConnection", (ClientConnection,), {"limits": limits, "workings": workings})
