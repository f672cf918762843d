"""The whole way of a warm request: proxy, keeper, sandbox; our router beside nginx.

Twice, since two cores hold three programs: with a core for the keeper alone,
which is then the bottleneck, and with one core for proxy and keeper together,
where every microsecond of the proxy costs throughput.
"""

import contextlib
import functools

from benchmarks import contestants
from benchmarks.harness.compare import Contestant, closed_loop, figure
from benchmarks.harness.processes import LOAD_CORE, SERVER_CORE
from benchmarks.harness.result import Figure, Options, Result, Target, compared
from benchmarks.harness.wrk import Request
from benchmarks.topics.keeper import BODY, sorted_right

CONNECTIONS = (1, 64)


def measure(options: Options) -> Result:
    """Compare router and nginx in front of the same keeper."""
    request = Request(path=contestants.PATH, body=BODY)
    figures: list[Figure] = []
    targets: list[Target] = []
    missing: list[str] = []
    for label, proxy_core, keeper_core in (
        ("keeper alone on its core, ", LOAD_CORE, SERVER_CORE),
        ("proxy and keeper on one core, ", SERVER_CORE, SERVER_CORE),
    ):
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(contestants.keeper(core=keeper_core)).port
            found, missing = closed_loop(
                {
                    "nginx": Contestant(
                        functools.partial(contestants.nginx, port, proxy_core),
                        request,
                        sorted_right,
                    ),
                    "router": Contestant(
                        functools.partial(contestants.router, port, proxy_core),
                        request,
                        sorted_right,
                    ),
                },
                CONNECTIONS,
                options,
                label,
            )
        busiest = figure(found, "requests/s", f"{label}c=64")
        targets.append(
            Target(
                f"router / nginx, requests/s, {busiest.name}",
                compared(busiest, "router", "nginx"),
                ">=",
                0.9,
            )
        )
        figures += found
    return Result(
        topic="path",
        title="Router and nginx in front of the same keeper with sort.wasm",
        figures=tuple(figures),
        targets=tuple(targets),
        missing=tuple(missing),
        notes=("Processor time is the proxy's.",),
    )
