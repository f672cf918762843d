"""What independent parsers make of HTTP/1.1: h11, which shares no line with llhttp, and llhttp."""

from typing import NamedTuple

import h11
import httptools

Headers = list[tuple[bytes, bytes]]
_MOST = 1 << 21
"""Longer than any head here: h11 is to say how it reads, not how much."""


class Parsed(NamedTuple):
    """A request as one parser reads it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


class Response(NamedTuple):
    """An answer as h11 reads it."""

    status: int
    headers: Headers
    body: bytes
    complete: bool
    rest: bytes
    """What follows it."""


def requests(raw: bytes) -> list[Parsed]:
    """Return the whole requests that h11 reads at the beginning of a connection's bytes."""
    found: list[Parsed] = []
    while True:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
        # Empty lines before a request are no request (RFC 9112, section 2.2).
        connection.receive_data(raw.lstrip(b"\r\n"))
        body = b""
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                return found
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                return found
        except h11.ProtocolError:
            return found
        found.append(Parsed(request.method, request.target, list(request.headers), body))
        if connection.our_state is h11.MUST_CLOSE:
            return found
        raw = connection.trailing_data[0]


def response(raw: bytes, method: bytes, *, ended: bool) -> Response | None:
    """Return the final answer that h11 reads in `raw`; None if it reads none.

    Args:
        raw: all that came.
        method: of the request.
        ended: the connection ended behind it.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST)
    target = b"a:1" if method == b"CONNECT" else b"/"
    connection.send(h11.Request(method=method, target=target, headers=[(b"host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    if ended:
        connection.receive_data(b"")
    try:
        head = connection.next_event()
        while isinstance(head, h11.InformationalResponse):
            head = connection.next_event()
    except h11.ProtocolError:
        return None
    if not isinstance(head, h11.Response):
        return None
    body = b""
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.ProtocolError:
        return Response(head.status_code, list(head.headers), body, False, b"")
    whole = isinstance(event, h11.EndOfMessage)
    rest = connection.trailing_data[0]
    return Response(head.status_code, list(head.headers), body, whole, rest)


class Llhttp:
    """Reads requests with llhttp as they come."""

    def __init__(self) -> None:
        self.done: list[Parsed] = []
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def feed(self, data: bytes) -> None:
        """Read on. httptools.HttpParserError if that is no HTTP."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body, self._headers, self._whole = b"", b"", Headers(), False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._whole:
            # llhttp leaves the spaces that may stand behind a value.
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._whole = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        self.done.append(Parsed(method, self._url, self._headers, self._body))
