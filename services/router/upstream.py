"""A connection to an instance: HTTP/1.1 over a raw protocol, kept alive.

Built on callbacks, not on tasks: a `Receiver` is told the head, the body and
the end of its answer, so whoever serves clients from callbacks as well pays for
no task and no future. It is told once for what came in one piece, which for
most answers is everything, so that it can pass that on in one piece too.

A connection carries one request at a time. It goes back to the pool only if the
request was sent whole, the answer read whole, and nothing more came; any doubt
closes it. An instance gets at most as many connections as its concurrency,
because a request that uses one holds one of its slots.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from

import asyncio
import contextlib
from typing import Final, Protocol

import httptools

from schemas.endpoints import Endpoint
from services.router.answer import AnswerHead
from services.router.deadline import Deadline
from services.router.framing import Header, with_token
from services.router.heads import END, Heads
from services.router.retry import Failure

_HEAD_BYTES: Final = 64 * 1024
"""The largest head of an answer."""


class Receiver(Protocol):
    """Who gets an answer. After the end or `on_failure` nothing more is called."""

    def on_continue(self) -> None:
        """The instance will take the body (RFC 9110, section 15.2.1)."""

    def on_known(self, head: AnswerHead, data: bytes) -> None:
        """All of an answer, whose head came before and may be passed on."""

    def on_head(self, head: AnswerHead, data: bytes, ended: bool) -> None:
        """The final answer's head, and what came of the body with it."""

    def on_data(self, data: bytes, ended: bool) -> None:
        """More of the body, or its end, or both."""

    def on_failure(self, failure: Failure) -> None:
        """There will be no answer, or no more of it."""

    def on_writable(self) -> None:
        """The request's body may be written on."""


class Home(Protocol):
    """Where connections are between two calls."""

    loop: asyncio.AbstractEventLoop
    heads: Heads[AnswerHead]
    """Those that are known."""

    def put(self, connection: "Connection") -> None:
        """Take back a connection that may serve another call."""

    def forget(self, connection: "Connection") -> None:
        """Know no more of a connection that is closed."""


