"""Target: the whole connection of a router to an instance, in any bytes, cut anywhere.

The connection and its service are the keeper's own. In the place of a sandbox
is a runner that answers with the number of the run and what it got.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from keeper.answer import Invocation, Program
from keeper.budget import Budget
from keeper.call import Outcome
from keeper.loop import Loop
from keeper.scoreboard import Scoreboards
from keeper.server import Connection
from keeper.service import Service, Serving
from tests.fuzz.parsers import requests, response
from tests.fuzz.tape import Tape
from tests.fuzz.wire import LENIENT, TOKEN, RecordingTransport

BODY_BYTES: Final = 10_000
_ID: Final = re.compile(rb"(?<=\r\nx-request-id: )[0-9a-zA-Z]+(?=\r\n)")
_loop: Final = Loop()
_board: Final = Scoreboards(1).at(0)
_share: Final = Budget(0, 1).share(0, 1)


class RecordingRunner:
    """In the place of a sandbox: keeps what is to be run, and answers by CGI."""

    def __init__(self) -> None:
        self.runs: list[tuple[bytes, bytes]] = []
        """Method and body of each."""

    def run(self, invocation: Invocation, done: Callable[[Outcome], None]) -> None:
        variables = invocation.variables or {}
        self.runs.append((variables[b"REQUEST_METHOD"], invocation.stdin))
        assert not any(name.startswith(b"HTTP_X_WASMFN_") for name in variables)
        said = b"content-type: a/b\n\nrun %d\n" % len(self.runs) + invocation.stdin
        _loop.call_soon(done, Outcome(0, None, said, b"", 0.1))


def keeper(data: bytes) -> None:
    """What ran is what was meant, carried the token, and has one answer.

    It is played cut, in one piece, and in one piece again with other ids, when
    heads may be known: each time the same must run.
    """
    tape = Tape(data)
    slow = tape.number(8)
    pieces = tape.pieces()
    raw = b"".join(pieces)
    runner = RecordingRunner()
    service = Service(
        Serving(Program("wagi", [b"f"], {}), TOKEN.encode(), 4, BODY_BYTES),
        runner,  # type: ignore[arg-type]  # it stands in for the keeper's
        _board, _share, _loop, lambda *_: None,
    )  # fmt: skip
    ran = []
    for way in (pieces, [raw], [_ID.sub(lambda id_: id_[0][::-1], raw)]):
        runner.runs = []
        _play(service, runner, way, slow if way is pieces else 0)
        ran.append(runner.runs)
    # What a client does not read in time, or sends behind what is broken, may end the first early.
    both = min(map(len, ran))
    assert ran[0][:both] == ran[1][:both]
    assert ran[1] == ran[2]


def _play(service: Service, runner: RecordingRunner, pieces: Sequence[bytes], slow: int) -> None:
    raw = b"".join(pieces)
    connection = Connection(service)
    transport = RecordingTransport(connection, lambda data: None, _loop.call_soon)
    connection.connection_made(transport)
    for number, piece in enumerate(pieces):
        if transport.closing or transport.paused:
            break
        if number % 8 == slow - 1:
            connection.pause_writing()
        connection.data_received(piece)
        _settle()
        if number % 8 == slow - 1:
            connection.resume_writing()
            _settle()
        assert service.buffered <= BODY_BYTES + 65536
    assert transport.closing or not transport.paused, "reading was never resumed"
    # An answer to HEAD cannot be told from one that is cut off, nor what follows it.
    if b"HEAD" not in raw:
        told = _answers(bytes(transport.written), raw)
        assert told == [b"run %d" % (n + 1) for n in range(len(runner.runs))]
    if not LENIENT.search(raw):
        wanted = iter(
            (r.method, r.body) for r in requests(raw)
            if (b"x-wasmfn-instance", TOKEN.encode()) in r.headers
        )  # fmt: skip
        for run in runner.runs:
            assert any(run == one for one in wanted), (run, raw)
    transport.close()
    _settle()
    assert not service.connections
    assert service.buffered == 0
    assert service.stalled == 0


def _answers(got: bytes, raw: bytes) -> list[bytes]:
    """Return which runs were answered, in order; each answer must be whole."""
    told = []
    while got:
        if got.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            got = got.partition(b"\r\n\r\n")[2]
            continue
        answer = response(got, b"GET", ended=False)
        assert answer is not None, (got, raw)
        assert answer.complete, (got, raw)
        if answer.status == 200 and (run := re.match(rb"run [0-9]+", answer.body)):
            told.append(run[0])
        got = answer.rest if answer.complete else b""
    return told


def _settle() -> None:
    for _ in range(40):
        _loop.call_soon(lambda: None)  # so that it does not wait
        _loop.turn()
