"""Workloads of public serverless suites (SeBS, FunctionBench), warm, through a whole platform.

Each is called one at a time. Beside the time that the client sees stands what
the sandbox took of it (the keeper says so in `x-wasmfn-run-ms`), and what the same
C source takes as a native process that is started for each request, as CGI does.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.harness.platform import Caller, Running, connect, publish, running_platform
from benchmarks.harness.processes import ROOT
from benchmarks.harness.result import Figure, Options, Result, WrongAnswerError
from schemas.control import RUN_MS_HEADER
from schemas.specs import Interface, Limits, Scaling

SOURCES = ROOT / "examples" / "workloads"
_TEXT = (ROOT / "docs" / "architecture.md").read_bytes()
_NOISE = random.Random(0)  # noqa: S311 - the same input each time
_KEY = bytes(range(32)).hex()


class Workload(msgspec.Struct, frozen=True):
    """One function and one call of it."""

    source: str
    interface: Interface
    arguments: tuple[str, ...] = ()
    """They stand in the spec, or, for `args`, in the request."""
    stdin: bytes = b""
    query: str = ""

    @property
    def body(self) -> bytes:
        """What is sent."""
        if self.interface == "args":
            return msgspec.json.encode({"args": self.arguments})
        return self.stdin


def _image(width: int, height: int) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height) + _NOISE.randbytes(width * height * 3)


def _records(count: int) -> bytes:
    records = [
        {
            "id": i,
            "name": f"user {i}",
            "tags": ["a", "b", None],
            "score": i / 7,
            "active": i % 2 == 0,
        }
        for i in range(count)
    ]
    return json.dumps(records, indent=1).encode()


WORKLOADS = {
    "dynamic HTML": Workload("html", "wagi", query="name=you&count=1000"),
    "compression, 100 KB": Workload("deflate", "stdin", stdin=(_TEXT * 10)[:100_000]),
    "graph BFS": Workload("graph", "args", ("bfs", "10000", "8")),
    "graph MST": Workload("graph", "args", ("mst", "10000", "8")),
    "graph PageRank": Workload("graph", "args", ("pagerank", "10000", "8")),
    "thumbnail, 640 x 480": Workload("thumbnail", "stdin", ("128",), _image(640, 480)),
    "JSON, 100 KB": Workload("json", "stdin", stdin=_records(800)),
    "linpack, n = 200": Workload("linpack", "args", ("200",)),
    "ChaCha20, 1 MB": Workload("chacha", "stdin", (_KEY,), _NOISE.randbytes(1_000_000)),
    "float operations": Workload("floats", "args", ("100000",)),
}


def measure(options: Options) -> Result:
    """Call each, warm, and run it natively."""
    count = options.count(200, 1_000)
    with running_platform() as running:
        seen = asyncio.run(_through_platform(running, count))
    native_ms, missing = _natively(options.count(40, 100))
    native = {name: {"native process": took} for name, took in native_ms.items()}
    figures = [
        Figure(
            name, "ms", {**native.get(name, {}), "sandbox": inside, "client": took}, "warm calls"
        )
        for name, (took, inside, _) in seen.items()
    ]
    for name, (_, _, answer) in seen.items():
        _check(name, answer)
    return Result(
        topic="workloads",
        title="Serverless workloads, warm, through router and keeper",
        figures=tuple(figures),
        missing=missing,
        notes=(
            "sandbox: from its creation to the end of the run, as the keeper says",
            "native process: from its start to its end, the same source by clang -O2",
        ),
    )


async def _through_platform(
    running: Running, count: int
) -> dict[str, tuple[list[float], list[float], bytes]]:
    """Return what the client saw, what the sandbox took, and the last answer, of each."""
    seen: dict[str, tuple[list[float], list[float], bytes]] = {}
    async with connect(running.platform) as client:
        for number, (name, workload) in enumerate(WORKLOADS.items()):
            module = await client.put_module(
                (SOURCES / f"{workload.source}.wasm").read_bytes(), f"{workload.source}.wasm"
            )
            function = f"{workload.source}-{number}"
            revisions = await publish(
                client,
                [function],
                module,
                interface=workload.interface,
                arguments=() if workload.interface == "args" else workload.arguments,
                limits=Limits(timeout_s=30, memory_mib=64),
                scaling=Scaling(min_instances=1),
            )
            await client.wait_active(revisions, 60.0)
            caller = Caller(running)
            path = f"/{function}" + (f"?{workload.query}" if workload.query else "")
            caller.call(path, workload.body)
            took, inside, answer = [], [], b""
            for _ in range(count):
                milliseconds, answer, headers = caller.call(path, workload.body)
                took.append(milliseconds)
                inside.append(float(headers.get(RUN_MS_HEADER, "nan")))
            caller.close()
            seen[name] = (took, inside, answer)
    return seen


def _natively(count: int) -> tuple[dict[str, list[float]], tuple[str, ...]]:
    compiler = shutil.which("clang")
    if compiler is None:
        return {}, ("clang is not installed: apt install clang",)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, workload in WORKLOADS.items():
            binary = Path(place, workload.source)
            source = SOURCES / f"{workload.source}.c"
            command = [compiler, "-std=gnu11", "-O2", "-o", str(binary), str(source), "-lm"]
            subprocess.run(command, check=True)
            run = _runner(binary, workload, Path(place, "in"))
            found[name] = [run() for _ in range(count)]
    return found, ()


def _runner(binary: Path, workload: Workload, stdin: Path) -> Callable[[], float]:
    stdin.write_bytes(workload.stdin)
    environ = {**os.environ, "QUERY_STRING": workload.query}

    command = [str(binary), *workload.arguments]

    def run() -> float:
        with stdin.open("rb") as file:
            begin = time.perf_counter()
            subprocess.run(command, stdin=file, stdout=subprocess.DEVNULL, env=environ, check=True)
            return (time.perf_counter() - begin) * 1e3

    with stdin.open("rb") as file:
        if not subprocess.run(
            command, stdin=file, capture_output=True, env=environ, check=True
        ).stdout:
            raise WrongAnswerError(f"{binary.name} printed nothing")
    return run


def _check(name: str, answer: bytes) -> None:
    """Compare with what the workload must answer at least. The tests compare every byte."""
    marks = {
        "dynamic HTML": b"Welcome, you!",
        "compression, 100 KB": b"\x78\x01",
        "graph BFS": b"reached 10000",
        "graph MST": b"edges 9999",
        "graph PageRank": b"best ",
        "thumbnail, 640 x 480": b"P6\n128 96\n255\n",
        "JSON, 100 KB": b'[{"id":0,',
        "linpack, n = 200": b"200 equations",
        "float operations": b'"status":0',
    }
    if marks.get(name, b"") not in answer:
        raise WrongAnswerError(f"{name} answered {answer[:300]!r}")
