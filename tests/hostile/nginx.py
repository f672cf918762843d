"""A real nginx on one port of this machine."""

import json
import subprocess
from pathlib import Path
from typing import Final

from tests.hostile.listening import Port, program

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
        found = program("nginx")
        self._port = Port()
        self.port = self._port.number
        self._requests = directory / "requests"
        file = directory / "nginx.conf"
        listen = f"listen 127.0.0.1:{self.port} reuseport;"
        file.write_text(_HTTP.format(directory=directory, config=config.replace("LISTEN", listen)))
        self._process = subprocess.Popen(
            [found, "-p", directory, "-c", file, "-e", "stderr", "-g", "daemon off;"],
            stderr=subprocess.DEVNULL,
        )
        try:
            self._port.wait(self._process)
        except BaseException:
            self.stop()
            raise

    def requests(self) -> list[dict[str, str]]:
        """Return the requests that it has dealt with, in the order in which they ended."""
        return [json.loads(line) for line in self._requests.read_text().split("\n")[:-1]]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._port.close()
