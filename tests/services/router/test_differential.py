"""Both ways through the data port answer alike: by callbacks, and by the ASGI application.

Each example is one connection's bytes, cut anywhere. It is played to two routers
that differ only in the way that plain invocations take. What the client sees,
what the instance sees, what is counted and what is left must be the same.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.router.bounded import ClientLimits
from services.router.limits import Limits
from tests.services.router.clients import eventually
from tests.services.router.gate import Gate
from tests.services.router.instances import Call

BODY_LIMIT = 150_000
HELD = 70_000
"""More than is held of a body: such a one is sent on as it comes."""

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Sent(NamedTuple):
    """One request, told briefly."""

    head: str
    """Its lines."""
    size: int = 0
    """Of its body."""
    step: int = 0
    """Of the chunks that the body comes in, 0 for none."""

    @property
    def method(self) -> str:
        return self.head.partition(" ")[0]

    @property
    def raw(self) -> bytes:
        body = b"b" * self.size
        if self.step:
            pieces = [body[at : at + self.step] for at in range(0, self.size, self.step)]
            chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body = b"".join(chunks) + b"0\r\n\r\n"
        return self.head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


RAW = {
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nx: y\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\nx-one: 1\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    "own421": b"HTTP/1.1 421 Misdirected Request\r\ncontent-length: 4\r\n\r\nmine",
    "long": b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000,
    "eof": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
    "half": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
    "twice": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n",
    "hop": b"HTTP/1.1 299 Odd\r\nconnection: x-mine\r\nx-mine: 1\r\nkeep-alive: 3\r\n"
    b"set-cookie: a\r\nset-cookie: b\r\ncontent-length: 2\r\n\r\nok",
}
"""What an instance answers, by the last segment of the path; else what it was sent."""


async def behave(call: Call) -> None:
    """Answer as the path says."""
    way = call.target.partition("?")[0].rpartition("/")[2]
    if way == "early":
        await call.answer(b"" if call.method == "HEAD" else b"early", "403 Forbidden")
        await call.read_body()
        return
    if call.header.get("expect") == "100-continue":
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
    await call.read_body()
    call.header["read"] = "whole"
    if way == "reset":
        call.reset()
    elif way == "draining" or (
        way == "busy" and sum(c.target == call.target for c in call.instance.calls) == 1
    ):
        await call.misdirected(way)
    elif way in RAW:
        head, _, body = RAW[way].partition(b"\r\n\r\n")
        await call.send(head + b"\r\n\r\n" + (b"" if call.method == "HEAD" else body))
        if way in ("eof", "half"):
            call.peer.writer.write_eof()
    else:
        await call.answer(b"" if call.method == "HEAD" else call.body)


# What is sent.

TARGETS = (
    "/f/echo", "/f/echo", "/f/echo", "/f/chunked", "/f/204", "/f/304", "/f/busy",
    "/f/own421", "/f/early", "/f/eof", "/f/long", "/f/hop", "/f", "/f/a%20b?x=1&y", "/f/x#part",
    "/users/a%2Bb", "/nothing", "/orphan", "/f/%2e%2e/x", "/f/%zz", "//f", "/.wasmfn/x",
    "http://a/f/echo?q", "http://other.example/only",
)  # fmt: skip
LAST = ("/f/draining", "/f/reset", "/f/garbage", "/f/half", "/f/twice")
HEADERS = (
    "connection: keep-alive", "x-custom: 1", "x-wasmfn-instance: evil", "X_Wasmfn_Param_Id: evil",
    "via: 1.0 fred", "x-forwarded-for: 6.6.6.6", "te: trailers", "connection: x-custom",
    "proxy: evil", "accept: */*", "content-type: text/plain", f"traceparent: {TRACE}",
    "x-request-id: mine", "x-request-id: not\tsane", "expect: 100-continue", "expect: much",
    "prefer: respond-async", "Cookie: a=b", "cookie: c=d", "x-empty:",
)  # fmt: skip
FATAL = (
    "content-length: 4\ntransfer-encoding: chunked", "content-length: +1", "host: second",
    "transfer-encoding: gzip, chunked", "bad header", "upgrade: x\nconnection: upgrade",
    "connection: close",
)  # fmt: skip
methods = st.sampled_from(("GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"))
bodies = st.sampled_from((None, 0, 1, 100, HELD, BODY_LIMIT, BODY_LIMIT + 1))


@st.composite
def requests(draw: st.DrawFn, *, last: bool, alone: bool = False) -> Sent:
    method = draw(methods)
    target = draw(st.sampled_from(TARGETS + LAST if last else TARGETS))
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=4, unique=True))
    version = draw(st.sampled_from(("1.1", "1.1", "1.0"))) if last else "1.1"
    if alone:
        # Behind another one it is told, or just gets the close: a matter of time.
        lines += draw(st.lists(st.sampled_from(FATAL), max_size=1))
    if last:
        lines.append("connection: close")
    size = draw(bodies)
    step = 0
    if size is not None and draw(st.booleans()) and version == "1.1":
        lines.append("transfer-encoding: chunked")
        step = draw(st.sampled_from((7, 4096, 100_000))) if size < HELD else 100_000
    elif size is not None:
        lines.append(f"content-length: {size}")
    return Sent(
        "\n".join((f"{method} {target} HTTP/{version}", "host: a", *lines)), size or 0, step
    )


@st.composite
def connections(draw: st.DrawFn) -> tuple[list[Sent], list[int]]:
    """Return the requests of a connection, and where its bytes are cut."""
    sent = []
    for one in draw(st.lists(requests(last=False), max_size=3)):
        sent += [one] * draw(st.sampled_from((1, 1, 3)))
    sent.append(draw(requests(last=True, alone=not sent)))
    size = sum(len(one.raw) for one in sent)
    cuts = draw(st.lists(st.integers(1, max(1, size - 1)), max_size=6))
    if draw(st.booleans()):
        # As a client does that waits for nothing but sends whole requests.
        cuts = [sum(len(one.raw) for one in sent[:n]) for n in range(1, len(sent))]
    return sent, sorted(cuts)


# What comes of it.


class Got(NamedTuple):
    """All there is to compare. Sequences, so that a difference is easy to read."""

    answers: list[object]
    calls: list[object]
    counts: list[object]


def dechunk(raw: bytes) -> tuple[bytes, bytes, bool]:
    """Return a chunked body, what follows it, and whether it is whole."""
    body = b""
    while True:
        size, found, raw = raw.partition(b"\r\n")
        if not found or len(raw) < int(size, 16) + 2:
            return body, b"", False
        length = int(size, 16)
        body, raw = body + raw[:length], raw[length + 2 :]
        if not length:
            return body, raw, True


def answers_of(raw: bytes, sent: Sequence[Sent]) -> list[object]:
    """Return (status, headers, body, whole) of each answer in `raw`."""
    found: list[object] = []
    waiting = [one.method for one in sent]
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        headers = sorted(line for line in lines if not line.startswith(("date:", "x-request-id:")))
        if status == 100:
            # It may be left out once some of the body is here (RFC 9110, section 10.1.1).
            continue
        fields = dict(line.split(": ", 1) for line in headers if ": " in line)
        method = waiting.pop(0) if waiting else "GET"
        whole = bool(end)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "transfer-encoding" in fields:
            body, raw, whole = dechunk(raw)
        else:
            length = int(fields.get("content-length", 0))
            whole = whole and len(raw) >= length
            body, raw = raw[:length], raw[length:]
        body = re.sub(rb'"request_id":"[^"]*"', b"", body)
        headers = [line for line in headers if status < 400 or "content-length" not in line]
        # How much of a broken answer gets through is a matter of time.
        found.append((status, headers, body if whole else b"", whole))
    return found


def calls_of(gate: Gate) -> list[object]:
    """Return what the instance saw of each request that it got whole."""
    ours = ("x-request-id", "traceparent", "x-wasmfn-instance", "x-forwarded-host", "expect")
    return [
        (c.method, c.target, sorted(h for h in c.headers if h[0] not in ours), c.body)
        for instance in gate.instances
        for c in instance.calls
        if "read" in c.header
    ]


def counts_of(gate: Gate) -> list[object]:
    metrics = gate.metrics
    return [
        sorted((f.function, f.tally.classes) for f in gate.state.counted() if f.tally is not None),
        metrics.retries, metrics.cold_starts, metrics.overflows, metrics.truncated,
        metrics.clients_gone, sorted(metrics.ejections.items()),
        gate.quiet(),
    ]  # fmt: skip


async def play(sent: Sequence[Sent], cuts: Sequence[int], *, fast: bool) -> Got:
    gate = Gate(Limits(park_s=0.2, grace_s=30.0), ClientLimits(), (16, 64), fast=fast)
    await gate.start()
    try:
        gate.function(body_bytes=BODY_LIMIT, timeout_s=30.0)
        gate.route("f", "/users/{id}")
        gate.route("f", "/only", host="other.example")
        gate.route("nobody", "/orphan")
        await gate.instance(behave)
        peer = await gate.client()
        raw = b"".join(one.raw for one in sent)
        reading = asyncio.create_task(peer.at_end())
        try:
            for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                await peer.send(raw[start:end])
                for _ in range(4):
                    # Time for the router to take this piece before the next one comes.
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
        async with asyncio.timeout(60):
            received = await reading
        peer.close()
        await eventually(lambda: not gate.server_state.connections)
        await eventually(gate.quiet)
        return Got(answers_of(received, sent), calls_of(gate), counts_of(gate))
    finally:
        await gate.close()


POST = Sent("POST /f/echo HTTP/1.1\nhost: a\ncontent-length: 1", 1)
HEAD = Sent("HEAD /f/long HTTP/1.1\nhost: a")
CLOSING = Sent("GET /f/echo HTTP/1.1\nhost: a\nconnection: close")


@settings(max_examples=60)
@given(connections())
@example(([POST, POST, POST, CLOSING], []))
@example(([HEAD, HEAD, CLOSING], []))
def test_both_ways_answer_alike(connection: tuple[list[Sent], list[int]]) -> None:
    async def both() -> tuple[Got, Got]:
        return (
            await play(*connection, fast=True),
            await play(*connection, fast=False),
        )

    fast, slow = asyncio.run(both())
    assert fast == slow
