"""The HTTP/1.1 server of a child: requests in, invocations out, answers back in order.

It serves one function and expects one client, the router, but trusts nobody:
heads, bodies, buffered bytes, connections and waiting times are all bounded.
A request must carry the instance's token; a wrong token, draining and too
many invocations are answered 421 with a reason, which promises that nothing
was executed, so any method may be tried elsewhere. That is decided when the
head has arrived; the body is then discarded, and the connection is closed only
if the body has not come by then.

Standalone there is no token, and 421 would mean nothing to a client: it says
503 with Retry-After instead.
"""

from collections import deque
from http import HTTPStatus
from typing import Final

import httptools
import msgspec

from keeper.answer import (
    Answer,
    BadRequestError,
    Request,
    answer_of,
    invocation_of,
    refusal,
)
from keeper.call import Call, Outcome
from keeper.exchange import Exchange
from keeper.loop import Stream
from keeper.service import Reason, Service
from schemas.control import REASON_HEADER, RUN_MS_HEADER

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_TARGET_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 128
HEAD_TIMEOUT_S: Final = 10.0
BODY_TIMEOUT_S: Final = 30.0
"""Longest pause within a body, and longest time a client may leave an answer unread."""
IDLE_TIMEOUT_S: Final = 120.0
LINGER_S: Final = 1.0

