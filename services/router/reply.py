"""The answer to one request, framed as its client understands it (RFC 9112, section 6.3)."""

# ruff: noqa: N818 - the name says what happened; a suffix would add nothing

from services.router.answer import answer_head
from services.router.framing import Answer, Header, chunk
from services.router.limits import HTTP10_BYTES
from services.router.problems import Problem, encode
from services.router.request import Client, Request


class TooLong(Exception):
    """The client must be told the length in advance, and so much is not held."""


class Reply:
    """An answer on its way to the client. It is begun at most once."""

    def __init__(self, client: Client, request: Request) -> None:
        self.status = 0
        """0 until some of the answer was written."""
        self._client = client
        self._request = request
        self._head = b""
        """Not yet written: the head goes with the first of the body."""
        self._bodiless = False
        self._chunked = False
        self._withheld: tuple[Answer, list[bytes], bool] | None = None
        """What waits for its length, for a client that knows no chunks."""

    def begin(self, answer: Answer, *, close: bool) -> None:
        """Take an instance's answer; `close` tells the client that it is the connection's last."""
        request = self._request
        self._bodiless = request.method == "HEAD" or answer.status in (204, 304)
        self._chunked = answer.length is None and not self._bodiless
        if self._chunked and request.version == "1.0":
            self._withheld = (answer, [], close)
        else:
            self._set_head(answer.status, answer.headers, close=close)

    def put(self, data: bytes, *, ended: bool) -> bool:
        """Pass on what came of the body; return whether more may follow at once.

        Raises:
            TooLong: nothing of the answer was written, nor will be.
        """
        if self._withheld is not None:
            return self._withhold(*self._withheld, data, ended=ended)
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = chunk(data) if data else b""
            if ended:
                data += chunk(b"")
        if self._head:
            data, self._head = self._head + data, b""
        return self._client.write(data)

    def problem(self, problem: Problem, *, close: bool) -> None:
        """Answer `problem`, instead of anything that was withheld."""
        self._withheld = None
        self._chunked = False
        headers, body = encode(problem, self._request.trace.request_id)
        head = answer_head(
            problem.status,
            [*self._client.common_headers(), *headers],
            chunked=False,
            close=close and not problem.close,
        )
        self.status = problem.status
        self._client.write(head if self._request.method == "HEAD" else head + body)

    def _set_head(self, status: int, headers: list[Header], *, close: bool) -> None:
        self.status = status
        request_id = (b"x-request-id", self._request.trace.request_id.encode("ascii"))
        self._head = answer_head(
            status,
            [*self._client.common_headers(), *headers, request_id],
            chunked=self._chunked,
            close=close,
        )

    def _withhold(
        self, answer: Answer, pieces: list[bytes], close: bool, data: bytes, *, ended: bool
    ) -> bool:
        """Keep what came until all is here and its length is known."""
        pieces.append(data)
        size = sum(map(len, pieces))
        if size > HTTP10_BYTES:
            raise TooLong
        if not ended:
            return True
        self._chunked = False
        length = (b"content-length", b"%d" % size)
        self._set_head(answer.status, [*answer.headers, length], close=close)
        return self._client.write(self._head + b"".join(pieces))
