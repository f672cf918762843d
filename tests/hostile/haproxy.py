"""A real haproxy on one port of this machine."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

_START_S: Final = 30.0
_CONFIG: Final = """
global
  log stdout format raw local0
defaults
  mode http
  log global
  option dontlognull
  timeout connect 10s
  timeout server 60s
  timeout client {client_s}s
  timeout http-request 300ms
  timeout http-keep-alive {client_s}s
frontend requests
  bind 127.0.0.1:{port}
  http-request set-var(txn.given) req.hdr(x-request-id)
  http-request set-var(txn.id) uuid()
  log-format '{{"id":"%[var(txn.id)]","given":"%[var(txn.given)]","status":"%ST","server":"%s"}}'
{config}
"""


class Haproxy:
    """It logs what it has dealt with. `config` goes on with its frontend."""

    def __init__(self, directory: Path, config: str, *, client_s: float = 0.3) -> None:
        program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            pytest.skip("there is no haproxy here; Debian's package `haproxy` has one")
        # Bound, not listening: the port is haproxy's alone, and no other process gets it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._log = directory / "requests"
        file = directory / "haproxy.cfg"
        text = _CONFIG.format(port=self.port, config=config, client_s=client_s)
        file.write_text(text.replace("0.3s", "300ms"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-db", "-f", file], stdout=log, stderr=subprocess.DEVNULL
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def requests(self) -> list[dict[str, str]]:
        """Return the requests that it has dealt with, in the order in which they ended."""
        lines = self._log.read_text().split("\n")[:-1]
        told = [json.loads(line) for line in lines if line.startswith("{")]
        for line in told:
            line["passed"] = "" if line["server"] == "<NOSRV>" else line["status"]
        return told

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reserved.close()

    def _wait(self) -> None:
        until = time.monotonic() + _START_S
        while True:
            assert self._process.poll() is None, "haproxy did not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < until, "haproxy does not listen"
                time.sleep(0.005)
            else:
                return
