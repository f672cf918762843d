"""The head of an answer: as an instance sent it, and as a client gets it."""

from collections.abc import Iterable
from functools import cached_property
from http import HTTPStatus
from typing import Final

from services.router.framing import Answer, Header, header_lines, read_answer
from services.router.tracing import REQUEST_NAME

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, "").encode("ascii"))
    for status in range(200, 600)
}


class AnswerHead:
    """The head of an instance's answer. What it comes to is worked out once, when asked for."""

    def __init__(self, status: int, headers: list[Header]) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case."""
        self.raw = b""
        """As it came, once it is known."""
        self.end = 0
        """Where it ends in what came, once it is known."""
        self.size = 0
        """Of the whole answer, once it is known."""

    @cached_property
    def answer(self) -> Answer:
        """What goes to the client. ValueError if it must not be passed on."""
        return read_answer(self.status, self.headers)

    @cached_property
    def length(self) -> int:
        """How long the body is, -1 if that is not announced. ValueError as for `answer`."""
        return -1 if self.answer.length is None else self.answer.length

    @cached_property
    def front(self) -> bytes:
        """The lines of the client's head that are the same in every such answer."""
        return front(self.status, self.answer.headers)


def front(status: int, headers: Iterable[Header]) -> bytes:
    """Return status line and headers as complete lines. `status` is 200 to 599."""
    return _STATUS_LINES[status] + header_lines(headers)


def answer_head(
    begin: bytes, common: bytes, request_id: bytes, *, chunked: bool, close: bool
) -> bytes:
    """Return the head of an answer to a client, with its end.

    Args:
        begin: its `front`.
        common: the lines that stand in every answer.
        request_id: of the request that it is for.
        chunked: the body comes in chunks.
        close: the connection's last answer.
    """
    end = b"connection: close\r\n" if close else b""
    if chunked:
        end += b"transfer-encoding: chunked\r\n"
    return b"".join((begin, common, REQUEST_NAME, request_id, b"\r\n", end, b"\r\n"))
