"""A real nginx on one port of this machine."""

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
_HTTP: Final = """
pid {directory}/pid;
error_log stderr warn;
worker_processes 1;
events {{}}
http {{
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  log_format requests escape=json '{{"id":"$request_id","given":"$http_x_request_id",'
    '"status":"$status","passed":"$upstream_status"}}';
  access_log {directory}/requests requests;
  client_header_timeout 300ms;
  client_body_timeout 300ms;
  keepalive_timeout 300ms;
  lingering_close off;
  {config}
}}
"""


class Nginx:
    """One worker, which is impatient with its clients. `config` is what stands in `http`."""

    def __init__(self, directory: Path, config: str) -> None:
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            pytest.skip("there is no nginx here; Debian's package `nginx` has one")
        # Bound, not listening: the port is nginx's alone, and no other process gets it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._requests = directory / "requests"
        file = directory / "nginx.conf"
        listen = f"listen 127.0.0.1:{self.port} reuseport;"
        file.write_text(_HTTP.format(directory=directory, config=config.replace("LISTEN", listen)))
        self._process = subprocess.Popen(
            [program, "-p", directory, "-c", file, "-e", "stderr", "-g", "daemon off;"],
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def requests(self) -> list[dict[str, str]]:
        """Return the requests that it has dealt with, in the order in which they ended."""
        return [json.loads(line) for line in self._requests.read_text().split("\n")[:-1]]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reserved.close()

    def _wait(self) -> None:
        until = time.monotonic() + _START_S
        while True:
            assert self._process.poll() is None, "nginx did not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < until, "nginx does not listen"
                time.sleep(0.005)
            else:
                return
