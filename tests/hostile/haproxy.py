"""A real haproxy on one port of this machine."""

import json
import subprocess
from pathlib import Path
from typing import Final

from tests.hostile.listening import Port, program

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
        found = program("haproxy")
        self._port = Port()
        self.port = self._port.number
        self._log = directory / "requests"
        file = directory / "haproxy.cfg"
        text = _CONFIG.format(port=self.port, config=config, client_s=client_s)
        file.write_text(text.replace("0.3s", "300ms"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [found, "-db", "-f", file], stdout=log, stderr=subprocess.DEVNULL
            )
        try:
            self._port.wait(self._process)
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
        self._port.close()
