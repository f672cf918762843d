"""The router beside nginx and haproxy: one core each, a small POST, the same upstream."""

import contextlib

from benchmarks import contestants
from benchmarks.harness.compare import Contestant, closed_loop, figure
from benchmarks.harness.result import Options, Result, Target, compared
from benchmarks.harness.wrk import Request
from benchmarks.upstream import ANSWER

BODY = '{"args":["3","1","2","8","7","4","6","5"]}'
CONNECTIONS = (1, 16, 64)


def measure(options: Options) -> Result:
    """Compare the three under closed-loop load."""
    request = Request(path=contestants.PATH, body=BODY)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(contestants.upstream())
        figures, missing = closed_loop(
            {
                "nginx": Contestant(lambda: contestants.nginx(port), request, ANSWER.__eq__),
                "haproxy": Contestant(lambda: contestants.haproxy(port), request, ANSWER.__eq__),
                "router": Contestant(lambda: contestants.router(port), request, ANSWER.__eq__),
            },
            CONNECTIONS,
            options,
        )
    rate = {c: figure(figures, "requests/s", f"c={c}") for c in CONNECTIONS}
    alone = figure(figures, "p50 ms", "c=1")
    return Result(
        topic="router",
        title="Router, nginx and haproxy in front of the same upstream, one core",
        figures=tuple(figures),
        targets=(
            *(
                Target(
                    f"router / nginx, requests/s, c={c}",
                    compared(rate[c], "router", "nginx"),
                    ">=",
                    0.85,
                )
                for c in (64, 16)
            ),
            Target("router / nginx, p50, c=1", compared(alone, "router", "nginx"), "<=", 1.25),
        ),
        missing=tuple(missing),
        notes=(
            "wrk and the upstream share the other core: `core busy` tells if the proxy's was full.",
        ),
    )
