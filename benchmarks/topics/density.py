"""What a function costs in memory: loaded and idle, and with invocations in flight.

Proportional set size of keeper processes: pages that forks share are divided
among them, so that the sum is what the machine really holds.
"""

import asyncio
import contextlib
import socket
import time

from benchmarks import contestants
from benchmarks.harness.platform import (
    SORT,
    Caller,
    Running,
    connect,
    publish,
    running_platform,
)
from benchmarks.harness.processes import HOST, ROOT, family, only_leaf, pss_kib
from benchmarks.harness.result import Figure, Options, Result, Target
from schemas.specs import Scaling

GIB_KIB = 1024 * 1024
SPIN = ROOT / "examples" / "spin" / "spin.wasm"
BODY = b'{"args": []}'
SETTLE_S = 5.0


def measure(options: Options) -> Result:
    """Load functions, then keep invocations in flight."""
    with running_platform() as running:
        each, answered = asyncio.run(_idle(running, options.count(200, 600)))
    flights = [_in_flight(number) for number in (options.count(200, 200), options.count(400, 800))]
    functions = Figure("a loaded idle function", "KiB (PSS)", {"platform": [each, answered]})
    flight = Figure("an invocation in flight", "KiB (PSS)", {"keeper": flights})
    per_gib = GIB_KIB / max(each, answered)
    return Result(
        topic="density",
        title="Memory of loaded functions and of invocations in flight",
        figures=(
            functions,
            flight,
            Figure("loaded idle functions per GiB", "", {"platform": [per_gib]}),
            Figure("invocations in flight per GiB", "", {"keeper": [GIB_KIB / max(flights)]}),
        ),
        targets=(Target("loaded idle functions per GiB", per_gib, ">=", 300),),
        notes=(
            "The first figure of a function is before any call of it, the second after one.",
            "In flight is `spin.wasm`, which never ends: it has a memory of two pages.",
        ),
    )


async def _idle(running: Running, count: int) -> tuple[float, float]:
    """Return what one of `count` loaded functions takes: never called, and called once."""
    names = [f"idle-{number}" for number in range(count)]
    async with connect(running.platform) as client:
        before = _keepers_kib(running.pid)
        module = await client.put_module(SORT, "sort.wasm")
        scaling = Scaling(min_instances=1, max_instances=1, idle_timeout_s=600)
        await client.wait_active(await publish(client, names, module, scaling=scaling), 180.0)
        await asyncio.sleep(SETTLE_S)
        loaded = _keepers_kib(running.pid)
        caller = Caller(running)
        for name in names:
            caller.sort_ms(f"/{name}")
        caller.close()
        await asyncio.sleep(SETTLE_S)
        called = _keepers_kib(running.pid)
    return (loaded - before) / count, (called - before) / count


def _keepers_kib(root: int) -> int:
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
                words = file.read().split(b"\0")
            if b"keeper" in words:
                total += pss_kib(pid)
    return total


def _in_flight(count: int) -> float:
    """Return KiB that each of `count` invocations in flight adds to a keeper."""
    with (
        contestants.keeper(SPIN, "--timeout", "15", "--memory-mib", "16") as serving,
        contextlib.ExitStack() as stack,
    ):
        # The first call makes what all share.
        _spin(stack, serving.port)
        time.sleep(SETTLE_S)
        child = only_leaf(serving.pid)
        before = pss_kib(child)
        for _ in range(count):
            _spin(stack, serving.port)
        time.sleep(SETTLE_S)
        return (pss_kib(child) - before) / count


def _spin(stack: contextlib.ExitStack, port: int) -> None:
    connection = stack.enter_context(socket.create_connection((HOST, port)))
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    )
