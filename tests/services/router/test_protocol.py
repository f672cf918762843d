"""The client's side: framing that could be smuggled, heads without end, clients without hurry."""

import asyncio

import pytest

from tests.services.router.clients import eventually
from tests.services.router.gate import Gate, MakeGate
from tests.services.router.instances import Call

GET = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"
SMUGGLED = b"GET /f/smuggled HTTP/1.1\r\nhost: a\r\n\r\n"


def statuses(raw: bytes) -> list[int]:
    return [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]


CORPUS = {
    "CL.TE": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.CL": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "CL.CL": b"content-length: 0\r\ncontent-length: 44\r\n\r\n",
    "CL.CL same": b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "CL list": b"content-length: 0, 44\r\n\r\n",
    "CL sign": b"content-length: +0\r\n\r\n",
    "CL hex": b"content-length: 0x0\r\n\r\n",
    "CL underscore": b"content-length: 0_0\r\n\r\n",
    "CL empty": b"content-length:\r\n\r\n",
    "CL huge": b"content-length: 99999999999999999999999\r\n\r\n",
    "TE space": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE tab": b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "TE x": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE list": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE twice": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "TE after": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE fold": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "fold": b"x: a\r\n content-length: 44\r\n\r\n",
    "bare LF": b"x: a\ncontent-length: 44\r\n\r\n",
    "bare CR": b"x: a\rcontent-length: 44\r\n\r\n",
    "NUL": b"x: a\x00\r\n\r\n",
    "no name": b": a\r\n\r\n",
    "no colon": b"x\r\n\r\n",
    "two hosts": b"host: b\r\n\r\n",
    "chunk size space": b"transfer-encoding: chunked\r\n\r\n0 \r\n\r\n",
    "chunk size sign": b"transfer-encoding: chunked\r\n\r\n+0\r\n\r\n",
    "chunk size 0x": b"transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "chunk size huge": b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    "chunk LF": b"transfer-encoding: chunked\r\n\r\n0\n\n",
    "chunk no CRLF": b"transfer-encoding: chunked\r\n\r\n1\r\nxx0\r\n\r\n",
    "upgrade with body": b"connection: upgrade\r\nupgrade: x\r\ncontent-length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("name", CORPUS)
async def test_a_request_that_hides_another_is_refused_and_the_other_never_runs(
    gate: Gate, name: str
) -> None:
    instance = await gate.instance()
    raw = await gate.raw(b"POST /f HTTP/1.1\r\nhost: a\r\n" + CORPUS[name] + SMUGGLED)
    assert len(statuses(raw)) == 1
    assert statuses(raw)[0] in (400, 501)
    assert b"application/problem+json" in raw
    assert [c.target for c in instance.calls if "smuggled" in c.target] == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /f HTTP/2.0", 505),
        (b"GET /f HTTP/1.2", 400),
        (b"GET /f", 505),
        (b"FOO /f HTTP/1.1", 400),
        (b"CONNECT a:80 HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET f HTTP/1.1", 400),
        (b"GET ftp://a/f HTTP/1.1", 400),
        (b"GET http://u:p@a/f HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
async def test_a_request_line_that_is_not_served_here_is_refused(
    gate: Gate, line: bytes, status: int
) -> None:
    raw = await gate.raw(line + b"\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert statuses(raw) in ([status], [501])


async def test_a_target_in_absolute_form_overrides_the_host(gate: Gate) -> None:
    gate.route("f", "/only", host="good.example")
    instance = await gate.instance()
    raw = await gate.raw(
        b"GET http://Good.example:80/only?x HTTP/1.1\r\nhost: bad\r\nconnection: close\r\n\r\n"
    )
    assert statuses(raw) == [200]
    assert instance.calls[0].header["host"] == "Good.example:80"
    assert instance.calls[0].target == "/only?x"


async def test_an_offer_to_upgrade_is_ignored_and_the_connection_then_closed(gate: Gate) -> None:
    instance = await gate.instance()
    raw = await gate.raw(
        b"GET /f HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQ\r\n\r\n" + SMUGGLED
    )
    assert statuses(raw) == [200]
    assert "upgrade" not in instance.calls[0].header
    assert len(instance.calls) == 1


async def test_a_bad_request_behind_a_good_one_does_not_spoil_its_answer(gate: Gate) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> None:
        reached.set()
        await go.wait()
        await call.answer(b"good")

    await gate.instance(handler)
    peer = await gate.client()
    await peer.send(GET + b"BAD\r\n\r\n")
    await reached.wait()
    go.set()
    response = await peer.response()
    assert (response.status, response.body) == (200, b"good")
    assert await peer.at_end() == b""
    peer.close()


async def test_a_body_that_breaks_its_framing_is_400_and_the_call_is_dropped(gate: Gate) -> None:
    dropped = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.peer.at_end()
        dropped.set()

    instance = await gate.instance(handler)
    peer = await gate.client()
    head = b"POST /f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    await peer.send(head + b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
    async with asyncio.timeout(30):
        await eventually(lambda: bool(instance.calls))
        await peer.send(b"zz\r\n")
        assert (await peer.response()).status == 400
        await dropped.wait()
        assert await peer.at_end() == b""
    peer.close()
    await eventually(gate.quiet)


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_above_the_limit_is_431(make_gate: MakeGate, pieces: int) -> None:
    gate = await make_gate(head_bytes=4096)
    peer = await gate.client()
    head = b"GET /f HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 8000 + b"\r\n\r\n"
    step = len(head) // pieces
    for at in range(0, len(head), step):
        await peer.send(head[at : at + step])
    assert (await peer.response()).status == 431
    peer.close()


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"0\r\nx: a\r\ny", b"1;"])
async def test_trailers_and_chunk_extensions_without_end_are_431(
    make_gate: MakeGate, endless: bytes
) -> None:
    gate = await make_gate(head_bytes=4096)
    gate.function()
    peer = await gate.client()
    head = b"POST /f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    await peer.send(head + b"1\r\na\r\n" + endless)
    response = asyncio.create_task(peer.response())
    async with asyncio.timeout(30):
        while not response.done():
            await peer.send(b"a" * 1000)
            await asyncio.sleep(0)
    assert (await response).status == 431
    peer.close()
    await eventually(gate.quiet)


async def test_what_breaks_a_request_that_has_its_answer_gets_no_second_one(gate: Gate) -> None:
    peer = await gate.client()
    await peer.send(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    assert (await peer.response()).status == 404
    await peer.send(b"zz\r\n")
    assert await peer.at_end() == b""
    peer.close()


async def test_bad_requests_leave_no_line_each_in_the_log(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    assert statuses(await gate.raw(b"\x16\x03\x01\r\n\r\n")) == [400]
    assert caplog.records == []


async def test_more_headers_than_a_keeper_takes_are_431(gate: Gate) -> None:
    lines = b"".join(b"x%d: 1\r\n" % i for i in range(101))
    assert statuses(await gate.raw(GET[:-2] + lines + b"\r\n")) == [431]


async def test_a_head_that_does_not_come_in_time_is_408(make_gate: MakeGate) -> None:
    gate = await make_gate(head_s=0.1)
    assert statuses(await gate.raw(b"GET /f HTTP/1.1\r\nhost: a\r\n")) == [408]


async def test_a_connection_that_asks_nothing_is_closed(make_gate: MakeGate) -> None:
    gate = await make_gate(head_s=0.1, keep_alive_s=0.1)
    gate.function()
    await gate.instance()
    assert await gate.raw(b"") == b""
    assert await gate.raw(b"\r\n") == b""
    raw = await gate.raw(GET)
    assert statuses(raw) == [200]
    peer = await gate.client()
    await peer.send(GET)
    await peer.response()
    await peer.send(b"\r\n")
    async with asyncio.timeout(30):
        assert await peer.at_end() == b""
    peer.close()


async def test_a_long_call_outlasts_the_bounds_on_idle_connections(make_gate: MakeGate) -> None:
    gate = await make_gate(head_s=0.1, keep_alive_s=0.1)
    gate.function()

    async def handler(call: Call) -> None:
        await asyncio.sleep(0.3)
        await call.answer(b"late")

    await gate.instance(handler)
    peer = await gate.client()
    # The beginning of the next request is no reason to cut the answer of this one.
    await peer.send(GET + b"GET /f")
    assert (await peer.response()).body == b"late"
    assert statuses(await peer.at_end()) == [408]
    peer.close()


async def test_one_connection_too_many_is_503(make_gate: MakeGate) -> None:
    gate = await make_gate(max_connections=2)
    gate.function()
    await gate.instance()
    peers = [await gate.client() for _ in range(2)]
    for peer in peers:
        await peer.send(GET)
        await peer.response()
    third = await gate.client()
    response = await third.response()
    assert response.status == 503
    assert response.headers["retry-after"] == "1"
    for peer in (*peers, third):
        peer.close()
