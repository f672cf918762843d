"""The event loop of a child: epoll, timers, and connections that send once a turn.

asyncio is not used, because a child pays for it in the currency that matters
here: with uvloop it took 0.9 MiB of every function's process and 30 ms of a
keeper's start. A child needs little of it: one listener, byte streams, and
functions that are called later. What is written in a turn is sent at its end,
when all that could be read has been: sending at once wakes a client each time.

Names and rules are those of asyncio's transports and protocols, so that a
protocol of one runs in the other. Nothing here is safe for threads.
"""

import errno
import heapq
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

HIGH_WATER_BYTES: Final = 64 * 1024
"""Unsent bytes from which on a protocol is asked not to write."""
LOW_WATER_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 64 * 1024
_ACCEPTS_A_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 0.5
"""How long no connection is accepted when there is no descriptor or memory for one."""
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_FLUSH_S: Final = 0.001
"""A turn that takes longer sends in between: answers of slow functions wait for no other's."""
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class StreamProtocol(Protocol):
    """What a connection calls: see `asyncio.Protocol`."""

    def connection_made(self, transport: Any) -> None:
        """The connection stands."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""

    def pause_writing(self) -> None:
        """The peer does not read."""

    def resume_writing(self) -> None:
        """The peer reads again."""


class Loop:
    """Calls functions when their descriptor can be read, their time has come, or next."""

    def __init__(self, on_defect: Callable[[Exception], None] | None = None) -> None:
        """`on_defect` is told of exceptions that no function should raise; None: they end it."""
        self.on_defect = on_defect
        self.time = time.monotonic
        self._epoll = select.epoll()
        self._actions: dict[int, Callable[[int], object]] = {}
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._later: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._written: list[Stream] = []

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in the next turn."""
        self._soon.append((function, arguments))

    def call_later(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in `delay_s` seconds."""
        due = time.monotonic() + delay_s
        heapq.heappush(self._later, (due, next(self._order), function, arguments))

    def add_reader(self, descriptor: int, function: Callable[[], object]) -> None:
        """Call `function` in each turn in which `descriptor` can be read."""
        self.watch(descriptor, _READ, lambda _: function())

    def listen(self, listener: socket.socket, make: Callable[[], StreamProtocol]) -> None:
        """Accept connections at `listener`, which must listen, with a new protocol for each."""
        listener.setblocking(False)
        self.add_reader(listener.fileno(), lambda: self._accept(listener, make))

    def adopt(self, connection: socket.socket, protocol: StreamProtocol) -> "Stream":
        """Run `protocol` on a connected socket; it is closed when the protocol is done."""
        connection.setblocking(False)
        return Stream(self, connection, protocol)

    def run(self) -> None:
        """Turn for ever."""
        while True:
            self.turn()

    def close(self) -> None:
        """Give back what it holds; nothing may be watched any more."""
        self._epoll.close()

    def turn(self) -> None:
        """Wait until there is something to do, and do it once."""
        actions = self._actions
        ready = self._epoll.poll(self._patience())
        flush_at = time.monotonic() + _FLUSH_S
        for descriptor, events in ready:
            if (action := actions.get(descriptor)) is not None:
                self._guarded(action, events)
                if self._written and time.monotonic() > flush_at:
                    self._flush()
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, function, arguments = heapq.heappop(self._later)
            self._guarded(function, *arguments)
        for _ in range(len(self._soon)):
            function, arguments = self._soon.popleft()
            self._guarded(function, *arguments)
        self._flush()

    def watch(self, descriptor: int, events: int, action: Callable[[int], object]) -> None:
        """Call `action` with what happened when one of `events` does."""
        self._epoll.register(descriptor, events)
        self._actions[descriptor] = action

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events of a descriptor."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Wait for a descriptor no more; before it is closed."""
        del self._actions[descriptor]
        self._epoll.unregister(descriptor)

    def has_written(self, stream: "Stream") -> None:
        """Flush `stream` at the end of this turn."""
        self._written.append(stream)

    def _flush(self) -> None:
        written, self._written = self._written, []
        for stream in written:
            self._guarded(stream.flush)

    def _patience(self) -> float | None:
        if self._soon or self._written:
            return 0.0
        if self._later:
            return max(0.0, self._later[0][0] - time.monotonic())
        return None

    def _guarded(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            if self.on_defect is None:
                raise
            self.on_defect(error)

    def _accept(self, listener: socket.socket, make: Callable[[], StreamProtocol]) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self.forget(listener.fileno())
                    self.call_later(_ACCEPT_PAUSE_S, self.listen, listener, make)
                    return
                continue  # the client has gone again
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.adopt(connection, make())


class Stream:
    """A connection. See `asyncio.Transport`."""

    __slots__ = (
        "_closing", "_descriptor", "_eof", "_events", "_full", "_loop", "_lost", "_protocol",
        "_reading", "_socket", "_unsent", "_waits",
    )  # fmt: skip

    def __init__(self, loop: Loop, connection: socket.socket, protocol: StreamProtocol) -> None:
        self._loop = loop
        self._socket = connection
        self._descriptor = connection.fileno()
        self._protocol = protocol
        self._unsent = bytearray()
        self._waits = False  # in the loop's list of those to be flushed
        self._reading = True
        self._full = False
        self._eof = False
        self._closing = False
        self._lost = False
        self._events = _READ
        loop.watch(self._descriptor, _READ, self._happened)
        protocol.connection_made(self)

    def get_extra_info(self, name: str) -> Any:
        """Return the peer's address as `peername`; nothing else is known."""
        try:
            return self._socket.getpeername() if name == "peername" else None
        except OSError:
            return None

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn, or as soon as the peer takes it."""
        if self._lost or self._eof:
            return
        self._unsent += data
        if not self._waits:
            self._waits = True
            self._loop.has_written(self)
        if len(self._unsent) > HIGH_WATER_BYTES and not self._full:
            # Most of it may fit into the socket.
            self.flush()

    def flush(self) -> None:
        """Send what the socket takes."""
        self._waits = False
        if self._lost:
            return
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            del self._unsent[:sent]
        unsent = len(self._unsent)
        if unsent > HIGH_WATER_BYTES and not self._full:
            self._full = True
            self._protocol.pause_writing()
        elif self._full and unsent <= LOW_WATER_BYTES:
            self._full = False
            self._protocol.resume_writing()
        if not self._unsent and not self._lost:
            if self._eof:
                self._shut()
            if self._closing:
                self._lose(None)
                return
        self._await()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not sent yet."""
        return len(self._unsent)

    def can_write_eof(self) -> bool:
        """Tell that the sending side can be closed alone."""
        return True

    def write_eof(self) -> None:
        """Close the sending side when everything is sent."""
        self._eof = True
        if not self._unsent and not self._lost:
            self._shut()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._reading = False
        self._await()

    def resume_reading(self) -> None:
        """Read again."""
        self._reading = True
        self._await()

    def is_closing(self) -> bool:
        """Tell whether the connection has ended or is about to."""
        return self._closing or self._lost

    def close(self) -> None:
        """End the connection when everything is sent."""
        if not self._closing:
            self._closing = True
            if self._unsent:
                self._await()
            else:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End the connection now."""
        self._closing = True
        self._loop.call_soon(self._lose, None)

    def _happened(self, events: int) -> None:
        if events & _WRITE:
            self.flush()
        if events & ~_WRITE and not self._lost:
            if self._reading and not self._closing:
                self._read()
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self._lose(None)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._reading = False
            self.close()
            self._await()
            return
        try:
            self._protocol.data_received(data)
        except Exception:
            self.abort()
            raise

    def _await(self) -> None:
        if self._lost:
            return
        events = _READ if self._reading and not self._closing else 0
        # What was written in this turn is tried first.
        if self._unsent and not self._waits:
            events |= _WRITE
        if events != self._events:
            self._events = events
            self._loop.change(self._descriptor, events)

    def _shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._unsent.clear()
            self._loop.forget(self._descriptor)
            self._socket.close()
            self._protocol.connection_lost(error)
