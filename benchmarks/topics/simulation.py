"""What two cores cannot hold: a thousand nodes and 100,000 functions, on one NATS server.

The server and its streams are real, as is one router that reads the whole snapshot.
Simulated are a thousand podwatches, each with its own connection, a scheduler and some
routers that follow. They publish facts of pods and of endpoints at growing rates, until
facts come late. The server has a core to itself; all clients share the other one, so
the processor time of each tells which of them is the bottleneck.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from benchmarks import contestants
from benchmarks.harness.bus import (
    Fact,
    endpoint_fact,
    function_fact,
    nats_server,
    publish,
    route_fact,
)
from benchmarks.harness.processes import (
    LOAD_CORE,
    PYTHON,
    ROOT,
    SERVER_CORE,
    cpu_s,
    pinned,
    rss_kib,
)
from benchmarks.harness.result import Figure, Options, Result, Target, WrongAnswerError
from benchmarks.simulated import Heard, Offer, Offered

PODS = 10
ROUTERS = 4
RATES = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
LATE_MS = 250.0
"""A rate whose facts come later than this, at the 99th percentile, is too high."""
DELIVERED_S = 60.0

FACTS_NEEDED = 4 * 1_000 * PODS / 600 * 2
"""A second, when every pod of a thousand nodes is replaced each ten minutes: four facts of the pod,
and as many of its endpoints."""

M = TypeVar("M", bound=msgspec.Struct)


class Step(msgspec.Struct, frozen=True):
    """What came of one rate."""

    rate: float
    late_ms: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """Processor time of the server for each fact, with its delivery to every router."""
    server_busy: float
    clients_busy: float


def measure(options: Options) -> Result:
    """Fill a server, let a router read all, then raise the rate of changes."""
    nodes, functions = options.count(1_000, 1_000), options.count(20_000, 100_000)
    seconds = 1.0 if options.tiny else max(3.0, options.seconds)
    with nats_server(SERVER_CORE) as server:
        begin = time.perf_counter()
        publish(server.url, _facts(functions))
        filling = 3 * functions / (time.perf_counter() - begin)
        begin = time.perf_counter()
        with contestants.router_on(server.url, LOAD_CORE) as router:
            reading = time.perf_counter() - begin
            memory = rss_kib(router.pid) / 1024
        with (
            _simulated("follow", server.url, ROUTERS) as routers,
            _simulated("publish", server.url, nodes, PODS) as podwatches,
        ):
            _said(routers, Heard)
            _said(podwatches, Offered)
            steps = list(_rising(server.pid, podwatches, routers, seconds))
        held = rss_kib(server.pid) / 1024
    kept = [step for step in steps if not _is_late(step)]
    highest = kept[-1].rate if kept else 0.0
    cost = steps[-1]
    return Result(
        topic="simulation",
        title=f"{nodes:,} nodes and {functions:,} functions on one NATS server",
        figures=(
            Figure("stored while filling", "facts/s", {"NATS": [filling]}),
            Figure("start of a router until it has read all", "s", {"router": [reading]}),
            Figure("memory", "MiB", {"router": [memory], "NATS": [held]}, compared=False),
            *(_figure(step) for step in steps),
            Figure("highest rate without delay", "facts/s", {"NATS": [highest]}),
            Figure(
                f"NATS, a fact stored and delivered to {ROUTERS} routers",
                "CPU us",
                {"NATS": [cost.server_us]},
            ),
        ),
        targets=(
            Target(
                "highest rate / rate of a cluster whose pods live ten minutes",
                highest / FACTS_NEEDED,
                ">=",
                1,
            ),
        ),
        notes=(
            f"At {cost.rate:,.0f} facts/s the server's core was {cost.server_busy:.0%} busy.",
            f"At that rate the simulated clients took {cost.clients_busy:.0%} of the other core.",
        ),
    )


def _facts(functions: int) -> Iterator[Fact]:
    for number in range(functions):
        name = f"function-{number}"
        yield function_fact(name)
        yield route_fact(name)
        yield endpoint_fact(name, 9)


def _figure(step: Step) -> Figure:
    return Figure(
        f"{step.rate:,.0f}/s",
        "ms",
        {"p50": [step.p50_ms], "p99": [step.p99_ms]},
        "delay of a fact by its rate",
        compared=False,
    )


def _rising(
    server: int,
    podwatches: subprocess.Popen[bytes],
    routers: subprocess.Popen[bytes],
    seconds: float,
) -> Iterator[Step]:
    """Raise the rate until facts come late, twice in a row: once may be another process's doing."""
    _step(server, podwatches, routers, RATES[0], seconds)  # the streams' first readers settle
    for rate in RATES:
        step = _step(server, podwatches, routers, rate, seconds)
        if _is_late(step):
            step = _step(server, podwatches, routers, rate, seconds)
        yield step
        if _is_late(step):
            return


def _is_late(step: Step) -> bool:
    return max(step.p99_ms, step.late_ms) > LATE_MS


def _step(
    server: int,
    podwatches: subprocess.Popen[bytes],
    routers: subprocess.Popen[bytes],
    rate: float,
    seconds: float,
) -> Step:
    """Publish at a rate, and wait until every router was told everything."""
    before, begin = cpu_s(server), time.perf_counter()
    offered = _ask(podwatches, msgspec.json.encode(Offer(rate, seconds)), Offered)
    expected, count, worst, middle, used = offered.facts * ROUTERS, 0, 0.0, 0.0, 0.0
    deadline = time.monotonic() + DELIVERED_S
    while count < expected:
        heard = _ask(routers, b"tell", Heard)
        count, used = count + heard.facts, used + heard.cpu_s
        if heard.facts:
            worst, middle = max(worst, heard.p99_ms), max(middle, heard.p50_ms)
        if time.monotonic() > deadline:
            raise WrongAnswerError(f"of {expected} facts only {count} were delivered")
        time.sleep(0.05)
    took, server_s = time.perf_counter() - begin, cpu_s(server) - before
    return Step(
        rate=rate,
        late_ms=offered.late_ms,
        p50_ms=middle,
        p99_ms=worst,
        server_us=server_s / offered.facts * 1e6,
        server_busy=server_s / took,
        clients_busy=(offered.cpu_s + used) / took,
    )


@contextlib.contextmanager
def _simulated(role: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [*PYTHON, "-m", "benchmarks.simulated", role, *map(str, arguments)]
    process = subprocess.Popen(
        pinned(command, LOAD_CORE), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[bytes], order: bytes, answer: type[M]) -> M:
    assert process.stdin is not None
    process.stdin.write(order + b"\n")
    process.stdin.flush()
    return _said(process, answer)


def _said(process: subprocess.Popen[bytes], answer: type[M]) -> M:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise WrongAnswerError("the simulated clients ended; their reason is above")
    return msgspec.json.decode(line, type=answer)
