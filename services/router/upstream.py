"""Connections to instances: HTTP/1.1 over a raw protocol, pooled and kept alive.

Built on callbacks, not on tasks: a `Receiver` is told the head, the body and
the end of its answer as llhttp finds them, so whoever serves clients from
callbacks as well pays for no task and no future. `services.router.exchange` is
the receiver for code that awaits.

A connection carries one request at a time. It goes back to the pool only if the
request was sent whole, the answer read whole, and nothing more came; any doubt
closes it. An instance gets at most as many connections as its concurrency,
because a request that uses one holds one of its slots.
"""

# ruff: noqa: D102 - the callbacks are documented where they come from
# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import asyncio
from typing import Final, Protocol

import httptools

from schemas.endpoints import Endpoint
from services.router.framing import Header
from services.router.retry import Failure

_HEAD_BYTES: Final = 64 * 1024
"""The largest head of an answer."""


class ConnectFailed(Exception):
    """No connection to an instance; nothing was sent."""

    def __init__(self, failure: Failure, reason: str) -> None:
        self.failure = failure
        super().__init__(reason)


class Receiver(Protocol):
    """Who gets an answer. After `on_end` or `on_failure` nothing more is called."""

    def on_continue(self) -> None:
        """The instance will take the body (RFC 9110, section 15.2.1)."""

    def on_head(self, status: int, headers: list[Header]) -> None:
        """The final answer's head; names in lower case."""

    def on_data(self, data: bytes) -> None:
        """A piece of its body."""

    def on_end(self) -> None:
        """The answer is complete."""

    def on_failure(self, failure: Failure) -> None:
        """There will be no answer, or no more of it."""

    def on_writable(self) -> None:
        """The request's body may be written on."""


