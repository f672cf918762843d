"""Cold starts: a function that is deployed and runs nowhere, from the request to the whole answer.

- with room: one after another, on a keeper that is there. Beside it the fork of a
  process of a keeper's size alone, and the next, warm request of the same function.
- no keeper: the only keeper of the function's namespace is killed first, so a new one has
  to start, counted from the kill. Beside it a plain `python -m keeper --mod-path`, from its
  start to its first answer.
- at once: many functions that run nowhere, each asked once, all in the same moment.
"""

import asyncio
import http.client
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from benchmarks import contestants
from benchmarks.harness.platform import (
    BODY,
    SORT,
    SORTED,
    Caller,
    Running,
    connect,
    idle_after,
    publish,
    running_platform,
    scaled_to_zero,
)
from benchmarks.harness.processes import HOST, PYTHON, ROOT
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from schemas.events import Event
from schemas.pods import LABEL_NAMESPACE, LocalPod
from services.pids import is_running
from wasmfn.client import Client
from wasmfn.coldstart import cold_start

IDLE_S = 1.0
PAUSE_S = 0.08
"""As requests come in life; a keeper prepares its next process in the meantime."""
CALM_S = 11.0
"""A keeper that dies younger than ten seconds is replaced ever more slowly."""


def measure(options: Options) -> Result:
    """Measure all three, on one platform."""
    with running_platform() as running:
        cold, warm, steps = asyncio.run(_with_room(running, options.count(100, 500)))
        together = asyncio.run(_at_once(running, options.count(200, 200)))
        alone = asyncio.run(_no_keeper(running, options.count(20, 40)))
    fork = _fork_ms(options.count(100, 500))
    spawn = [_spawn_ms() for _ in range(options.count(10, 20))]
    room = Figure("keeper has room", "ms", {"fork alone": fork, "warm": warm, "platform": cold})
    none = Figure("no keeper", "ms", {"keeper --mod-path": spawn, "platform": alone})
    burst = Figure(f"{len(together)} functions at once", "ms", {"platform": together})
    median = Figure(
        "median cold start, step by step",
        "ms",
        {name: [took] for name, took in steps.items()},
        compared=False,
    )
    return Result(
        topic="cold",
        title="Cold starts on a local platform, from request to answer",
        figures=(room, none, burst, median),
        targets=(
            Target("cold start with room, p50", room.spread("platform").p50, "<=", 8, "ms"),
            Target("cold start with room, p99", room.spread("platform").p99, "<=", 20, "ms"),
            Target(
                "cold start without a keeper, p50", none.spread("platform").p50, "<=", 150, "ms"
            ),
            Target(f"{burst.name}, p99", burst.spread("platform").p99, "<=", 2000, "ms"),
        ),
    )


async def _with_room(
    running: Running, count: int
) -> tuple[list[float], list[float], dict[str, float]]:
    """Return the first and the second request of `count` functions, and where the first went."""
    names = [f"cold-{number}" for number in range(count)]
    async with connect(running.platform) as client:
        await _deploy_idle(client, names)
        caller = Caller(running)
        since = datetime.now(UTC)
        cold, warm = [], []
        for name in names:
            await asyncio.sleep(PAUSE_S)
            cold.append(caller.sort_ms(f"/{name}"))
            warm.append(caller.sort_ms(f"/{name}"))
        caller.close()
        return cold, warm, await _steps(client, set(names), since)


async def _steps(client: Client, names: set[str], since: datetime) -> dict[str, float]:
    """Return the median of each step of the cold starts of `names`, from the event log."""
    by_correlation: dict[str, list[Event]] = {}
    started = set()
    async for event in client.events(since):
        by_correlation.setdefault(event.correlation, []).append(event)
        if event.what == "cold-start" and event.name in names:
            started.add(event.correlation)
    stories = [cold_start(by_correlation[c]) for c in started]
    steps: dict[str, list[float]] = {}
    for story in stories:
        for name, took in (story.steps_ms if story is not None else {}).items():
            steps.setdefault(name, []).append(took)
    return {name: statistics.median(took) for name, took in steps.items()}


async def _deploy_idle(
    client: Client, names: Sequence[str], namespaces: Sequence[str] = ()
) -> None:
    module = await client.put_module(SORT, "sort.wasm")
    async with scaled_to_zero(client, names):
        scaling = idle_after(IDLE_S)
        revisions = await publish(client, names, module, namespaces=namespaces, scaling=scaling)
        await client.wait_active(revisions, 120.0)


async def _at_once(running: Running, count: int) -> list[float]:
    """Return the time to the answer of `count` functions that are asked in one moment."""
    names = [f"burst-{number}" for number in range(count)]
    async with connect(running.platform) as client:
        await _deploy_idle(client, names)
        streams = [await asyncio.open_connection(*running.address) for _ in names]
        pairs = zip(names, streams, strict=True)
        return list(await asyncio.gather(*(_ask(name, *stream) for name, stream in pairs)))


async def _ask(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    begin = time.perf_counter()
    writer.write(
        b"POST /%s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n" % (name.encode(), len(BODY)) + BODY
    )
    answer = await asyncio.wait_for(reader.read(), 60)
    took = (time.perf_counter() - begin) * 1e3
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or SORTED not in answer:
        raise WrongAnswerError(f"/{name} answered {answer[:300]!r}")
    return took


async def _no_keeper(running: Running, count: int) -> list[float]:
    """Return the time from the kill of a namespace's only keeper to a function's answer."""
    names = [f"lonely-{number}" for number in range(count)]
    async with connect(running.platform) as client:
        await _deploy_idle(client, names, names)
    await asyncio.sleep(CALM_S)
    took = []
    for name in names:
        caller = Caller(running)
        begin = time.perf_counter()
        for pid in _keepers(running, name):
            os.kill(pid, signal.SIGKILL)
        caller.sort_ms(f"/{name}")
        took.append((time.perf_counter() - begin) * 1e3)
        caller.close()
    return took


def _keepers(running: Running, namespace: str) -> list[int]:
    assert running.platform.data_dir is not None
    files = running.platform.data_dir.glob("pods/*/pod.json")
    pods = [msgspec.json.decode(file.read_bytes(), type=LocalPod) for file in files]
    found = [
        pod.pid
        for pod in pods
        if pod.labels.get(LABEL_NAMESPACE) == namespace and is_running(pod.pid, pod.start_ticks)
    ]
    if not found:
        raise WrongAnswerError(f"the namespace {namespace} has no keeper to kill")
    return found


def _fork_ms(count: int) -> list[float]:
    command = [*PYTHON, "benchmarks/fork.py", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()]


def _spawn_ms() -> float:
    begin = time.perf_counter()
    with contestants.keeper() as serving:
        connection = http.client.HTTPConnection(HOST, serving.port, timeout=30)
        connection.request("POST", "/", BODY, {"content-type": "application/json"})
        answer = connection.getresponse().read()
        took = (time.perf_counter() - begin) * 1e3
        connection.close()
    if SORTED not in answer:
        raise WrongAnswerError(f"the keeper answered {answer[:300]!r}")
    return took
