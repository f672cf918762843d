"""Take contestants in turns under closed-loop load.

Turns, because a machine is not equally fast for minutes: each round measures
every contestant once, and ratios are taken within a round.
"""

import contextlib
import http.client
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from benchmarks.contestants import Serving
from benchmarks.harness import wrk
from benchmarks.harness.processes import HOST, cpu_s
from benchmarks.harness.result import Figure, MissingError, Options, WrongAnswerError

Start = Callable[[], AbstractContextManager[Serving]]


class Contestant:
    """Who is compared, and what it is asked."""

    def __init__(self, start: Start, request: wrk.Request, right: Callable[[bytes], bool]) -> None:
        self.start = start
        self.request = request
        self.right = right


def closed_loop(
    contestants: Mapping[str, Contestant],
    connections: tuple[int, ...],
    options: Options,
    label: str = "",
) -> tuple[list[Figure], list[str]]:
    """Measure throughput, latency and processor time of each at each number of connections.

    Returns:
        The figures, grouped by unit, and which contestants are missing.

    Raises:
        WrongAnswerError: one of them did not answer as it should.
    """
    missing: list[str] = []
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        serving: dict[str, Serving] = {}
        for name, contestant in contestants.items():
            try:
                serving[name] = stack.enter_context(contestant.start())
            except MissingError as error:
                missing.append(str(error))
                continue
            _check_answer(name, contestant, serving[name].port)
        for number in connections:
            for name, server in serving.items():
                # Buffers, pools and caches are filled before anything counts.
                wrk.run(server.port, contestants[name].request, connections=number, seconds=1)
            for _ in range(options.runs):
                for name, server in serving.items():
                    before = cpu_s(server.pid)
                    load = wrk.run(
                        server.port,
                        contestants[name].request,
                        connections=number,
                        seconds=options.seconds,
                    )
                    used = cpu_s(server.pid) - before
                    for what, value in (
                        ("requests/s", load.rate),
                        ("p50 ms", load.p50_us / 1e3),
                        ("p99 ms", load.p99_us / 1e3),
                        ("CPU us/request", used / load.requests * 1e6),
                        ("core busy %", used / (load.duration_us / 1e8)),
                    ):
                        found.setdefault((what, number), {}).setdefault(name, []).append(value)
    figures = [
        Figure(
            name=f"{label}c={number}",
            unit=what,
            samples=samples,
            group=f"{label}{what}",
        )
        for (what, number), samples in found.items()
    ]
    return figures, missing


def _check_answer(name: str, contestant: Contestant, port: int) -> None:
    request = contestant.request
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request(
            request.method, request.path, request.body, {"Content-Type": request.content_type}
        )
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if (response.status > 399) != request.refused or not contestant.right(body):
        raise WrongAnswerError(f"{name} answered {response.status}: {body[:300]!r}")


def figure(figures: list[Figure], unit: str, name: str) -> Figure:
    """Return the one figure of that unit and name."""
    return next(f for f in figures if f.unit == unit and f.name == name)
