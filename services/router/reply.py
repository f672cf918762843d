"""The answer to one request, framed as its client understands it (RFC 9112, section 6.3)."""

# ruff: noqa: N818 - the name says what happened; a suffix would add nothing

from services.router.answer import AnswerHead, answer_head, front
from services.router.client import Client
from services.router.framing import chunk
from services.router.limits import HTTP10_BYTES
from services.router.problems import Problem, encode
from services.router.request import Request


class TooLong(Exception):
    """The client must be told the length in advance, and so much is not held."""


class Reply:
    """An answer on its way to the client. It is begun at most once."""

    def __init__(
        self, client: Client, request: Request, request_id: bytes, head: AnswerHead, *, close: bool
    ) -> None:
        """Take where it goes, what it answers, its head, and whether the connection ends with it.

        Raises:
            ValueError: it must not be passed on.
        """
        answer = head.answer
        self.status = answer.status
        self._client = client
        self._request_id = request_id
        self._front = head.front
        self._close = close
        self._bodiless = request.method == "HEAD" or answer.status in (204, 304)
        self._chunked = answer.length is None and not self._bodiless
        self._withheld: list[bytes] | None = None
        """What waits for its length, for a client that knows no chunks."""
        self._head = b""
        """Not yet written: it goes with the first of the body."""
        self.begun = True
        """The client has some of it, or will have."""
        if self._chunked and request.version == "1.0":
            self._withheld = []
            self.begun = False
        else:
            self._set_head()

    def put(self, data: bytes, *, ended: bool) -> bool:
        """Pass on what came of the body; return whether more may follow at once.

        Raises:
            TooLong: nothing of the answer was written, nor will be.
        """
        if self._withheld is not None:
            return self._withhold(self._withheld, data, ended=ended)
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = chunk(data) if data else b""
            if ended:
                data += chunk(b"")
        if self._head:
            data, self._head = self._head + data, b""
        return self._client.write(data)

    def _set_head(self) -> None:
        self._head = answer_head(
            self._front,
            self._client.common_lines(),
            self._request_id,
            chunked=self._chunked,
            close=self._close,
        )

    def _withhold(self, pieces: list[bytes], data: bytes, *, ended: bool) -> bool:
        """Keep what came until all is here and its length is known."""
        pieces.append(data)
        size = sum(map(len, pieces))
        if size > HTTP10_BYTES:
            raise TooLong
        if not ended:
            return True
        self.begun = True
        self._chunked = False
        self._front += b"content-length: %d\r\n" % size
        self._set_head()
        return self._client.write(self._head + b"".join(pieces))


def write_problem(
    client: Client, request: Request, request_id: bytes, problem: Problem, *, close: bool
) -> None:
    """Answer `problem`, whole."""
    headers, body = encode(problem, request_id.decode("ascii"))
    kept = [header for header in headers if header[0] not in (b"x-request-id", b"connection")]
    head = answer_head(
        front(problem.status, kept),
        client.common_lines(),
        request_id,
        chunked=False,
        close=close,
    )
    client.write(head if request.method == "HEAD" else head + body)
