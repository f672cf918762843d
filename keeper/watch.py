"""Who watches the keeper: streams of JSON lines that never wait for their reader.

A watcher gets a complete snapshot, then a line for each change and one each
second. One that does not keep up is dropped; when it comes back it starts
from a snapshot again, so nothing is lost but time.
"""

import socket
from typing import Final

import msgspec

from schemas.control import WatchLine

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
