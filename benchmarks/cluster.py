"""Cold starts on a Kubernetes cluster, step by step, measured on its node.

    python -P -m benchmarks.cluster install containerd|kubernetes
    python -P -m benchmarks.cluster measure containerd|kubernetes [--json FILE]

`install` puts the platform into the cluster of KUBECONFIG, with podwatch told of pods by the
named source and with keepers that end soon after they are empty. `measure` asks for functions
that run nowhere, over HTTP, and has an answer wait

- with room: for a process on a keeper that is there;
- with none: for a keeper pod of its own, which is made, started, found and loaded first.

Each step's time is that of the event which tells of it, and of containerd's own event for the
start of the keeper's container, so everything has to run on one machine with one clock: the
test cluster (`python -m tests.cluster.lab up cluster`) and its node (`… lab exec`).
A run with one wrong answer reports nothing.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.events import Event
from schemas.specs import FunctionSpec, Limits, RouteSpec, Scaling
from wasmfn.client import Client, connect
from wasmfn.cluster import find_kubectl
from wasmfn.clusterforward import reach
from wasmfn.objects import Key

ROOT = Path(__file__).parent.parent
SORT = ROOT / "examples" / "sort" / "sort.wasm"
BODY = b'{"args": ["30", "4", "1"]}'
IDLE_S = 0.5
LINGER_S = 0.5
CALM_S = 1.0
"""What the machine gets to put away what ended, before the next request."""
WAIT_S = 90.0

ROOM_STEPS = ("demand", "loaded", "first byte")
POD_STEPS = (
    "demand", "pod created", "container started", "address known", "ready", "loaded", "first byte",
)  # fmt: skip


def install(source: str) -> None:
    """Install the lab's overlay with a pod source and short-lived keepers."""
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch).resolve()

        def relative(place: str) -> str:
            return os.path.relpath(ROOT / "manifests" / place, there)

        kustomization: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relative("overlays/lab")],
            "patches": [
                _setting("scheduler", "WASMFN_SCHEDULER_KEEPER_LINGER_S", str(LINGER_S)),
                # Images of functions are no part of a start.
                _setting("builder", "WASMFN_BUILDER_IMAGE_BUILDER", "local"),
            ],
        }
        if source == "kubernetes":
            kustomization["components"] = [relative("components/podwatch-kubernetes")]
        (there / "kustomization.yaml").write_text(json.dumps(kustomization))
        command = [sys.executable, "-P", "-m", "wasmfn", "install", "--overlay", str(there)]
        subprocess.run(command, check=True, cwd="/")


def _setting(service: str, name: str, value: str) -> dict[str, str]:
    """Return a kustomize patch that sets a variable of a service."""
    container = {"name": service, "env": [{"name": name, "value": value}]}
    return {
        "patch": json.dumps(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": service, "namespace": "wasmfn"},
                "spec": {"template": {"spec": {"containers": [container]}}},
            }
        )
    }


class Log:
    """The platform's events and containerd's starts, as they come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.starts: list[float] = []
        self._news = asyncio.Event()

    async def follow_events(self, client: Client) -> None:
        """Take in the event log from now on."""
        async for event in client.events(follow=True):
            self.events.append(event)
            self._tell()

    async def follow_starts(self) -> None:
        """Take in when containerd started each container, by its own word."""
        ctr = await asyncio.create_subprocess_exec(
            "ctr", "--namespace", "k8s.io", "events", stdout=asyncio.subprocess.PIPE
        )
        assert ctr.stdout is not None
        try:
            async for line in ctr.stdout:
                # 2026-01-02 03:04:05.123456789 +0000 UTC k8s.io /tasks/start {…}
                words = line.decode().split(maxsplit=6)
                if words[5:6] == ["/tasks/start"]:
                    at = datetime.fromisoformat(f"{words[0]} {words[1][:15]}+00:00")
                    self.starts.append(at.timestamp())
                    self._tell()
        finally:
            ctr.kill()
            await ctr.wait()

    async def wait(self, what: Callable[[Event], bool]) -> Event:
        """Return the first event of this log for which `what` holds."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self._news.clear()
                for event in self.events:
                    if what(event):
                        return event
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()


@contextlib.asynccontextmanager
async def following(client: Client) -> AsyncIterator[Log]:
    """Have a log that follows while inside."""
    log = Log()
    tasks = [
        asyncio.create_task(log.follow_events(client)),
        asyncio.create_task(log.follow_starts()),
    ]
    try:
        yield log
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Caller:
    """A client of the router that keeps its connection and checks every answer."""

    def __init__(self, base: str) -> None:
        """Reach the router at `base`."""
        self._parts = urlsplit(base)
        self._connection = http.client.HTTPConnection(
            self._parts.hostname or "", self._parts.port, timeout=WAIT_S
        )

    def ask(self, path: str) -> tuple[float, float, str]:
        """Return when the request began and its answer was there (Unix time), and its id."""
        if self._connection.sock is None:
            self._connection.connect()
        begin = time.time()
        self._connection.request("POST", path, BODY, {"content-type": "application/json"})
        response = self._connection.getresponse()
        end = time.time()
        answer = response.read()
        assert response.status == 200, (response.status, answer)
        assert json.loads(answer)["output"] == ["1 4 30"], answer
        return begin, end, response.headers["x-request-id"]


