"""The keeper on one core: a fresh sandbox for each request, none at all, and the yardstick."""

from benchmarks import contestants
from benchmarks.harness.compare import Contestant, closed_loop, figure
from benchmarks.harness.result import Options, Result, Target, compared
from benchmarks.harness.wrk import Request

BODY = '{"args":["3","1","2","8","7","4","6","5"]}'
CONNECTIONS = (1, 16, 64)


def sorted_right(body: bytes) -> bool:
    """Tell whether `body` is the JSON answer of `sort` to BODY."""
    return b'"output":["1 2 3 4 5 6 7 8"]' in body


def measure(options: Options) -> Result:
    """Compare `sort.wasm` in a keeper, a keeper that runs nothing, and the yardstick."""
    request = Request(path=contestants.PATH, body=BODY)
    # All that a keeper does for a request but the sandbox: the answer is a 400 of the same form.
    constant = Request(path=contestants.PATH, body="x" * len(BODY), refused=True)
    figures, missing = closed_loop(
        {
            "keeper": Contestant(contestants.keeper, request, sorted_right),
            "keeper, no wasm": Contestant(
                contestants.keeper, constant, lambda body: b"not JSON" in body
            ),
            "yardstick": Contestant(contestants.yardstick, request, sorted_right),
        },
        CONNECTIONS,
        options,
    )
    busiest = figure(figures, "requests/s", "c=64")
    return Result(
        topic="keeper",
        title="Keeper: sort.wasm with 8 arguments, a fresh sandbox for each request, one core",
        figures=tuple(figures),
        targets=(
            Target("keeper, requests/s, c=64", busiest.spread("keeper").p50, ">=", 15_000),
            Target(
                "keeper / yardstick, requests/s, c=64",
                compared(busiest, "keeper", "yardstick"),
                ">=",
                5,
            ),
        ),
        missing=tuple(missing),
    )
