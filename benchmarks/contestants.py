"""The servers that are compared: each a context manager that yields where it serves.

Every one gets the core that is kept for contestants, one worker, no access log,
and keep-alive on both sides. nginx and haproxy are Debian's, with no more
configuration than that takes.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.harness.bus import endpoint_fact, function_fact, nats_server, publish, route_fact
from benchmarks.harness.processes import (
    HOST,
    LOAD_CORE,
    PYTHON,
    ROOT,
    SERVER_CORE,
    free_port,
    program,
    readiness,
    running,
    until_listening,
    until_ready,
)

PATH = "/f"
SORT = ROOT / "examples" / "sort" / "sort.wasm"

_NGINX = """\
daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  upstream up {{ server {host}:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {host}:{port} backlog=2048; keepalive_requests 1000000000;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

_HAPROXY = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend front
  bind {host}:{port}
  default_backend back
backend back
  server up {host}:{upstream}
"""


class Serving(msgspec.Struct, frozen=True):
    """A server that takes requests."""

    port: int
    pid: int


@contextlib.contextmanager
def upstream(core: int = LOAD_CORE) -> Iterator[int]:
    """Run the server behind the proxies and yield its port."""
    port = free_port()
    command = [*PYTHON, str(ROOT / "benchmarks" / "upstream.py"), str(port)]
    with running(command, core=core, port=port):
        yield port


@contextlib.contextmanager
def nginx(upstream_port: int, core: int = SERVER_CORE) -> Iterator[Serving]:
    """Run nginx as a proxy in front of a port. MissingError if it is not installed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, "nginx.conf")
        config.write_text(_NGINX.format(place=place, host=HOST, port=port, upstream=upstream_port))
        command = [program("nginx"), "-c", str(config), "-p", place, "-e", f"{place}/error.log"]
        with running(command, core=core, port=port) as process:
            yield Serving(port, process.pid)


@contextlib.contextmanager
def haproxy(upstream_port: int, core: int = SERVER_CORE) -> Iterator[Serving]:
    """Run haproxy as a proxy in front of a port. MissingError if it is not installed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, "haproxy.cfg")
        config.write_text(_HAPROXY.format(host=HOST, port=port, upstream=upstream_port))
        command = [program("haproxy"), "-db", "-f", str(config)]
        with running(command, core=core, port=port) as process:
            yield Serving(port, process.pid)


@contextlib.contextmanager
def router(upstream_port: int, core: int = SERVER_CORE) -> Iterator[Serving]:
    """Run the platform's router with one function, which answers at a port."""
    with nats_server() as nats:
        publish(
            nats.url, (function_fact("f"), route_fact("f", PATH), endpoint_fact("f", upstream_port))
        )
        with router_on(nats.url, core) as serving:
            yield serving


@contextlib.contextmanager
def router_on(url: str, core: int | None = SERVER_CORE) -> Iterator[Serving]:
    """Run a router that follows the bus at `url`, from when it has read all there is."""
    port = free_port()
    with readiness() as (address, heard):
        environ = {
            "WASMFN_ROUTER_NATS_URL": url,
            "WASMFN_ROUTER_HTTP": f"{HOST}:{port}",
            "NOTIFY_SOCKET": address,
        }
        with running([*PYTHON, "-m", "services.router"], core=core, environ=environ) as process:
            until_ready(heard)
            until_listening(port, process)
            yield Serving(port, process.pid)


@contextlib.contextmanager
def keeper(
    module: Path = SORT, *flags: str, core: int = SERVER_CORE, concurrency: int = 1024
) -> Iterator[Serving]:
    """Run a keeper that serves one module by itself."""
    port = free_port()
    command = [
        *PYTHON, "-m", "keeper", "--mod-path", str(module), "--host", HOST, "--port", str(port),
        "--concurrency", str(concurrency), *flags,
    ]  # fmt: skip
    with running(command, core=core, port=port) as process:
        yield Serving(port, process.pid)


@contextlib.contextmanager
def yardstick(module: Path = SORT, core: int = SERVER_CORE) -> Iterator[Serving]:
    """Run the straightforward version: Starlette and wasmtime's documented API."""
    port = free_port()
    script = str(ROOT / "benchmarks" / "yardstick" / "app.py")
    with running([*PYTHON, script, str(module), str(port)], core=core, port=port) as process:
        yield Serving(port, process.pid)
