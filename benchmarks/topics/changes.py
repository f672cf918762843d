"""How soon a router sees a change, while a thousand others a second go by.

A request is parked at the router, for a function without an endpoint. When the
router's demand for one has come over the bus, the request is surely parked: then
the endpoint is published, and the clock runs until the request is answered. So
the figure is an upper bound: it holds a connection to the instance and the answer
as well. Meanwhile another process publishes and withdraws endpoints of other
functions at the rate.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks import contestants
from benchmarks.harness.bus import (
    endpoint_fact,
    function_fact,
    nats_server,
    publish,
    route_fact,
)
from benchmarks.harness.processes import HOST, LOAD_CORE, PYTHON, ROOT, pinned
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from benchmarks.upstream import ANSWER
from schemas import subjects

RATE = 1_000
FUNCTIONS = 500
PAUSE_S = 0.01


def measure(options: Options) -> Result:
    """Measure with and without the other changes."""
    count = options.count(200, 1_000)
    with contestants.upstream() as port, nats_server() as server:
        url = server.url
        facts = [f for i in range(FUNCTIONS) for f in (function_fact(f"f{i}"), route_fact(f"f{i}"))]
        facts += [
            f for i in range(2 * count) for f in (function_fact(f"p{i}"), route_fact(f"p{i}"))
        ]
        publish(url, facts)
        with contestants.router_on(url) as router:
            calm = asyncio.run(_probes(url, router.port, port, range(count)))
            with _churn(url, port) as churn:
                busy = asyncio.run(_probes(url, router.port, port, range(count, 2 * count)))
                rate = churn()
    figure = Figure(
        "published until a parked request is answered",
        "ms",
        {"no other change": calm, f"{RATE} changes/s": busy},
    )
    return Result(
        topic="changes",
        title="From an endpoint's publication to its use by the router",
        figures=(figure, Figure("changes", "1/s", {"published": [rate]})),
        targets=(
            Target("with changes, p99", figure.spread(f"{RATE} changes/s").p99, "<=", 5, "ms"),
            Target("changes a second", rate, ">=", 0.95 * RATE),
        ),
    )


async def _probes(url: str, router: int, upstream: int, numbers: range) -> list[float]:
    client = await nats.connect(url)
    asked: dict[str, asyncio.Event] = {f"p{number}": asyncio.Event() for number in numbers}

    async def demanded(message: Msg) -> None:
        tokens = subjects.DEMAND.parse(message.subject)
        if tokens is not None and tokens["function"] in asked:
            asked[tokens["function"]].set()

    try:
        await client.subscribe(subjects.DEMAND.wildcard, cb=demanded)
        await client.flush()
        await client.flush()
        return [await _probe(client, router, upstream, name, asked[name]) for name in asked]
    finally:
        await client.close()


async def _probe(
    client: Client, router: int, upstream: int, name: str, parked: asyncio.Event
) -> float:
    reader, writer = await asyncio.open_connection(HOST, router)
    writer.write(
        f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        "Connection: close\r\n\r\n{}".encode()
    )
    await asyncio.wait_for(parked.wait(), 30)
    subject, endpoint = endpoint_fact(name, upstream)
    payload = msgspec.json.encode(endpoint)
    begin = time.perf_counter()
    await client.publish(subject, payload)
    answer = await asyncio.wait_for(reader.read(), 30)
    took = (time.perf_counter() - begin) * 1e3
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(ANSWER):
        raise WrongAnswerError(f"/{name} answered {answer[:300]!r}")
    await asyncio.sleep(PAUSE_S)
    return took


@contextlib.contextmanager
def _churn(url: str, upstream: int) -> Iterator[Callable[[], float]]:
    """Publish endpoints at the rate; yield what ends that and returns the rate that was reached."""
    command = [*PYTHON, "-m", "benchmarks.topics.changes", url, str(upstream)]
    process = subprocess.Popen(
        pinned(command, LOAD_CORE),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()

    def stop() -> float:
        said, _ = process.communicate("stop\n", timeout=30)
        return float(said)

    try:
        yield stop
    finally:
        process.kill()
        process.wait()


async def _publish_for_ever(url: str, upstream: int) -> None:
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=RATE)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print("begun", flush=True)
    begin, number = time.perf_counter(), 0
    while not told.done():
        name = f"f{number % FUNCTIONS}"
        subject, endpoint = endpoint_fact(name, upstream, instance=f"{name}-{number}")
        await js.publish_async(subject, msgspec.json.encode(endpoint))
        await js.publish_async(subject, b"", headers={"Nats-Rollup": "sub"})
        number += 1
        if (early := begin + 2 * number / RATE - time.perf_counter()) > 0:
            await asyncio.sleep(early)
    rate = 2 * number / (time.perf_counter() - begin)
    await js.publish_async_completed()
    await client.close()
    print(rate)


if __name__ == "__main__":
    asyncio.run(_publish_for_ever(sys.argv[1], int(sys.argv[2])))
