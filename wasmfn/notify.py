"""Hear from the services that they are ready, by the protocol of sd_notify(3).

One datagram socket serves them all. Its name is abstract, because a data
directory may be too deep for a socket's path, and so anybody on this machine
can send to it: the kernel says who did, and only children are believed.
"""

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""
_MAX_BYTES: Final = 4096


class NotifySocket:
    """Receives notifications. `heard` is called with a pid and what that process said."""

    def __init__(self, heard: Callable[[int, dict[str, str]], None]) -> None:
        self._heard = heard
        self.address = f"@wasmfn-{os.getpid()}-{secrets.token_hex(8)}"
        """The value of NOTIFY_SOCKET."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._socket.bind("\0" + self.address[1:])
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
        except BlockingIOError:
            return
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid, _, _ = _CREDENTIALS.unpack(value)
                self._heard(pid, read_notification(data))


def read_notification(data: bytes) -> dict[str, str]:
    """Return the assignments in a notification; whatever is none is left out."""
    lines = data.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
