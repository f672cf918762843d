"""What a correct HTTP/1.1 intermediary passes on, and what it refuses (RFC 9110, RFC 9112).

A request whose end two parsers could see at different places is the door to
request smuggling, so conflicting or unknown framing is refused and never
repaired. llhttp in its strict mode refuses most of it before this module sees
it; the rules stand here too, because they must hold whatever parses.

Header names are lower-case bytes, in the order they came in.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from schemas.control import INSTANCE_HEADER, PARAMETER_HEADER_PREFIX, REASON_HEADER

Header = tuple[bytes, bytes]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
_REWRITTEN: Final = frozenset(
    {
        b"content-length",
        b"expect",
        b"host",
        b"forwarded",
        b"x-request-id",
        b"traceparent",
        # A CGI program would see it as HTTP_PROXY (CVE-2016-5385).
        b"proxy",
    }
)
_CHAINED: Final = frozenset({b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
_END_TO_END: Final = frozenset({b"host", b"content-length", b"content-type", b"authorization"})
"""Never dropped because a Connection header lists them: that would be an attack."""
_OURS: Final = b"x-wasmfn-"
_INSTANCE: Final = INSTANCE_HEADER.encode("ascii")
_REASON: Final = REASON_HEADER.encode("ascii")
_PARAMETER: Final = PARAMETER_HEADER_PREFIX.encode("ascii")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?\Z")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}\Z")

PSEUDONYM: Final = b"wasmfn"
"""Our name in Via."""


class BadRequest(ValueError):
    """A request that cannot be served as it is framed. The message is for the client."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(detail)


Length = int | Literal["chunked"]
"""How a request's body ends: after so many bytes, or with its last chunk."""


class Incoming(msgspec.Struct, frozen=True):
    """What the framing of a request says."""

    host: bytes
    length: Length
    expects_continue: bool


def read_request(version: str, headers: Iterable[Header]) -> Incoming:
    """Return how a request is framed.

    Args:
        version: "1.0" or "1.1".
        headers: names in lower case.

    Raises:
        BadRequest: 400 for conflicts, 417 and 501 for what we do not do, 505 for the version.
    """
    if version not in ("1.0", "1.1"):
        raise BadRequest(505, "speak HTTP/1.1")
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    expects = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"expect":
            if value.strip().lower() != b"100-continue":
                raise BadRequest(417, "the only expectation we meet is 100-continue")
            expects = version == "1.1"
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest(400, "send exactly one Host header")
    host = hosts[0].strip() if hosts else b""
    if host and not _HOST.match(host):
        raise BadRequest(400, "the Host header is not a host and port")
    return Incoming(host, _request_length(version, lengths, codings), expects)


def _request_length(version: str, lengths: list[bytes], codings: list[bytes]) -> Length:
    if codings:
        if lengths:
            raise BadRequest(400, "send Content-Length or Transfer-Encoding, not both")
        if version == "1.0":
            raise BadRequest(400, "HTTP/1.0 knows no Transfer-Encoding; send Content-Length")
        if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise BadRequest(501, "the only transfer coding we take is a single `chunked`")
        return "chunked"
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
        raise BadRequest(400, "send one Content-Length, in decimal digits")
    return int(lengths[0])


class Forwarding(msgspec.Struct, frozen=True):
    """What the router adds to a request on its way to an instance."""

    request_id: str
    traceparent: str
    client: str
    """The peer's address."""
    scheme: str
    trusted: bool
    """The peer is a proxy whose X-Forwarded-* are believed and added to."""


class Outgoing(NamedTuple):
    """What of a request's head goes on to an instance, as far as only the head says it."""

    front: bytes
    """Complete lines."""
    chained: dict[bytes, list[bytes]]
    """Via and X-Forwarded-*, to which the router adds."""


def outgoing(method: str, target: bytes, incoming: Incoming, headers: Sequence[Header]) -> Outgoing:
    """Return the head of a request without what was meant for this hop.

    Nothing of `x-wasmfn-*` that a client sent goes through.
    """
    listed = connection_options(headers)
    chained: dict[bytes, list[bytes]] = {}
    out = [b"%b %b HTTP/1.1\r\nhost: %b" % (method.encode("ascii"), target, incoming.host)]
    announced = False
    for header in headers:
        name = header[0]
        if name in _CHAINED:
            chained.setdefault(name, []).append(header[1])
        elif name in _REWRITTEN:
            announced = announced or name == b"content-length"
        elif name not in _HOP_BY_HOP and name not in listed and not _reserved(name):
            out.append(b": ".join(header))
    if incoming.length == "chunked":
        out.append(b"transfer-encoding: chunked")
    elif incoming.length or announced or method not in ("GET", "HEAD"):
        out.append(b"content-length: %d" % incoming.length)
    out.append(b"")
    return Outgoing(b"\r\n".join(out), chained)


