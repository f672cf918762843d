"""The head of an answer, as a client gets it."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from services.router.framing import Header

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b" % (status, _PHRASES.get(status, "").encode("ascii"))
    for status in range(200, 600)
}


def answer_head(status: int, headers: Iterable[Header], *, chunked: bool, close: bool) -> bytes:
    """Return the head of an answer, complete with its end. `status` is 200 to 599."""
    lines = [_STATUS_LINES[status]]
    lines += [b": ".join(header) for header in headers]
    if close:
        lines.append(b"connection: close")
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
