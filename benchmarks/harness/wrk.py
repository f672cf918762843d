"""Closed-loop load with wrk: so many connections, each with one request at a time.

wrk says its summary in a line of JSON, by its own Lua interface: what it prints
for people is rounded. In a closed loop a slow server is asked less often, so
its percentiles flatter it; `openloop` is for latency under a given rate.
"""

import subprocess
import tempfile
from pathlib import Path

import msgspec

from benchmarks.harness.processes import HOST, LOAD_CORE, pinned, program
from benchmarks.harness.result import WrongAnswerError

_SCRIPT = """\
wrk.method = {method}
wrk.body = {body}
wrk.headers["Content-Type"] = {content_type}
done = function(summary, latency, requests)
  io.write(string.format(
    '\\nJSON {{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%.1f,"p90_us":%.1f,' ..
    '"p99_us":%.1f,"max_us":%.1f,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50),
    latency:percentile(90), latency:percentile(99), latency.max, summary.errors.connect,
    summary.errors.read, summary.errors.write, summary.errors.status, summary.errors.timeout))
end
"""


class Load(msgspec.Struct, frozen=True):
    """What wrk says of one run."""

    requests: int
    duration_us: int
    bytes: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float
    connect: int = 0
    read: int = 0
    write: int = 0
    status: int = 0
    """Answers with a status above 399."""
    timeout: int = 0

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return self.requests / (self.duration_us / 1e6)


class Request(msgspec.Struct, frozen=True):
    """The request that is made again and again."""

    path: str
    body: str = ""
    method: str = "POST"
    content_type: str = "application/json"
    refused: bool = False
    """The right answer has a status above 399."""


def script(request: Request) -> str:
    """Return the Lua script that makes wrk send `request` and say what came of it."""
    return _SCRIPT.format(
        method=_quoted(request.method),
        body=_quoted(request.body),
        content_type=_quoted(request.content_type),
    )


def _quoted(text: str) -> str:
    # Decimal escapes mean the same in every Lua, and hold anything.
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def parse(output: str) -> Load:
    """Return what wrk's `output` tells. ValueError if it tells nothing."""
    lines = [line for line in output.splitlines() if line.startswith("JSON ")]
    if len(lines) != 1:
        raise ValueError(f"wrk has not said how it went: {output[-500:]}")
    try:
        return msgspec.json.decode(lines[0].removeprefix("JSON "), type=Load)
    except msgspec.DecodeError as error:
        raise ValueError(f"wrk's summary cannot be read: {error}") from error


def check(load: Load, *, refused: bool) -> None:
    """Raise WrongAnswerError unless every request was answered, and as it should be."""
    broken = load.connect + load.read + load.write + load.timeout
    wrong = load.requests - load.status if refused else load.status
    if broken or wrong or not load.requests:
        raise WrongAnswerError(
            f"of {load.requests} requests {wrong} were answered wrongly; errors: "
            f"{load.connect} connecting, {load.read} reading, {load.write} writing, "
            f"{load.timeout} timed out"
        )


def run(
    port: int, request: Request, *, connections: int, seconds: float, core: int = LOAD_CORE
) -> Load:
    """Make load for `seconds` and return what came of it.

    Raises:
        WrongAnswerError: not every request was answered as it should be.
    """
    with tempfile.TemporaryDirectory() as place:
        lua = Path(place, "request.lua")
        lua.write_text(script(request))
        command = [
            program("wrk"), "--threads", "1", "--connections", str(connections),
            "--duration", f"{max(1, round(seconds))}s", "--timeout", "10s", "--script", str(lua),
            f"http://{HOST}:{port}{request.path}",
        ]  # fmt: skip
        done = subprocess.run(pinned(command, core), capture_output=True, text=True, check=False)
    load = parse(done.stdout + done.stderr)
    check(load, refused=request.refused)
    return load