def origin_lines(
    address: str,
    scheme: str,
    host: bytes,
    believed: Mapping[bytes, list[bytes]],
    via: Sequence[bytes],
) -> bytes:
    """Return the lines that say where a request came from.

    Args:
        address: of the peer.
        scheme: that the peer used.
        host: the request's.
        believed: what the peer said of where it came from, if it is a trusted proxy.
        via: what it said of the way.
    """
    scheme_text = believed.get(b"x-forwarded-proto", [scheme.encode("ascii")])[0]
    return (
        b"via: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n"
        % (
            b", ".join((*via, b"1.1 " + PSEUDONYM)),
            b", ".join((*believed.get(b"x-forwarded-for", ()), address.encode("ascii", "replace"))),
            scheme_text,
            believed.get(b"x-forwarded-host", [host])[0],
        )
    )


def id_lines(request_id: str, traceparent: str) -> bytes:
    """Return the lines that tie a request to its answer; `traceparent` may be empty."""
    parent = f"traceparent: {traceparent}\r\n" if traceparent else ""
    return f"x-request-id: {request_id}\r\n{parent}".encode("ascii")


def request_head(
    method: str,
    target: bytes,
    incoming: Incoming,
    headers: Sequence[Header],
    forwarding: Forwarding,
    parameters: Iterable[Header],
) -> bytes:
    """Return the head of the request as it goes to an instance, without token and end.

    Complete it with `with_token`: the head is the same for every attempt, the
    token is not.
    """
    front, chained = outgoing(method, target, incoming, headers)
    return b"".join(
        (
            front,
            origin_lines(
                forwarding.client,
                forwarding.scheme,
                incoming.host,
                chained if forwarding.trusted else {},
                chained.get(b"via", ()),
            ),
            id_lines(forwarding.request_id, forwarding.traceparent),
            header_lines(parameters),
        )
    )


def with_token(head: bytes, token: str, *, ask: bool = False) -> bytes:
    """Return a complete request head for the instance that `token` names.

    An empty token is not sent. With `ask` the instance says whether it takes the
    request before the body is sent.
    """
    if ask:
        head += b"expect: 100-continue\r\n"
    if not token:
        return head + b"\r\n"
    return b"".join((head, _INSTANCE, b": ", token.encode("ascii"), b"\r\n\r\n"))


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body; no data makes the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def parameter_headers(names: Sequence[str], values: Sequence[str]) -> list[Header]:
    """Return a route's parameters as headers, names and values percent-encoded UTF-8."""
    return [
        (_PARAMETER + quote(name).encode("ascii"), quote(value, safe="").encode("ascii"))
        for name, value in zip(names, values, strict=True)
    ]


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return headers as complete lines."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def connection_options(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the header names that Connection lists as meant for this hop only."""
    options = [
        option.strip().lower()
        for name, value in headers
        if name == b"connection"
        for option in value.split(b",")
    ]
    return frozenset(options) - _END_TO_END if options else frozenset()


def _reserved(name: bytes) -> bool:
    """Whether a header is ours alone. CGI reads underscores as dashes, so they count as such."""
    return name[:1] == b"x" and name.replace(b"_", b"-").startswith(_OURS)


class Answer(msgspec.Struct, frozen=True):
    """The head of an instance's answer as the client gets it."""

    status: int
    headers: list[Header]
    length: int | None
    """Content-Length, None if it is not known in advance."""
    reason: bytes
    """`x-wasmfn-reason` of a 421, else empty."""


def read_answer(status: int, headers: Sequence[Header]) -> Answer:
    """Return an instance's answer without what was meant for this hop.

    Raises:
        ValueError: it is not an answer that may be passed on, such as an upgrade.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"status {status}")
    listed = connection_options(headers)
    out: list[Header] = []
    length = _answer_length(headers)
    reason = b""
    for name, value in headers:
        if name == _REASON:
            reason = value
        elif not (
            name in _HOP_BY_HOP or name in listed or name in (b"date", b"x-request-id", _INSTANCE)
        ):
            out.append((name, value))
    if status in (204, 304):
        # Must not be there in a 204, may be left out of a 304 (RFC 9110, section 8.6).
        out = [header for header in out if header[0] != b"content-length"]
        length = 0
    return Answer(status, out, length, reason if status == 421 else b"")


def _answer_length(headers: Sequence[Header]) -> int | None:
    """Return how long an answer's body is, or None if that is not announced.

    Raises:
        ValueError: two readers of it might find two different ends.
    """
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    # Nobody here undoes another coding, and that there was one is not passed on.
    if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise ValueError("the body is framed by more than a single `chunked`")
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
        raise ValueError("conflicting Content-Length")
    return int(lengths[0])


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks that `texts` (CIDR) name. ValueError names the one that is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Return whether the peer is one of the trusted proxies."""
    if not trusted:
        return False
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in trusted)
