"""Ten thousand functions and routes: look-ups, the router's memory, its start, its throughput."""

import functools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import contestants
from benchmarks.harness.bus import (
    Fact,
    endpoint_fact,
    function_fact,
    nats_server,
    publish,
    route_fact,
)
from benchmarks.harness.compare import Contestant, closed_loop, figure
from benchmarks.harness.processes import rss_kib
from benchmarks.harness.result import Figure, Options, Result, Target
from benchmarks.harness.wrk import Request
from benchmarks.upstream import ANSWER
from schemas.active import ActiveRoute
from schemas.specs import RouteSpec
from services.router.table import Table, compact

MANY = 10_000
LOOKUPS = 20_000
SIZES = (10, 100, 1_000, MANY)


def measure(options: Options) -> Result:
    """Measure a router with few and with many functions."""
    many = 500 if options.tiny else MANY
    with (
        contestants.upstream() as port,
        _bus(port, 0) as few,
        _bus(port, many) as idle,
        _bus(port, many, loaded=True) as loaded,
    ):
        urls = {"one": few, "many": idle, "many, loaded": loaded}
        starts: dict[str, list[float]] = {name: [] for name in urls}
        memory: dict[str, list[float]] = {name: [] for name in urls}
        for _ in range(options.runs):
            for name, url in urls.items():
                begin = time.perf_counter()
                with contestants.router_on(url) as router:
                    starts[name].append(time.perf_counter() - begin)
                    memory[name].append(rss_kib(router.pid))
        request = Request(contestants.PATH, "{}")
        loads, _ = closed_loop(
            {
                name: Contestant(
                    functools.partial(contestants.router_on, url), request, ANSWER.__eq__
                )
                for name, url in urls.items()
            },
            (16,),
            options,
        )
    starting = Figure("start until the snapshot is read", "s", starts)
    size = Figure("resident memory", "KiB", memory)
    each = {
        name: (size.spread(name).p50 - size.spread("one").p50) / many
        for name in ("many", "many, loaded")
    }
    lookups = [
        Figure(
            f"{count:,} routes",
            "us",
            {shape: _lookup_us(shape, count) for shape in _SHAPES},
            "look-up",
            compared=False,
        )
        for count in SIZES
    ]
    throughput = figure(loads, "requests/s", "c=16")
    extra = starting.spread("many, loaded").p50 - starting.spread("one").p50
    growth = max(lookups[-1].spread(shape).p50 / lookups[1].spread(shape).p50 for shape in _SHAPES)
    return Result(
        topic="scale",
        title=f"A router with {many:,} functions and routes, and with one",
        figures=(starting, size, throughput, *lookups),
        targets=(
            Target("look-up, 10,000 / 100 routes, worst shape", growth, "<=", 2),
            Target("requests/s, many / one", throughput.ratio("many, loaded"), ">=", 0.95),
            Target("router memory of a function and its route", each["many"], "<=", 2, "KiB"),
            Target("time that the snapshot adds to the start", extra, "<=", 3, "s"),
        ),
        notes=(
            f"With its endpoint a function and its route take {each['many, loaded']:.2f} KiB.",
            "A look-up that depends on the count by the processor's caches only stays below twice.",
        ),
    )


@contextmanager
def _bus(port: int, others: int, *, loaded: bool = False) -> Iterator[str]:
    """Yield a NATS server that tells of a function that is asked, and of others, maybe loaded."""
    with nats_server() as server:
        facts: list[Fact] = [
            function_fact("f"), route_fact("f", contestants.PATH), endpoint_fact("f", port),
        ]  # fmt: skip
        for number in range(others):
            name = f"function-{number}"
            facts += [function_fact(name), route_fact(name)]
            if loaded:
                facts.append(endpoint_fact(name, port))
        publish(server.url, facts)
        yield server.url


_SHAPES = {
    "exact": lambda n: {"path": f"/tenant/{n}/orders"},
    "parameter": lambda n: {"path": f"/tenant/{n}/orders/{{id}}"},
    "prefix": lambda n: {"prefix": f"/tenant/{n}/files"},
}


def _lookup_us(shape: str, count: int) -> list[float]:
    """Return microseconds of processor time of a look-up among `count` routes, several times."""
    table = Table()
    for number in range(count):
        spec = RouteSpec(function="f", methods=("GET",), **_SHAPES[shape](number))  # type: ignore[arg-type]
        table.put(compact(ActiveRoute("default", f"r{number}", 1, spec)))
    suffix = {"exact": "orders", "parameter": "orders/17", "prefix": "files/a/b"}[shape]
    chosen = random.Random(0)  # noqa: S311 - the same paths each time
    paths = [f"/tenant/{chosen.randrange(count)}/{suffix}" for _ in range(LOOKUPS)]
    took = []
    for turn in range(5):
        # A host of its own for each: whatever remembers answers has not seen this one.
        asked = [(f"{number}.{turn}.example.com", path) for number, path in enumerate(paths)]
        # Processor time: nothing in here waits, and other processes do not count.
        begin = time.process_time()
        for host, path in asked:
            table.match(host, "GET", path)
        took.append((time.process_time() - begin) / LOOKUPS * 1e6)
    assert table.match("example.com", "GET", paths[0]) is not None
    return took
