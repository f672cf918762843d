"""A connection on the control port, from its first byte to the answer.

The supervisor must not stall, and must not see the body of a load call. So the head
is only peeked at until its end is there, and then exactly the head is read;
what was peeked is wiped, or it would be inherited by every later child. Heads,
bodies and waiting times are bounded; one connection carries one call.
"""

import socket
import time
from typing import Final

from keeper.control import MAX_HEAD_BYTES, ControlCall, RefusedError, parse_head

HEAD_TIMEOUT_S: Final = 5.0
MAX_BODY_BYTES: Final = 4096
"""Of calls that the supervisor reads itself."""
_DISCARD_S: Final = 1.0
_END: Final = b"\r\n\r\n"

_peeked = bytearray(MAX_HEAD_BYTES)
_WIPED: Final = bytes(MAX_HEAD_BYTES)


class Caller:
    """A client of the control port. Its socket does not block."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.deadline = time.monotonic() + HEAD_TIMEOUT_S
        self.call: ControlCall | None = None
        self.body = bytearray()
        self.answered = False
        self._peeked_before = 0

    def read_head(self) -> ControlCall | None:
        """Return the call once its head has come whole.

        Raises:
            RefusedError: the head is too large or makes no sense.
            ConnectionError: the client has gone.
        """
        try:
            count = self.connection.recv_into(_peeked, 0, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        end = _peeked.find(_END, 0, count)
        _peeked[:count] = _WIPED[:count]
        if end < 0:
            if count == self._peeked_before:
                raise ConnectionResetError("the client ended in mid-head")
            if count == MAX_HEAD_BYTES:
                raise RefusedError("too-large", f"a head may have {MAX_HEAD_BYTES} bytes")
            # Else the socket would stay readable and the loop would spin.
            self._peeked_before = count
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count + 1)
            return None
        head = self.connection.recv(end + len(_END))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self.call = parse_head(head)
        return self.call

    def read_body(self) -> bytes | None:
        """Return the body of a small call once it has come whole.

        Raises:
            ConnectionError: the client has gone.
        """
        assert self.call is not None  # noqa: S101 -- the head comes first
        missing = self.call.content_length - len(self.body)
        if missing:
            try:
                piece = self.connection.recv(missing)
            except BlockingIOError:
                return None
            if not piece:
                raise ConnectionResetError("the client ended in mid-body")
            self.body += piece
        return bytes(self.body) if len(self.body) == self.call.content_length else None

    def answer(self, response: bytes) -> None:
        """Send `response` as far as the socket takes it; it always takes an answer of ours.

        The connection then only discards, until the client closes it: closing
        with unread bytes would destroy the answer on its way.

        Raises:
            OSError: the client has gone.
        """
        self.answered = True
        self.deadline = time.monotonic() + _DISCARD_S
        self.connection.send(response)
        self.connection.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Throw away what comes after an answer; False: the client has closed."""
        try:
            # MSG_TRUNC drops the bytes in the kernel (tcp(7)): a refused load
            # call's code and secrets stay out of this process.
            return self.connection.recv_into(_peeked, 0, socket.MSG_TRUNC) > 0
        except BlockingIOError:
            return True
        except OSError:
            return False
