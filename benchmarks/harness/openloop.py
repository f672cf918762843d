"""Open-loop load: requests leave at fixed times, whether or not the ones before were answered.

    python -P -m benchmarks.harness.openloop PORT RATE SECONDS --path /f --body '{}'

Latency counts from the moment that a request was due, not from when it was
sent. So a server that stalls is charged for every request that it delayed,
which a closed loop leaves out (coordinated omission).

Its limits: one asyncio process, some 5,000 requests a second on a core of its
own, and a connection for every request in flight. How late it sent is reported
as `late_ms`; a run that sent late is refused by `check`, for then it was the
generator that was measured.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import cast

import httptools
import msgspec
import uvloop

from benchmarks.harness.processes import HOST, PYTHON, ROOT, pinned
from benchmarks.harness.result import WrongAnswerError
from benchmarks.harness.statistics import percentile

LATE_MS = 50.0
"""The 99th percentile of how late requests may have been sent."""
_LINGER_S = 90.0
_CONNECTIONS = 8192


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """What came of one request. `status` 0: no answer."""

    status: int
    latency_ms: float
    """From when it was due to the last byte of its answer."""
    late_ms: float
    """From when it was due until it was sent."""
    retry_after: bool
    """The answer says when to come back."""


def check(answers: Sequence[Answered], statuses: Sequence[int]) -> None:
    """Raise WrongAnswerError unless every request was sent in time and answered as expected."""
    if not answers:
        raise WrongAnswerError("no request was sent")
    wrong = [a.status for a in answers if a.status not in statuses]
    if wrong:
        found = ", ".join(f"{wrong.count(s)} x {s or 'no answer'}" for s in sorted(set(wrong)))
        raise WrongAnswerError(f"of {len(answers)} requests {len(wrong)} went wrong: {found}")
    late = percentile(sorted(a.late_ms for a in answers), 99)
    if late > LATE_MS:
        raise WrongAnswerError(
            f"the generator could not keep the rate: 1 % of the requests left {late:.0f} ms late"
        )


def run(
    port: int, rate: float, seconds: float, *, path: str, body: str = "", core: int | None = None
) -> list[Answered]:
    """Make load from a process of its own and return what came of each request, in order."""
    command = [
        *PYTHON, "-m", "benchmarks.harness.openloop", str(port), str(rate), str(seconds),
        "--path", path, "--body", body,
    ]  # fmt: skip
    done = subprocess.run(pinned(command, core), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=list[Answered])


class _Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request on it."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._due = self._sent = 0.0
        self._number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, number: int, due: float) -> None:
        self._number, self._due, self._sent = number, due, time.perf_counter()
        self._retry_after = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._retry_after = self._retry_after or name.lower() == b"retry-after"

    def on_message_complete(self) -> None:
        self._done(self._parser.get_status_code())
        if self._parser.should_keep_alive():
            self._load.idle.append(self)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._load.idle:
            self._load.idle.remove(self)
        self._load.open -= 1
        if self._number >= 0:
            self._done(0)

    def _done(self, status: int) -> None:
        now = time.perf_counter()
        self._load.answered(
            self._number,
            Answered(
                status,
                round((now - self._due) * 1e3, 3),
                round((self._sent - self._due) * 1e3, 3),
                self._retry_after,
            ),
        )
        self._number = -1


class _Load:
    """All requests of a run."""

    def __init__(self, port: int, request: bytes, count: int) -> None:
        self.request = request
        self.idle: list[_Connection] = []
        self.open = 0
        self.results: list[Answered | None] = [None] * count
        self._port = port
        self._left = count
        self._all = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()

    def answered(self, number: int, answer: Answered) -> None:
        self.results[number] = answer
        self._left -= 1
        if not self._left:
            self._all.set()

    def send(self, number: int, due: float) -> None:
        if self.idle:
            self.idle.pop().send(number, due)
            return
        task = asyncio.get_running_loop().create_task(self._open(number, due))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, number: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        if self.open >= _CONNECTIONS:
            self.answered(number, Answered(0, 0.0, 0.0, False))
            return
        self.open += 1
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), HOST, self._port
            )
        except OSError:
            self.open -= 1
            self.answered(number, Answered(0, 0.0, 0.0, False))
            return
        connection.send(number, due)

    async def offer(self, rate: float) -> None:
        begin = time.perf_counter() + 0.1
        for number in range(len(self.results)):
            due = begin + number / rate
            # Timers of the loop have whole milliseconds and may be early.
            while (early := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - time is the event
                await asyncio.sleep(early)
            self.send(number, due)
            if number % 16 == 0:
                await asyncio.sleep(0)  # when it is late, answers are still read
        await asyncio.wait_for(self._all.wait(), _LINGER_S)


async def _main(port: int, rate: float, seconds: float, path: str, body: bytes) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    load = _Load(port, head.encode() + body, max(1, round(rate * seconds)))
    await load.offer(rate)
    sys.stdout.buffer.write(msgspec.json.encode(load.results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--path", default="/")
    parser.add_argument("--body", default="")
    flags = parser.parse_args()
    uvloop.run(_main(flags.port, flags.rate, flags.seconds, flags.path, flags.body.encode()))