class Connection(asyncio.Protocol):
    """One connection to one instance."""

    def __init__(self, home: Home, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.reused = False
        """It had served a request before the present one."""
        self.writable = True
        self.idle_since = 0
        """The round of the pool's sweeper in which it was used last."""
        self._home = home
        self.transport: asyncio.Transport | None = None
        """None before it is open, and once it is closed."""
        self._parser = httptools.HttpResponseParser(self)
        self._known = home.heads.known
        self._usual: AnswerHead | None = None
        """The known one that came last: most instances send the same again."""
        self.last_lines = with_token(b"", endpoint.token)
        """What ends the head of every request."""
        self._receiver: Receiver | None = None
        self._fresh = True
        """Nothing of the present answer has come, and it may be one that is known."""
        self._status = 0
        """0 until the answer's head is read."""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._head_pieces = 0
        self._head_told = False
        self._pieces: list[bytes] = []
        """What came of the body since the receiver was told last."""
        self._continued = False
        self._ended = False
        self._head_only = False
        self._interim = False
        self._until_close = False
        self._keep_alive = False
        self._request_sent = True
        self._broken = False
        self._paused = False
        self._deadline = Deadline(home.loop, self._on_silence)

    # What the owner of the connection calls.

    @property
    def usable(self) -> bool:
        """Whether a request may be started on it."""
        return self.transport is not None and not self.transport.is_closing()

    def call(self, receiver: Receiver, method: str, data: bytes, until: float) -> None:
        """Make a request; `data` is all of it. Something of the answer must come by `until`."""
        self._receiver = receiver
        self._head_only = method == "HEAD"
        self._fresh = not self._head_only
        self._request_sent = True
        # `Deadline.until`, without the call: this is done for every request.
        deadline = self._deadline
        deadline.at = until
        if until < deadline.rings:
            deadline.arm()
        if self.transport is not None:
            self.transport.write(data)

    def start(self, receiver: Receiver, method: str, data: bytes) -> None:
        """Begin a request; `data` is its head and what there is of its body."""
        # What runs is the bound of the call before, which nobody took back.
        self._deadline.clear()
        self._receiver = receiver
        self._head_only = method == "HEAD"
        self._fresh = not self._head_only
        self._request_sent = False
        if self.transport is not None:
            self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Write on the request's body, framed by the caller."""
        if self._receiver is not None and self.transport is not None:
            self.transport.write(data)

    def finish(self) -> None:
        """Say that the request is sent whole. Without this the connection is not reused."""
        self._request_sent = True

    def expect_within(self, seconds: float | None) -> None:
        """Fail with `timeout` unless something comes within `seconds`. None waits for ever."""
        if seconds is None:
            self._deadline.clear()
        else:
            self._deadline.within(seconds)

    def pause_reading(self) -> None:
        """Stop reading the answer, which stops the instance by TCP."""
        if self.usable and self.transport is not None and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.usable and self.transport is not None and self._paused:
            self._paused = False
            self.transport.resume_reading()

    def abandon(self) -> None:
        """Drop the call: nobody waits for its answer any more."""
        self._receiver = None
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._deadline.stop()
        if self.transport is not None:
            self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream's transport

    def data_received(self, data: bytes) -> None:  # noqa: C901 - calls cost more than branches
        receiver = self._receiver
        if receiver is None:
            # Bytes that no request asked for: whose answer would they be?
            self._home.forget(self)
            self.close()
            return
        if first := self._fresh:
            self._fresh = False
            head = self._usual
            if head is None or not data.startswith(head.raw):
                head = self._known.get(data[: data.find(END) + len(END)])
            if head is not None and len(data) == head.size:
                # A whole answer, of an instance that keeps the connection (see `_learn`). The
                # parser stands between two of them, and stays there.
                self._usual = head
                self._receiver = None
                if self._request_sent:
                    self.reused = True
                    self._home.put(self)
                else:
                    self.close()
                receiver.on_known(head, data[head.end :])
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._ended:
                self._fail("malformed")
                return
            self._broken = True
        if not self._status:
            # A header that does not end is told by no callback.
            self._head_pieces += len(data)
            if self._head_pieces > _HEAD_BYTES:
                self._fail("malformed")
                return
            if self._continued:
                self._continued = False
                receiver.on_continue()
        elif self._pieces or self._ended or not self._head_told:
            if first and self._ended:
                self._learn(data)
            self._tell()

    def eof_received(self) -> None:
        if self._receiver is not None and self._until_close:
            self._ended = True
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._home.forget(self)
        self.transport = None
        self._fail("closed")

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._receiver is not None:
            self._receiver.on_writable()

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._ended:
            self._broken = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # Later ones are trailers, which go no further.
        if not self._status:
            self._headers.append((name.lower(), value))
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > _HEAD_BYTES:
                raise ValueError("the answer's head is too large")

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("an answer of another protocol")
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            # Interim answers (RFC 9110, section 15.2) are for this hop: the client
            # got its `100 Continue` from us.
            self._interim = True
            self._headers = []
            self._continued = self._continued or status == 100
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        self._until_close = not self._head_only and _needs_eof(status, self._headers)
        self._ended = self._head_only

    def on_body(self, data: bytes) -> None:
        if self._interim:
            raise ValueError("an interim answer with a body")
        if self._ended:
            self._broken = True
        else:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._ended = True

    # The end of a call.

    def _tell(self) -> None:
        """Tell the receiver what came since it was told last."""
        receiver = self._receiver
        if receiver is None:
            return
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        head, told, ended = AnswerHead(self._status, self._headers), self._head_told, self._ended
        if pieces:
            self._pieces = []
        if ended:
            self._release()
        else:
            self._head_told = True
        if told:
            receiver.on_data(data, ended)
        else:
            receiver.on_head(head, data, ended)

    def _learn(self, data: bytes) -> None:
        """Remember the head of an answer that came in one piece, to know it again."""
        end = data.find(END) + len(END)
        head = AnswerHead(self._status, self._headers)
        with contextlib.suppress(ValueError):
            whole = self._keep_alive and not self._broken and len(data) == end + head.length
            if whole and head.status != 421:
                self._home.heads.learn(data[:end], head, len(data))

    def _release(self) -> None:
        """Make ready for the next call, or close if there can be none.

        One that the instance closes at this moment is passed over by `Pool.take`.
        """
        self._receiver = None
        if self._broken or not (self._request_sent and self._keep_alive):
            self.close()
            return
        self._forget_answer()
        self.reused = True
        self._home.put(self)

    def _forget_answer(self) -> None:
        """Let the parser begin anew."""
        if self._head_only:
            # llhttp knows no HEAD: it still waits for the body that was announced.
            self._parser = httptools.HttpResponseParser(self)
        self._status = self._head_bytes = self._head_pieces = 0
        self._headers = []
        self._head_told = self._ended = False
        if self._paused:
            self.resume_reading()

    def _fail(self, failure: Failure) -> None:
        receiver, self._receiver = self._receiver, None
        self.close()
        if receiver is not None:
            receiver.on_failure(failure)

    def _on_silence(self) -> None:
        # Else it is the bound of a call that is over: to take it back would cost each call more.
        if self._receiver is not None:
            self._fail("timeout")


def _needs_eof(status: int, headers: list[Header]) -> bool:
    """Whether only the end of the connection ends this answer (RFC 9112, section 6.3)."""
    if status in (204, 304):
        return False
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
