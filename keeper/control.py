"""Which control calls a keeper obeys. Pure: bytes and claims in, decisions out.

A call is obeyed if its signature is right, it names this process (keeper id
and boot nonce), its term is not below the highest one seen, and its counter was
not used before in that term. Calls may arrive out of order, so counters are
checked with a sliding window (as IPsec does, RFC 4303, 3.4.3); a higher term
starts a new window.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import httptools
import msgspec

from schemas.control import KeeperProblem, Problem
from schemas.signing import SIGNATURE_HEADER, SIGNED_HEADER, Claims, control_text

MAX_HEAD_BYTES: Final = 16 * 1024
WINDOW: Final = 1024
"""How far behind the highest counter a late call may come."""

HTTP_STATUS: Final[dict[KeeperProblem, int]] = {
    "bad-request": 400,
    "unsigned": 401,
    "stale-term": 403,
    "replay": 403,
    "no-such-instance": 404,
    "timeout": 408,
    "busy": 409,
    "too-large": 413,
    "bad-artifact": 422,
    "artifact-missing": 424,
    "internal": 500,
    "full": 507,
}
"""The status that goes with each problem; the body is `schemas.control.Problem`."""

Verify = Callable[[bytes, bytes], bool]
"""Tells whether a signature (first) by the scheduler covers a text (second)."""


class RefusedError(Exception):
    """A control call is not obeyed."""

    def __init__(self, problem: KeeperProblem, message: str) -> None:
        self.problem = problem
        super().__init__(message)

    @property
    def response(self) -> bytes:
        """The HTTP response that says so."""
        return response(HTTP_STATUS[self.problem], Problem(self.problem, str(self)))


class ControlCall(msgspec.Struct, frozen=True):
    """The head of a control call."""

    method: str
    path: str
    content_length: int
    expects_continue: bool
    claims: Claims | None
    signature: bytes


class Window(msgspec.Struct, frozen=True):
    """The counters used so far: bit i of `seen` stands for `highest` - i."""

    term: int = 0
    highest: int = -1
    seen: int = 0


class _HeadReader:
    """Collects what httptools reads from a head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.headers:
            raise ValueError(f"header {name!r} is given twice")
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(head: bytes) -> ControlCall:
    """Return what `head`, which ends with its empty line, says.

    Raises:
        RefusedError: it is no head of a control call.
    """
    reader = _HeadReader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise RefusedError("bad-request", f"this is no HTTP/1.1 request: {error}") from error
    if not reader.complete:
        raise RefusedError("bad-request", "the request's head is not complete")
    headers = reader.headers
    if b"transfer-encoding" in headers:
        raise RefusedError("bad-request", "a control call states its length: no chunks here")
    claims = None
    signature = b""
    if signed := headers.get(SIGNED_HEADER.encode()):
        try:
            claims = msgspec.json.decode(signed, type=Claims)
            signature = bytes.fromhex(headers.get(SIGNATURE_HEADER.encode(), b"").decode("ascii"))
        except (msgspec.DecodeError, ValueError) as error:
            raise RefusedError("unsigned", f"the signature cannot be read: {error}") from error
    return ControlCall(
        method=parser.get_method().decode("ascii"),
        path=reader.url.decode("latin-1"),
        content_length=int(headers.get(b"content-length", b"0")),
        expects_continue=headers.get(b"expect", b"").lower() == b"100-continue",
        claims=claims,
        signature=signature,
    )


def response(status: int, body: msgspec.Struct) -> bytes:
    """Return a whole HTTP response with `body` as JSON; the connection ends with it."""
    payload = msgspec.json.encode(body)
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(payload)}\r\nconnection: close\r\n\r\n"
    ).encode() + payload


def authenticate(call: ControlCall, keeper: str, boot: str, verify: Verify) -> Claims:
    """Return the claims of `call` if they are signed and meant for this process.

    Raises:
        RefusedError: unsigned, wrongly signed, or for another process.
    """
    claims = call.claims
    if claims is None:
        raise RefusedError("unsigned", f"{call.method} {call.path} must be signed")
    if not verify(call.signature, control_text(call.method, call.path, claims)):
        raise RefusedError("unsigned", "the signature is not the scheduler's")
    if (claims.keeper, claims.boot) != (keeper, boot):
        raise RefusedError("unsigned", "the call is meant for another keeper process")
    return claims


def admit(window: Window, term: int, counter: int) -> Window:
    """Return the window after a call of `term` with `counter`.

    Raises:
        RefusedError: the term is over, or the counter was used or is too old to know.
    """
    if term < window.term:
        raise RefusedError("stale-term", f"term {term} is over; {window.term} has begun")
    if counter < 0:
        raise RefusedError("replay", "counters begin at 0")
    if term > window.term:
        window = Window(term)
    behind = window.highest - counter
    if behind >= WINDOW:
        raise RefusedError("replay", f"counter {counter} is too far behind {window.highest}")
    if behind < 0:
        # Capped before the shift: a counter may jump by any number.
        kept = window.seen << -behind if -behind < WINDOW else 0
        return Window(term, counter, (kept | 1) & ((1 << WINDOW) - 1))
    if window.seen >> behind & 1:
        raise RefusedError("replay", f"counter {counter} was used before")
    return Window(term, window.highest, window.seen | 1 << behind)
