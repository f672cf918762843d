"""The CORS protocol: what a browser is told about who may read an answer.

CORS protects the users of browsers, not the route: a request from an origin
that is not allowed is served like any other, and its answer lacks the headers
without which the browser withholds it. Only the preflight is answered here.

Source: Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from collections.abc import Sequence

from schemas.access import Cors

Headers = list[tuple[bytes, bytes]]

ANY = "*"


def is_preflight(method: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether a browser asks if it may make another request."""
    if method != "OPTIONS":
        return False
    names = {name for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names


def asked_method(method: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the method that a browser's preflight asks about; empty if it is none."""
    if not is_preflight(method, headers):
        return ""
    wanted = (value for name, value in headers if name == b"access-control-request-method")
    return next(wanted).decode("latin-1")


def origin_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the page's origin, if a browser sent one."""
    return next((value for name, value in headers if name == b"origin"), None)


def preflight_headers(cors: Cors, methods: Sequence[str], origin: bytes) -> Headers:
    """Return the headers of the answer to a preflight; no more than `vary` refuses it."""
    allowed = _allow(cors, origin)
    if not allowed:
        return [(b"vary", b"origin")]
    return [
        *allowed,
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-allow-headers", ", ".join(cors.headers).encode()),
        (b"access-control-max-age", b"%d" % cors.max_age_s),
    ]


def answer_headers(cors: Cors, origin: bytes | None) -> Headers:
    """Return what is added to the answer of a request from `origin`."""
    allowed = _allow(cors, origin) if origin is not None else []
    if not allowed:
        # A cache must not give one page's answer to another.
        return [] if cors.origins == (ANY,) else [(b"vary", b"origin")]
    if cors.expose:
        allowed.append((b"access-control-expose-headers", ", ".join(cors.expose).encode()))
    return allowed


def is_ours(name: bytes) -> bool:
    """Return whether an answer's header is replaced, since the route says what holds."""
    return name.startswith(b"access-control-")


def _allow(cors: Cors, origin: bytes) -> Headers:
    if ANY in cors.origins:
        return [(b"access-control-allow-origin", b"*")]
    if origin.decode("latin-1") not in cors.origins:
        return []
    headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
    if cors.credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers
