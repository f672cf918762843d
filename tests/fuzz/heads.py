"""Targets: what is decided from a request's head, each function by itself."""

# ruff: noqa: PT017 - a target is no test: an error is an answer that has to be right, too

import re
from urllib.parse import unquote, urlsplit

from services.router.asynchronous.identity import (
    KEY_BYTES,
    BadKey,
    idempotency_key,
    kept,
    name_of,
    prefers_async,
)
from services.router.framing import (
    BadRequest,
    Forwarding,
    read_request,
    request_head,
    with_token,
)
from services.router.origin import absolute_form
from services.router.paths import BadPath, decode_path, host_name
from services.router.table import Match, Route, Table, WrongMethod
from services.router.tracing import read_trace
from tests.fuzz.parsers import Llhttp, requests
from tests.fuzz.tape import Tape, headers_of

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REQUEST = re.compile(rb"[!-~]{1,128}")
_REST = re.compile(rb"\r\n(?:traceparent: [0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\r\n)?")


def framing(data: bytes) -> None:
    """What the router takes of a head, h11 takes with the same end, and so is what it forwards."""
    tape = Tape(data)
    method = tape.pick(_METHODS)
    version = tape.pick(("1.1", "1.0"))
    trusted = tape.flag()
    headers = headers_of(tape.text())
    try:
        incoming = read_request(version, headers)
    except BadRequest as bad:
        assert bad.status in (400, 417, 501, 505)
        return
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    sent = b"%b /f?x HTTP/%b\r\n%b\r\n" % (method.encode(), version.encode(), lines)
    body = _body(incoming.length)
    if body is None:
        return
    read = requests(sent + body + b"rest")
    assert len(read) == 1, (headers, incoming)
    assert len(read[0].body) == (1 if incoming.length == "chunked" else incoming.length)
    trace = read_trace(headers)
    forwarding = Forwarding(trace.request_id, trace.traceparent, "::1", "http", trusted)
    head = request_head(method, b"/f?x", incoming, headers, forwarding, ())
    forwarded = with_token(head, "t") + body
    [mine] = requests(forwarded)
    assert (mine.method, mine.target, mine.body) == (method.encode(), b"/f?x", read[0].body)
    llhttp = Llhttp()
    llhttp.feed(forwarded)
    assert llhttp.done == [mine]
    names = [name for name, _ in mine.headers]
    assert [n for n in names if n.replace(b"_", b"-").startswith(b"x-wasmfn-")] == [
        b"x-wasmfn-instance"
    ]
    for name in (b"host", b"x-request-id", b"via", b"x-forwarded-for"):
        assert names.count(name) == 1
    assert names.count(b"traceparent") <= 1
    if not trusted:
        assert dict(mine.headers)[b"x-forwarded-for"] == b"::1"


def _body(length: object) -> bytes | None:
    if length == "chunked":
        return b"1\r\nx\r\n0\r\n\r\n"
    assert isinstance(length, int)
    return b"x" * length if length < 10_000 else None


def paths(data: bytes) -> None:
    """A path is refused, or is decoded once, without anything that could be read twice."""
    raw = data.decode("latin-1")
    try:
        path = decode_path(raw)
    except BadPath as bad:
        assert len(str(bad)) < 200
        return
    assert path == unquote(raw, errors="strict")
    assert path.startswith("/")
    assert path.count("/") == raw.count("/"), "a slash came out of an escape"
    assert not {".", ".."} & set(path.split("/"))
    assert not re.search(r"[\x00-\x1f\x7f\\]", path)


def table(data: bytes) -> None:
    """A table that was changed in place finds what a new one finds, and only what matches."""
    tape = Tape(data)
    changes = [(tape.number(8), tape.flag()) for _ in range(tape.number(12))]
    method = tape.pick(_METHODS)
    path, *patterns = tape.text().decode("latin-1").split("\n")
    patterns = [p for p in patterns if p.startswith("/")][:8]
    if not patterns or not path.startswith("/"):
        return
    changed, routes = Table(), {}
    for number, put in changes:
        pattern = patterns[number % len(patterns)]
        name = str(number % len(patterns))
        if put:
            route = routes[name] = _route(name, pattern, number)
            changed.put(route)
        elif name in routes:
            del routes[name]
            changed.remove(("default", name))
        changed.match("", method, path)
    fresh = Table()
    for route in routes.values():
        fresh.put(route)
    found = changed.match("", method, path)
    assert found == fresh.match("", method, path)
    assert len(changed) == len(routes)
    if isinstance(found, Match):
        assert _fits(found, path)
        assert method in found.route.methods or method == "HEAD"
    elif isinstance(found, WrongMethod):
        assert method not in found.allowed


def _route(name: str, pattern: str, number: int) -> Route:
    parameters = tuple(s[1:-1] for s in pattern.split("/") if s.startswith("{"))
    is_prefix = number % 2 == 0 and not parameters
    return Route(
        "default", name, number, ("default", "f"),
        pattern.rstrip("/") if is_prefix else pattern, is_prefix,
        ("GET", "POST") if number % 3 else ("POST",), "", parameters,
    )  # fmt: skip


def _fits(found: Match, path: str) -> bool:
    route = found.route
    if route.is_prefix:
        return path == route.pattern or path.startswith(route.pattern + "/")
    values = iter(found.values)
    return path == "/".join(
        next(values) if part.startswith("{") else part for part in route.pattern.split("/")
    )


def target(data: bytes) -> None:
    """A target in absolute form names the host that Python's own reading of URLs names."""
    found = absolute_form(data)
    if found is None:
        return
    host, path = found
    assert path.startswith(b"/"), (data, found)
    assert not re.search(rb"[\x00-\x20\x7f]", path) or re.search(rb"[\x00-\x20\x7f]", data)
    # Before they get here, bytes outside ASCII and blanks were refused by llhttp.
    if re.fullmatch(rb"[!-~]+", data) and b"\\" not in data:
        try:
            meant = urlsplit(data.decode("ascii"))
            wanted = meant.hostname
        except ValueError:
            return
        try:
            read_request("1.1", [(b"host", host)])
        except BadRequest:
            return
        assert host_name(host.decode("ascii")).strip("[]") == (wanted or "").rstrip("."), data


def ids(data: bytes) -> None:
    """Whatever ids a client sends, one well-formed line of each goes on."""
    trace = read_trace(headers_of(data))
    assert _REQUEST.fullmatch(trace.request), trace
    assert _REST.fullmatch(trace.rest), trace
    assert "0" * 32 not in trace.traceparent


def preferences(data: bytes) -> None:
    """An idempotency key is refused or visible ASCII; what is kept holds no credentials."""
    headers = headers_of(data)
    asked = [v for n, v in headers if n == b"prefer"]
    if prefers_async(headers):
        assert any(b"respond-async" in value.lower() for value in asked)
    elif b"respond-async" in asked:
        raise AssertionError(headers)
    names = {name for name, _ in kept(headers)}
    assert not names & {"authorization", "cookie", "proxy-authorization", "prefer"}
    try:
        key = idempotency_key(headers)
    except BadKey:
        return
    if key is not None:
        assert 1 <= len(key) <= KEY_BYTES
        assert re.fullmatch(rb"[ -~]+", key)
        assert re.fullmatch(r"[0-9a-f]{32}", name_of("ns", "f", "http ", key))
        assert name_of("ns", "f", "http ", key) == name_of("ns", "f", "http ", key)
