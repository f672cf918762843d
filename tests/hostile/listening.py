"""A server of others on a port of this machine that nobody else gets."""

import os
import shutil
import socket
import subprocess
import time
from typing import Final

import pytest

_START_S: Final = 30.0


def program(name: str) -> str:
    """Return where a server is; skip the test where it is not installed."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        pytest.skip(f"there is no {name} here; Debian's package `{name}` has one")
    return found


class Port:
    """Bound, not listening, until it is closed: the port is one server's alone."""

    def __init__(self) -> None:
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.number: int = self._reserved.getsockname()[1]

    def close(self) -> None:
        self._reserved.close()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Return once `process` listens."""
        until = time.monotonic() + _START_S
        while True:
            assert process.poll() is None, f"{process.args} did not start"
            try:
                socket.create_connection(("127.0.0.1", self.number), 1).close()
            except OSError:
                assert time.monotonic() < until, f"{process.args} does not listen"
                time.sleep(0.005)
            else:
                return