async def deploy(client: Client, name: str, *, alone: bool) -> None:
    """Publish a function and its route, and wait until they are in force."""
    function = FunctionSpec(
        module=await client.put_module(SORT.read_bytes(), "sort.wasm"),
        limits=Limits(timeout_s=10, memory_mib=16),
        scaling=Scaling(idle_timeout_s=IDLE_S),
        isolation="pod" if alone else "process",
    )
    specs: dict[Key, FunctionSpec | RouteSpec] = {
        Key("function", "default", name): function,
        Key("route", "default", name): RouteSpec(function=name, path=f"/{name}", methods=("POST",)),
    }
    await client.wait_active(
        {key: await client.publish(key, spec) for key, spec in specs.items()}, WAIT_S
    )


async def delete(client: Client, name: str) -> None:
    """Delete what `deploy` has published."""
    for kind in ("route", "function"):
        await client.delete(Key(kind, "default", name))


async def with_room(client: Client, caller: Caller, log: Log, count: int) -> list[dict[str, float]]:
    """Return the milliseconds of each step, for `count` cold starts on a keeper with room."""
    name = "bench-room"
    await deploy(client, name, alone=False)
    found = []
    for _ in range(count):
        await log.wait(lambda e: (e.name, e.what) == (name, "endpoint-withdrawn"))
        log.events.clear()
        await asyncio.sleep(CALM_S)
        begin, end, request = await asyncio.to_thread(caller.ask, f"/{name}")
        loaded = await _loaded(log, request)
        found.append(steps(begin, [*_load(loaded), end], ROOM_STEPS))
    await delete(client, name)
    return found


async def with_none(client: Client, caller: Caller, log: Log, count: int) -> list[dict[str, float]]:
    """Return the milliseconds of each step, for `count` cold starts that need a new pod."""
    name = "bench-alone"
    await deploy(client, name, alone=True)
    keeper = (await log.wait(lambda e: e.what == "keeper-started" and name in e.message)).name
    found = []
    for _ in range(count):
        gone, log_of = keeper, log
        await log_of.wait(lambda e, gone=gone: (e.name, e.what) == (gone, "keeper-stopped"))  # type: ignore[misc]
        log.events.clear()
        log.starts.clear()
        await asyncio.sleep(CALM_S)
        begin, end, request = await asyncio.to_thread(caller.ask, f"/{name}")
        created = await log.wait(lambda e: e.what == "keeper-started" and name in e.message)
        keeper = created.name
        loaded = await _loaded(log, request)
        demand, done = _load(loaded)
        pod = {e.what: e.time.timestamp() for e in log.events if _of(e, keeper)}
        started = max(at for at in log.starts if at < pod["ready"])
        times = [demand, created.time.timestamp(), started, pod["started"], pod["ready"], done, end]
        found.append(
            steps(begin, times, POD_STEPS) | {"from container started": (end - started) * 1e3}
        )
    await delete(client, name)
    return found


def _of(event: Event, pod: str) -> bool:
    return event.service == "podwatch" and event.name == pod


async def _loaded(log: Log, request: str) -> Event:
    return await log.wait(lambda e: (e.correlation, e.what) == (request, "instance-loaded"))


def _load(loaded: Event) -> tuple[float, float]:
    """Return when the scheduler began to load, and when it had loaded."""
    done = loaded.time.timestamp()
    return done - (loaded.duration_ms or 0.0) / 1e3, done


def steps(begin: float, times: list[float], names: tuple[str, ...]) -> dict[str, float]:
    """Return what lies between each two times in milliseconds, and all of it."""
    taken = [(b - a) * 1e3 for a, b in zip([begin, *times], times, strict=False)]
    return dict(zip(names, taken, strict=True)) | {"all": (times[-1] - begin) * 1e3}


def spread(values: list[float]) -> dict[str, float]:
    """Return what is reported of a list of measurements."""
    ordered = sorted(values)
    named = {"min": ordered[0], "p50": statistics.median(ordered), "max": ordered[-1]}
    return {"n": len(ordered)} | {name: round(value, 1) for name, value in named.items()}


async def measure(flags: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return every cold start, by whether there was room for it."""
    platform = reach(find_kubectl())
    caller = Caller(platform.http_url or "")
    found: dict[str, list[dict[str, float]]] = {}
    async with connect(platform) as client, following(client) as log:
        if flags.room:
            found["with room"] = await with_room(client, caller, log, flags.room)
        if flags.none:
            found["with none"] = await with_none(client, caller, log, flags.none)
    return found


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("do", choices=["install", "measure"])
    parser.add_argument("source", choices=["containerd", "kubernetes"])
    parser.add_argument("--room", type=int, default=20, help="cold starts on a keeper with room")
    parser.add_argument("--none", type=int, default=20, help="cold starts with a new pod")
    parser.add_argument("--json", type=Path, help="write every single cold start there")
    flags = parser.parse_args()
    if flags.do == "install":
        install(flags.source)
        return
    found = asyncio.run(measure(flags))
    for case, starts in found.items():
        print(f"{case}, source {flags.source} [ms]")
        for step in starts[0]:
            told = spread([start[step] for start in starts])
            print(f"  {step:24}" + "".join(f"  {k} {v:>8}" for k, v in told.items()))
    if flags.json:
        rounded = {
            case: [{step: round(ms, 2) for step, ms in start.items()} for start in starts]
            for case, starts in found.items()
        }
        flags.json.write_text(json.dumps({"source": flags.source, **rounded}, indent=1) + "\n")


if __name__ == "__main__":
    main()