_REASON_HEADER: Final = REASON_HEADER.encode()
_RUN_HEADER: Final = RUN_MS_HEADER.encode()
_MESSAGES: Final[dict[Reason, str]] = {
    "wrong-instance": "this is not the instance that the request is for",
    "draining": "the instance is about to end",
    "busy": "the instance has as many invocations in flight as it may",
}
_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Connection:
    """A client's connection. Requests that come early wait their turn (RFC 9112, 9.3.2)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()
        self._incoming: Exchange | None = None
        self._head_done = True
        self._fruitless = 0  # bytes fed that neither completed a head nor held any of a body
        self._running = False
        self._call: Call | None = None
        """What runs, once that has taken more than a slice."""
        self._writable = True
        self._unsent = 0
        self._closing = False  # answer what is queued, read no more
        self._lingering = False
        self._held: list[bytes] = []
        self._touched = self._since = service.loop.time()

    # Transport side.

    def connection_made(self, transport: Stream) -> None:
        """Start, unless there are too many connections already."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        if not self._service.connected(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a call that runs is ended where it stands."""
        self._closing = self._lingering = True
        if self._call is not None:
            self._call.abandoned = True
        if not self._writable:
            self._service.stalled -= 1
        self._service.connections.discard(self)
        for exchange in self._queue:
            self._service.buffered -= exchange.size
        self._queue.clear()
        self._held.clear()

    def pause_writing(self) -> None:
        """The client does not read: start nothing new for it."""
        self._writable = False
        self._service.stalled += 1
        self._touched = self._service.loop.time()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable = True
        self._service.stalled -= 1
        self._touched = self._service.loop.time()
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Parse `data`, or hold it back while an earlier request is being answered."""
        if self._closing:
            return
        self._touched = self._service.loop.time()
        if self._running or not self._writable:
            self._held.append(data)
            self._transport.pause_reading()
            return
        if not self._head_done or self._incoming is not None or self._queue:
            self._feed(data)
            self._advance()
        elif (known := self._service.heads.find(data)) is not None:
            # The parser stands between two requests, and stays there.
            self._run(known)
        else:
            self._feed(data)
            if len(self._queue) == 1 and self._queue[0].complete:
                self._service.heads.learn(data, self._queue[0])
            self._advance()

    @property
    def busy(self) -> bool:
        """Whether a request has begun to arrive or an answer is not sent yet."""
        return (
            self._running
            or bool(self._queue)
            or not self._head_done
            or self._transport.get_write_buffer_size() > 0
        )

    def flush(self) -> None:
        """Send what can be sent now."""
        self._transport.flush()

    def check(self, now: float) -> None:
        """Close the connection if it has waited too long for its client."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._touched = now  # it does read, slowly
        self._unsent = unsent
        idle = now - self._touched
        if not self._writable or self._lingering:
            if idle > BODY_TIMEOUT_S:
                self._transport.abort()
        elif self._running:
            return
        elif not self._head_done or (self._queue and not self._queue[-1].complete):
            late = idle > BODY_TIMEOUT_S or (
                not self._head_done and now - self._since > HEAD_TIMEOUT_S
            )
            if late:
                self._give_up(408, "the request did not arrive in time")
        elif idle > IDLE_TIMEOUT_S:
            self._transport.close()

    # Parser side (httptools' callbacks).

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._incoming = Exchange()
        self._head_done = False
        self._fruitless = 0
        self._since = self._touched

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        exchange = self._exchange()
        exchange.target += url
        exchange.head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; the parser has checked its syntax."""
        if self._head_done:
            return  # a trailer: never merged into the head (RFC 9110, 6.5.1)
        self._exchange().take(name.lower(), value)

    def on_headers_complete(self) -> None:
        """Decide whether the request will be executed here."""
        exchange = self._exchange()
        exchange.version = self._parser.get_http_version()
        exchange.method = self._parser.get_method().decode("ascii")
        if doubt := exchange.doubt(upgrade=self._parser.should_upgrade()):
            raise BadRequestError(doubt)  # ends the parser: nothing behind it is a request
        self._head_done = True
        self._fruitless = 0
        service = self._service
        if (reason := service.refuses(exchange.token)) is not None:
            exchange.refused = self._misdirected(reason)
        elif (
            exchange.head_bytes > MAX_HEAD_BYTES
            or len(exchange.headers) > MAX_HEADERS
            or len(exchange.target) > MAX_TARGET_BYTES
        ):
            exchange.refused = refusal(431, "the request's head is too large")
        elif exchange.method == "CONNECT":
            exchange.refused = refusal(405, "CONNECT makes no sense here")
        elif exchange.expects_more:
            exchange.refused = refusal(417, "only `Expect: 100-continue` is understood")
        elif exchange.length > service.serving.body_bytes:
            exchange.refused = self._too_large()
        self._queue.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body, up to the limit."""
        self._fruitless = 0
        exchange = self._exchange()
        if exchange.refused is not None:
            return
        exchange.size += len(body)
        self._service.buffered += len(body)
        exchange.body.append(body)
        if exchange.size > self._service.serving.body_bytes:
            self._release(exchange)
            exchange.refused = self._too_large()

    def on_message_complete(self) -> None:
        """The request is whole; it is answered when the parser has returned."""
        exchange = self._exchange()
        exchange.complete = True
        exchange.keep_alive = self._parser.should_keep_alive() and exchange.version == "1.1"
        self._incoming = None

    # In between.

    def _exchange(self) -> Exchange:
        assert self._incoming is not None  # noqa: S101 -- the parser's order of callbacks
        return self._incoming

    def _feed(self, data: bytes) -> None:
        self._fruitless += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here: answer the request, read no more.
            self._closing = True
            if self._queue:
                self._queue[-1].keep_alive = False
        except httptools.HttpParserError as error:
            told = error.__context__ or error
            self._give_up(400, f"this is not HTTP/1.1: {told}", advance=False)
        else:
            # The parser keeps an unfinished header or trailer to itself: count what it was fed.
            if self._incoming is not None and self._fruitless > 2 * MAX_HEAD_BYTES:
                self._give_up(431, "the request's head or trailers are too large", advance=False)

    def _give_up(self, status: int, message: str, *, advance: bool = True) -> None:
        """Answer what came so far with an error, after the answers before it, and close."""
        self._closing = True
        exchange = self._queue[-1] if self._queue and not self._queue[-1].complete else None
        if exchange is None:
            exchange = Exchange()
            self._queue.append(exchange)
        self._release(exchange)
        exchange.refused = refusal(status, message)
        self._incoming = None
        self._head_done = True
        if advance:
            self._advance()

    def _advance(self) -> None:
        """Answer the requests at the head of the queue until one has to wait."""
        while self._queue and not self._running and self._writable:
            exchange = self._queue[0]
            if exchange.refused is not None:
                self._queue.popleft()
                self._respond(exchange, exchange.refused)
            elif exchange.complete:
                self._queue.popleft()
                self._run(exchange)
            else:
                if exchange.expects:
                    exchange.expects = False
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
        if self._held and not self._running and self._writable and not self._closing:
            held, self._held = self._held, []
            self._transport.resume_reading()
            self._feed(b"".join(held))
            self._service.loop.call_soon(self._advance)

    def _run(self, exchange: Exchange) -> None:
        service = self._service
        body = exchange.body[0] if len(exchange.body) == 1 else b"".join(exchange.body)
        self._release(exchange)
        # What was true when the head came may have changed while the body did.
        if (reason := service.refuses(exchange.token)) is not None:
            self._respond(exchange, self._misdirected(reason))
            return
        request = Request(exchange.method, exchange.target, exchange.headers, body, self._peer)
        self._running = True
        try:
            invocation = invocation_of(service.serving.program, request)
            self._call = service.runner.run(
                invocation, lambda outcome: self._ended(exchange, outcome)
            )
        except BadRequestError as error:
            self._running = False
            self._respond(exchange, refusal(400, str(error)))
        except ValueError as error:
            self._running = False
            self._respond(exchange, refusal(500, f"the call cannot be made: {error}"))

    def _ended(self, exchange: Exchange, outcome: Outcome) -> None:
        answer = answer_of(self._service.serving.program.interface, exchange.accept, outcome)
        if outcome.error is not None or outcome.stderr:
            self._service.report(
                exchange.request_id.decode("utf-8", "replace"), answer.status, outcome
            )
        late = self._transport.is_closing()
        self._running = False
        self._call = None
        if late:
            return
        self._respond(exchange, answer, b"%b: %.3f\r\n" % (_RUN_HEADER, outcome.run_ms))
        if self._queue or self._held:
            self._service.loop.call_soon(self._advance)

    def _respond(self, exchange: Exchange, answer: Answer, extra: bytes = b"") -> None:
        head = [_STATUS_LINES.get(answer.status) or b"HTTP/1.1 %d Status\r\n" % answer.status]
        head += [b"%b: %b\r\n" % header for header in answer.headers]
        head.append(extra)
        body = answer.body
        if answer.status in (204, 304):
            body = b""
        else:
            head.append(b"content-length: %d\r\n" % len(body))
        keep_alive = exchange.keep_alive
        if not keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        if exchange.method != "HEAD":
            head.append(body)
        self._transport.write(b"".join(head))
        if not keep_alive:
            self._finish(unread=not exchange.complete)

    def _finish(self, *, unread: bool) -> None:
        """Close after the last answer, so that the client can still read it."""
        self._closing = True
        self._queue.clear()
        if unread and self._transport.can_write_eof():
            # Closing with unread bytes in the socket resets the connection and
            # may destroy the answer: discard for a moment first.
            self._lingering = True
            self._transport.resume_reading()
            self._transport.write_eof()
            self._service.loop.call_later(LINGER_S, self._transport.abort)
        else:
            self._transport.close()

    def _release(self, exchange: Exchange) -> None:
        self._service.buffered -= exchange.size
        exchange.size = 0
        exchange.body = []

    def _too_large(self) -> Answer:
        return refusal(413, f"the body exceeds {self._service.serving.body_bytes} bytes")

    def _misdirected(self, reason: Reason) -> Answer:
        standalone = not self._service.serving.token
        answer = refusal(503 if standalone else 421, _MESSAGES[reason])
        more = [(b"retry-after", b"1")] if standalone else []
        headers = [*answer.headers, (_REASON_HEADER, reason.encode()), *more]
        return msgspec.structs.replace(answer, headers=headers)
