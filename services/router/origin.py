"""Where the requests of one client connection come from, as instances are told."""

from collections.abc import Sequence

import httptools

from services.router.framing import Header, Network, is_trusted, origin_lines


class Origin:
    """The peer of a connection, and whether it is believed what it says of others."""

    def __init__(self, address: str, scheme: str, trusted: Sequence[Network]) -> None:
        self._address = address
        self._scheme = scheme
        self._trusted = is_trusted(address, trusted)
        """It is a proxy whose X-Forwarded-* are believed."""
        self._host = b""
        self._lines = b""
        """What was said for the host that was asked for last."""

    def lines(self, host: bytes, chained: dict[bytes, list[bytes]]) -> bytes:
        """Return the header lines that tell an instance where the request came from."""
        if not chained and self._host == host and self._lines:
            return self._lines
        believed = chained if self._trusted else {}
        via = chained.get(b"via", ())
        lines = origin_lines(self._address, self._scheme, host, believed, via)
        if not chained:
            self._host, self._lines = host, lines
        return lines


def absolute_form(target: bytes) -> tuple[bytes, bytes] | None:
    """Return host and path of a target in absolute form, None if it is none (RFC 9112, 3.2.2)."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return None
    if url.schema not in (b"http", b"https") or not url.host or url.userinfo:
        return None
    name = b"[%b]" % url.host if b":" in url.host else url.host
    host = name if url.port is None else b"%b:%d" % (name, url.port)
    return host, (url.path or b"/") + (b"?" + url.query if url.query else b"")


def announces_body(headers: Sequence[Header]) -> bool:
    """Return whether a request's headers, by themselves, say that a body follows."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in headers
    )
