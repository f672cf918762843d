"""A whole platform of one's own: `wasmfn up`, a client on its bus, functions in every state."""

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.harness.processes import ROOT
from benchmarks.harness.result import WrongAnswerError
from schemas.specs import FunctionSpec, Limits, Module, RouteSpec, Scaling
from wasmfn.client import Client, connect
from wasmfn.discovery import Platform, find_platform
from wasmfn.objects import Key

SORT = (ROOT / "examples" / "sort" / "sort.wasm").read_bytes()
BODY = b'{"args": ["30", "4", "1"]}'
SORTED = b'"output":["1 4 30"]'
DEPLOY_S = 180.0


class Running(msgspec.Struct, frozen=True):
    """A platform that runs."""

    up_ms: float
    """From the start of `wasmfn up` until it said `ready`."""
    pid: int
    platform: Platform

    @property
    def address(self) -> tuple[str, int]:
        """Where the router serves."""
        parts = urlsplit(self.platform.http_url or "")
        return parts.hostname or "", parts.port or 0


@contextlib.contextmanager
def running_platform(environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run `wasmfn up` in a temporary directory and on free ports."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WASMFN_")}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place, "data")
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "wasmfn", "up", "--http", "127.0.0.1:0", "--data", data],
            stdout=subprocess.PIPE,
            text=True,
            # Not to be found, by this user's own commands, instead of the platform they use.
            env={**clean, "XDG_STATE_HOME": place, **(environ or {})},
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            took = (time.perf_counter() - begin) * 1e3
            if not line.startswith("ready "):
                raise RuntimeError("the platform did not start; its reason is above")
            yield Running(took, process.pid, find_platform(data=data, environ={}))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


class Caller:
    """A keep-alive HTTP client, with as little of its own time as Python allows."""

    def __init__(self, running: Running) -> None:
        """Connect when first needed."""
        self._connection = http.client.HTTPConnection(*running.address, timeout=60)

    def call(self, path: str, body: bytes = BODY) -> tuple[float, bytes, http.client.HTTPMessage]:
        """POST `body`; return milliseconds to the whole answer, the answer and its headers.

        Raises:
            WrongAnswerError: its status is not 200.
        """
        begin = time.perf_counter()
        self._connection.request("POST", path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        took = (time.perf_counter() - begin) * 1e3
        if response.status != 200:
            raise WrongAnswerError(f"{path} answered {response.status}: {answer[:300]!r}")
        return took, answer, response.headers

    def sort_ms(self, path: str) -> float:
        """Call `sort` at `path`; return milliseconds.

        Raises:
            WrongAnswerError: the answer is wrong.
        """
        took, answer, _ = self.call(path)
        if SORTED not in answer:
            raise WrongAnswerError(f"{path} answered {answer[:300]!r}")
        return took

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def publish(
    client: Client,
    names: Sequence[str],
    module: Module,
    *,
    namespaces: Sequence[str] = (),
    **spec: object,
) -> dict[Key, int]:
    """Publish a function and a route `/<name>` for each of `names`; return their revisions.

    `namespaces` has one for each name; without it all are in `default`.
    """
    fields: dict[str, object] = {"limits": Limits(timeout_s=30, memory_mib=16)} | spec
    revisions: dict[Key, int] = {}
    for name, namespace in zip(names, namespaces or ["default"] * len(names), strict=True):
        function = msgspec.convert({"module": module, **fields}, FunctionSpec, from_attributes=True)
        route = RouteSpec(function=name, path=f"/{name}", methods=("POST",))
        for kind, object_spec in (("function", function), ("route", route)):
            key = Key(kind, namespace, name)
            revisions[key] = await client.publish(key, object_spec)
    return revisions


@contextlib.asynccontextmanager
async def scaled_to_zero(client: Client, names: Sequence[str]) -> AsyncIterator[None]:
    """Return from the block only when each of `names` had an instance and lost it.

    Publish them inside the block.
    """
    left = set(names)
    gone = asyncio.Event()

    async def follow() -> None:
        async for event in client.events(follow=True):
            if event.what == "endpoint-withdrawn":
                left.discard(event.name)
                if not left:
                    gone.set()
                    return

    following = asyncio.create_task(follow())
    try:
        yield
        await asyncio.wait_for(gone.wait(), DEPLOY_S)
    finally:
        following.cancel()


def idle_after(seconds: float, **scaling: int) -> Scaling:
    """Return a scaling that ends an instance which had nothing to do for `seconds`."""
    return Scaling(idle_timeout_s=seconds, **scaling)


__all__ = [
    "Caller", "Client", "Running", "connect", "idle_after", "publish", "running_platform",
    "scaled_to_zero",
]  # fmt: skip
