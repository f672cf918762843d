"""A `wasmfn up` as a user starts it, and what can be seen of it from outside."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from schemas.specs import FunctionSpec, RouteSpec
from wasmfn import client
from wasmfn.client import Key
from wasmfn.discovery import Platform, read_platform

EXAMPLES = Path(__file__).parents[2] / "examples"


class Up:
    """A running `wasmfn up`."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        command = [sys.executable, "-P", "-m", "wasmfn", "up", "--data", str(data)]
        self.process = subprocess.Popen(
            [*command, *(flags or ("--http", "127.0.0.1:0"))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(data.parent)},
        )

    def ready(self) -> Self:
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        assert self.line.startswith("ready http://"), self.end(signal.SIGKILL)
        return self

    @property
    def platform(self) -> Platform:
        platform = read_platform(self.data)
        assert platform is not None
        return platform

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and what was said on stderr."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=90)
        return self.process.returncode, said

    def pids(self, *words: str) -> list[int]:
        """Return the processes that belong to this data directory and have `words` in them."""
        return [pid for pid in processes(str(self.data)) if all(w in told(pid) for w in words)]

    def pid(self, service: str) -> int:
        (pid,) = self.pids("nats.conf" if service == "nats" else f"services.{service}\0")
        return pid

    def ask(self, path: str, body: str = "{}", timeout_s: float = 10) -> tuple[int, str]:
        assert self.platform.http_url is not None
        where = urlsplit(self.platform.http_url)
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=timeout_s)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def sorts(self, within_s: float = 15) -> None:
        """Wait until the function `sort` answers, through whatever is being restarted."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                status, text = self.ask("/sort", '{"args":["3","1","2"]}')
            except OSError as error:
                status, text = 0, str(error)
            if status == 200:
                assert '"1 2 3"' in text
                return
            assert time.monotonic() < deadline, (status, text)
            time.sleep(0.01)

    def deploy(self, name: str) -> None:
        asyncio.run(self._deploy(name))

    async def _deploy(self, name: str) -> None:
        async with client.connect(self.platform, wait_s=10) as platform:
            wasm = await asyncio.to_thread((EXAMPLES / name / f"{name}.wasm").read_bytes)
            module = await platform.put_module(wasm, f"{name}.wasm")
            function, route = Key("function", "default", name), Key("route", "default", name)
            revisions = {
                function: await platform.publish(function, FunctionSpec(module=module)),
                route: await platform.publish(route, RouteSpec(function=name, path=f"/{name}")),
            }
            await platform.wait_active(revisions, timeout_s=20)


def processes(word: str) -> list[int]:
    """Return every process, zombies left out, that has `word` in its command or environment."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and word in told(pid)]


def told(pid: int) -> str:
    try:
        parts = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    except OSError:
        return ""
    return b"\0".join(parts).decode("utf-8", "replace")


class Call:
    """A call that its function works on."""

    def __init__(self, up: Up, path: str, body: str) -> None:
        where = urlsplit(str(up.platform.http_url))
        self._socket = socket.create_connection((where.hostname, where.port), timeout=20)
        self._socket.sendall(
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        metrics = up.platform.admin_urls["router"] + "/metrics"
        deadline = time.monotonic() + 10
        while "wasmfn_router_in_flight 1.0" not in fetch(metrics):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def answer(self) -> bytes:
        answer = b""
        while data := self._socket.recv(65536):
            answer += data
        return answer


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own admin port
        return answer.read().decode()