class Connection(asyncio.Protocol):
    """One connection to one instance."""

    def __init__(self, pool: "Pool", endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.reused = False
        """It had served a request before the present one."""
        self.writable = True
        self.idle_since = 0.0
        self._pool = pool
        self._loop = pool.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._ended: Receiver | None = None
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._head_pieces = 0
        self._head_done = False
        self._head_only = False
        self._interim = False
        self._until_close = False
        self._keep_alive = False
        self._request_sent = True
        self._broken = False
        self._paused = False
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What the owner of the connection calls.

    @property
    def usable(self) -> bool:
        """Whether a request may be started on it."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, receiver: Receiver, method: str, data: bytes) -> None:
        """Begin a request; `data` is its head and what there is of its body."""
        self._receiver = receiver
        self._headers = []
        self._head_bytes = 0
        self._head_pieces = 0
        self._head_done = False
        self._head_only = method == "HEAD"
        self._interim = False
        self._until_close = False
        self._request_sent = False
        if self._transport is not None:
            self._transport.write(data)

    def send(self, data: bytes) -> None:
        """Write on the request's body, framed by the caller."""
        if self._receiver is not None and self._transport is not None:
            self._transport.write(data)

    def finish(self) -> None:
        """Say that the request is sent whole. Without this the connection is not reused."""
        self._request_sent = True

    def expect_within(self, seconds: float | None) -> None:
        """Fail with `timeout` unless something comes within `seconds`. None waits for ever.

        Moving the deadline is cheap: the timer that runs is left to find out itself.
        """
        if seconds is None:
            self._deadline = None
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def pause_reading(self) -> None:
        """Stop reading the answer, which stops the instance by TCP."""
        if self.usable and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.usable and self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abandon(self) -> None:
        """Drop the call: nobody waits for its answer any more."""
        self._receiver = None
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:
            # Bytes that no request asked for: whose answer would they be?
            self._pool.forget(self)
            self.close()
            return
        in_head = not self._head_done
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._ended is None:
                self._fail("malformed")
                return
            self._broken = True
        if in_head and not self._head_done:
            # A header that does not end is told by no callback.
            self._head_pieces += len(data)
            if self._head_pieces > _HEAD_BYTES:
                self._fail("malformed")
        elif self._ended is not None:
            self._release()

    def eof_received(self) -> None:
        if self._receiver is not None and self._until_close:
            self._complete()
            self._release()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        self._transport = None
        self._fail("closed")

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._receiver is not None:
            self._receiver.on_writable()

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._receiver is None:
            self._broken = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._headers.append((name.lower(), value))
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > _HEAD_BYTES:
                raise ValueError("the answer's head is too large")

    def on_headers_complete(self) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            # Interim answers (RFC 9110, section 15.2) are for this hop: the client
            # got its `100 Continue` from us.
            self._interim = True
            self._headers = []
            if status == 100:
                receiver.on_continue()
            return
        self._head_done = True
        self._keep_alive = self._parser.should_keep_alive()
        self._until_close = not self._head_only and _needs_eof(status, self._headers)
        receiver.on_head(status, self._headers)
        if self._head_only:
            self._complete()

    def on_body(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_data(data)
        else:
            self._broken = True

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self._receiver is not None:
            self._complete()

    # The end of a call.

    def _complete(self) -> None:
        """Note that the answer is whole; its receiver is told once the input is read through."""
        self._ended, self._receiver = self._receiver, None

    def _release(self) -> None:
        receiver, self._ended = self._ended, None
        self._deadline = None
        self.reused = True
        if self._head_only:
            # llhttp knows no HEAD: it still waits for the body that was announced.
            self._parser = httptools.HttpResponseParser(self)
        if self._request_sent and self._keep_alive and not self._broken and self.usable:
            self.resume_reading()
            self._pool.put(self)
        else:
            self.close()
        if receiver is not None:
            receiver.on_end()

    def _fail(self, failure: Failure) -> None:
        receiver, self._receiver = self._receiver or self._ended, None
        self._ended = None
        self.close()
        if receiver is not None:
            receiver.on_failure(failure)

    def _on_timer(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        else:
            self._fail("timeout")

    def _stop_timer(self) -> None:
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Pool:
    """The idle connections to every instance, the last used first."""

    def __init__(self, connect_s: float, idle_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.opened = 0
        """Connections opened since the start."""
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._idle: dict[str, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, endpoint: Endpoint) -> Connection | None:
        """Return an idle connection to the instance, if there is one."""
        idle = self._idle.get(endpoint.instance)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Return a new connection to the instance.

        Raises:
            ConnectFailed: there is none to be had; nothing was sent.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                transport, connection = await self.loop.create_connection(
                    lambda: Connection(self, endpoint), endpoint.ip, endpoint.port
                )
        except TimeoutError:
            raise ConnectFailed("unreachable", f"no connection in {self._connect_s} s") from None
        except OSError as error:
            raise ConnectFailed("refused", error.strerror or str(error)) from None
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            # A port of the ephemeral range with no listener can be connected to itself.
            connection.close()
            raise ConnectFailed("refused", "nothing listens there")
        self.opened += 1
        return connection

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next request to its instance."""
        connection.idle_since = self.loop.time()
        self._idle.setdefault(connection.endpoint.instance, []).append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._idle_s / 2, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Take a connection out that is closed."""
        idle = self._idle.get(connection.endpoint.instance)
        if idle and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.endpoint.instance]

    def drop(self, instance: str) -> None:
        """Close the idle connections to an instance that is gone."""
        for connection in self._idle.pop(instance, ()):
            connection.close()

    def close(self) -> None:
        """Close every idle connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for instance in tuple(self._idle):
            self.drop(instance)

    def idle(self) -> int:
        """Return how many connections are idle."""
        return sum(len(connections) for connections in self._idle.values())

    def _sweep(self) -> None:
        """Close what has been idle too long, before the instance does and a request is lost."""
        self._sweeper = None
        limit = self.loop.time() - self._idle_s
        for instance, connections in tuple(self._idle.items()):
            # Used from the end, so the longest idle stand first.
            while connections and connections[0].idle_since <= limit:
                connections.pop(0).close()
            if not connections:
                del self._idle[instance]
        if self._idle:
            self._sweeper = self.loop.call_later(self._idle_s / 2, self._sweep)


def _needs_eof(status: int, headers: list[Header]) -> bool:
    """Whether only the end of the connection ends this answer (RFC 9112, section 6.3)."""
    if status in (204, 304):
        return False
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
