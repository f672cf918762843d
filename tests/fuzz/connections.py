"""Targets: whole connections of clients and of instances, in any bytes, cut anywhere."""

import re
from collections.abc import Sequence

from tests.fuzz.parsers import Response, response
from tests.fuzz.tape import Tape
from tests.fuzz.wire import LENIENT, Peer, Stage, failures, loop, meant, settle

_REASON = re.compile(rb"(HTTP/1\.[01] [0-9]{3})[^\r\n]*")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9][0-9]")


def client(data: bytes) -> None:
    """Play a client's bytes twice, cut and in one piece, the second time with known heads."""
    tape = Tape(data)
    slow = tape.number(8)
    fast = not tape.flag()
    pieces = tape.pieces()
    loop.run_until_complete(_client(pieces, slow, fast=fast))


async def _client(pieces: Sequence[bytes], slow: int, *, fast: bool) -> None:
    stage = Stage(fast=fast)
    raw = b"".join(pieces)
    wanted = meant(raw)
    peers = []
    ran = []
    for way in (pieces, [raw]):
        before = len(stage.calls)
        peer = stage.connect()
        peers.append(peer)
        for number, piece in enumerate(way):
            if not await peer.send(piece, slow=number % 8 == slow - 1):
                break
        await settle()
        failures.check()
        assert peer.transport.closing or not peer.transport.paused, "reading was never resumed"
        calls = [(c.method, c.target, c.body) for c in stage.calls[before:]]
        if not LENIENT.search(raw):
            _check_order(calls, wanted)
        _check_answers(peer, [b"run %d\n" % (before + n + 1) for n in range(len(calls))])
        ran.append(calls)
    await stage.close(*peers)
    # What breaks off while earlier requests are not answered takes later ones with it.
    both = min(map(len, ran))
    assert ran[0][:both] == ran[1][:both]


def _check_order(calls: Sequence[object], wanted: Sequence[object]) -> None:
    """Check that what ran is what was meant, in order, though some may have been refused."""
    rest = iter(wanted)
    for call in calls:
        assert any(call == one for one in rest), (call, wanted)


def _check_answers(peer: Peer, runs: list[bytes]) -> None:
    """Check that what came is answers one behind the other, and each run's once."""
    raw = peer.received
    methods = [*peer.connection.methods, peer.connection.refused]
    told = []
    while raw:
        if raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            raw = raw.partition(b"\r\n\r\n")[2]
            continue
        assert methods, raw
        method = methods.pop(0)
        answer = response(raw, b"GET" if method == b"CONNECT" else method, ended=False)
        assert answer is not None, raw
        assert answer.complete or peer.transport.aborted, raw
        assert not (answer.status == 500 and b"the router failed" in answer.body), raw
        if answer.body.startswith(b"run "):
            told.append(answer.body.partition(b"\n")[0] + b"\n")
        elif answer.status == 200 and method == b"HEAD":
            told.append(runs[len(told)])
        raw = answer.rest if answer.complete else b""
    # An answer may be lost with its connection, but none comes twice or to another request.
    assert told == [run for run in runs if run in told]


_ASKED = (
    b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n",
    b"HEAD /f HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /f HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi",
    b"GET /f HTTP/1.0\r\nhost: a\r\n\r\n",
)


def instance(data: bytes) -> None:
    """Play an instance's answer to a request, and see what the next request gets."""
    tape = Tape(data)
    asked = tape.pick(_ASKED)
    ends = tape.flag()
    slow = tape.flag()
    fast = not tape.flag()
    pieces = tape.pieces()
    loop.run_until_complete(_instance(asked, pieces, ends=ends, slow=slow, fast=fast))


async def _instance(
    asked: bytes, pieces: list[bytes], *, ends: bool, slow: bool, fast: bool
) -> None:
    stage = Stage(fast=fast)
    stage.script, stage.ends = list(pieces), ends
    raw = b"".join(pieces)
    method = asked.partition(b" ")[0]
    peers = [stage.connect()]
    await peers[0].send(asked, slow=slow)
    await settle()
    received = peers[0].received
    assert len(received) <= 2 * len(raw) + 2000
    if received and len(stage.calls) == 1 and raw:
        told = response(received, method, ended=peers[0].transport.closing)
        assert told is not None, received
        if not (told.status in (502, 503, 505) and b"application/problem+json" in received):
            _check_passed_on(told, response(_plain(raw), method, ended=ends), received, raw)
    if stage.pool.idle():
        # Its connection is taken for sound: then nothing of the first answer may be left.
        peers.append(stage.connect())
        await peers[1].send(b"POST /f HTTP/1.1\r\nhost: b\r\ncontent-length: 4\r\n\r\nmine")
        await settle()
        mine = response(peers[1].received, b"POST", ended=False)
        assert mine is not None, raw
        assert (mine.status, mine.body) == (200, b"run %d\nmine" % len(stage.calls)), (mine, raw)
        assert mine.rest == b""
    await stage.close(*peers)


def _check_passed_on(told: Response, sent: Response | None, received: bytes, raw: bytes) -> None:
    """Check that the client was told what the instance said."""
    assert told.rest == b"", received
    assert sent is not None, (received, raw)
    assert told.status == sent.status, (received, raw)
    if told.complete:
        assert told.body == sent.body, (received, raw)
    else:
        assert sent.body.startswith(told.body), (received, raw)
    names = [name for name, _ in told.headers]
    assert not {b"x-wasmfn-instance", b"x-wasmfn-reason", b"keep-alive", b"upgrade"} & set(names)
    assert names.count(b"x-request-id") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1


def _plain(raw: bytes) -> bytes:
    """Return an instance's answer without what it says for people, of which nothing goes on."""
    heads = b""
    # llhttp passes over empty lines before an answer.
    raw = raw.lstrip(b"\r\n")
    while _INTERIM.match(raw):
        head, end, raw = raw.partition(b"\r\n\r\n")
        raw = raw.lstrip(b"\r\n")
        heads += _REASON.sub(rb"\1 x", head, count=1) + end
    return heads + (_REASON.sub(rb"\1 x", raw, count=1) if _REASON.match(raw) else raw)
