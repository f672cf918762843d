"""Who watches the keeper: streams of JSON lines that never wait for their reader.

A watcher gets a complete snapshot, then a line for each change and one each
second. One that does not keep up is dropped; when it comes back it starts
from a snapshot again, so nothing is lost but time.
"""

import socket
from collections.abc import Callable
from typing import Final

import msgspec

from schemas.control import WatchLine

MAX_WATCHERS: Final = 16
MAX_PENDING_BYTES: Final = 1 << 20
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n"
    b"cache-control: no-store\r\nconnection: close\r\n\r\n"
)

_encode = msgspec.json.Encoder().encode


class Watcher:
    """One reader of `GET /watch`; the connection's end is the stream's end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._pending = bytearray(HEAD)

    def push(self, line: WatchLine) -> bool:
        """Queue a line and send what can be sent; False: drop the watcher."""
        self._pending += _encode(line) + b"\n"
        return self.flush()

    def flush(self) -> bool:
        """Send what can be sent; False: drop the watcher."""
        try:
            sent = self.connection.send(self._pending)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        del self._pending[:sent]
        return len(self._pending) <= MAX_PENDING_BYTES


class Watchers:
    """All readers of `GET /watch`."""

    def __init__(
        self,
        on: Callable[[socket.socket, Callable[[], None]], None],
        off: Callable[[socket.socket], None],
    ) -> None:
        """`on` has a function called when a socket can be read, `off` ends that."""
        self._on = on
        self._off = off
        self._watchers: set[Watcher] = set()

    @property
    def full(self) -> bool:
        """Whether no further one is taken."""
        return len(self._watchers) >= MAX_WATCHERS

    def add(self, connection: socket.socket, first: WatchLine) -> None:
        """Take a reader, who is sent `first` at once."""
        watcher = Watcher(connection)
        self._watchers.add(watcher)
        # Nothing comes from a watcher but its end.
        self._on(connection, lambda: self._drop(watcher))
        self._push(watcher, first)

    def tell(self, line: WatchLine) -> None:
        """Send `line` to all."""
        for watcher in list(self._watchers):
            self._push(watcher, line)

    def close(self) -> None:
        """Hang up on all."""
        for watcher in list(self._watchers):
            self._drop(watcher)

    def _push(self, watcher: Watcher, line: WatchLine) -> None:
        if not watcher.push(line):
            self._drop(watcher)

    def _drop(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._off(watcher.connection)
        watcher.connection.close()
