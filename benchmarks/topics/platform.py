"""The life of a local platform: its start, a deployment, a keeper's death, its idle memory."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec

from benchmarks.harness.platform import (
    SORT,
    Caller,
    Running,
    connect,
    idle_after,
    publish,
    running_platform,
)
from benchmarks.harness.processes import family, pss_kib
from benchmarks.harness.result import Figure, Options, Result
from schemas.pods import LocalPod, PodFact
from schemas.subjects import PODS
from wasmfn.client import Client

MODULE_BYTES = 50 * 1024


def measure(options: Options) -> Result:
    """Start platforms, deploy to one, kill its keepers."""
    starts = []
    for _ in range(options.count(5, 10)):
        with running_platform() as running:
            starts.append(running.up_ms)
    with running_platform() as running:
        idle = _memory_mib(running.pid)
        deployed, killed = asyncio.run(_live(running, options))
    figures = (
        Figure("up", "ms", {"from start to ready": starts}),
        Figure("deploy", "ms", {"50 KB module to its first answer": deployed}),
        Figure("kill", "ms", {"kill -9 of a keeper to its death told": killed}),
        Figure(
            "idle memory (PSS)",
            "MiB",
            {name: [size] for name, size in sorted(idle.items())},
            compared=False,
        ),
        Figure("idle memory (PSS), all", "MiB", {"platform": [sum(idle.values())]}),
    )
    return Result(
        topic="platform", title="A local platform, measured from outside", figures=figures
    )


async def _live(running: Running, options: Options) -> tuple[list[float], list[float]]:
    async with connect(running.platform) as client:
        deployed = await _deploys(client, running, options.count(20, 50))
        killed = [await _kill_ms(client, running) for _ in range(options.count(4, 8))]
    return deployed, killed


async def _deploys(client: Client, running: Running, count: int) -> list[float]:
    caller = Caller(running)
    took = []
    for number in range(count):
        data, name = unseen_module(MODULE_BYTES), f"deploy-{number}"
        begin = time.perf_counter()
        module = await client.put_module(data, "sort.wasm")
        revisions = await publish(client, [name], module, scaling=idle_after(120))
        await client.wait_active(revisions, 30.0)
        await asyncio.to_thread(caller.sort_ms, f"/{name}")
        took.append((time.perf_counter() - begin) * 1e3)
    caller.close()
    return took


async def _kill_ms(client: Client, running: Running) -> float:
    """Return milliseconds from `kill -9` of a ready keeper until the bus tells its death."""
    heard = await client.bus.nc.subscribe(PODS.wildcard)
    pod = await _ready_pod(client, running)
    begin = time.perf_counter()
    os.kill(pod.pid, signal.SIGKILL)
    while True:
        message = await heard.next_msg(timeout=30)
        if message.data:
            fact = msgspec.json.decode(message.data, type=PodFact)
            if fact.uid == pod.uid and fact.phase == "dead":
                await heard.unsubscribe()
                return (time.perf_counter() - begin) * 1e3


async def _ready_pod(client: Client, running: Running) -> LocalPod:
    """Return a local pod whose fact says that it is ready; wait for one to be."""
    assert running.platform.data_dir is not None
    follow = await client.bus.js.subscribe(PODS.wildcard, ordered_consumer=True)
    while True:
        message = await follow.next_msg(timeout=60)
        if not message.data:
            continue
        fact = msgspec.json.decode(message.data, type=PodFact)
        file = running.platform.data_dir / "pods" / fact.uid / "pod.json"
        if fact.ready and fact.phase == "running" and file.exists():
            await follow.unsubscribe()
            return msgspec.json.decode(file.read_bytes(), type=LocalPod)


def unseen_module(size: int) -> bytes:
    """Return sort.wasm with a custom section of random bytes, `size` bytes in all."""
    name = b"\x05bench"
    content = name + os.urandom(size - len(SORT) - 1 - 5 - len(name))
    # LEB128 in five bytes whatever the number, so that the size comes out exactly.
    length = len(content)
    low = [(length >> (7 * i) & 0x7F) | 0x80 for i in range(4)]
    return SORT + b"\0" + bytes([*low, length >> 28]) + content


def _memory_mib(root: int) -> dict[str, float]:
    """Return the proportional set size of each process below `root`, by what it runs."""
    found: dict[str, float] = {}
    for pid in family(root):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            module = words[words.index(b"-m") + 1] if b"-m" in words else words[0]
            name = Path(module.decode()).name
            found[name] = found.get(name, 0.0) + pss_kib(pid) / 1024
    return found
