"""One request on a connection to a child, from its first byte to its answer."""

from typing import Final

from keeper.answer import Answer, Header, Headers
from schemas.control import INSTANCE_HEADER

_TOKEN: Final = INSTANCE_HEADER.encode()


class Exchange:
    """One request on a connection, from its first byte to its answer."""

    __slots__ = (
        "accept", "body", "codings", "complete", "expects", "expects_more", "head_bytes",
        "headers", "hosts", "keep_alive", "length", "method", "refused", "request_id", "size",
        "target", "token", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = self.version = ""
        self.target = b""
        self.hosts = self.length = 0
        self.codings: list[bytes] = []
        self.headers: Headers = []
        self.head_bytes = 0
        self.body: list[bytes] = []
        self.size = 0
        self.token = self.accept = self.request_id = b""
        self.expects = self.expects_more = False
        self.complete = False
        self.keep_alive = False
        self.refused: Answer | None = None

    def take(self, name: bytes, value: bytes) -> None:
        """Take a header, whose name is in lower case. llhttp has checked its syntax."""
        self.head_bytes += len(name) + len(value)
        self.headers.append((name, value))
        if name == _TOKEN:
            self.token = value
        elif name == b"accept":
            self.accept = value
        elif name == b"x-request-id":
            self.request_id = value
        elif name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            self.length = int(value)
        elif name == b"transfer-encoding":
            self.codings.append(value)
        elif name == b"expect":
            self.expects = value.lower() == b"100-continue"
            self.expects_more = self.expects_more or not self.expects

    def again(self, request_id: Header | None, place: int, body: bytes) -> "Exchange":
        """Return another request that has come whole, with the same head but for its id.

        Args:
            request_id: the header, None if there is none.
            place: where it stands among the headers.
            body: the request's.
        """
        other = Exchange()
        other.method, other.version, other.target = self.method, self.version, self.target
        other.hosts, other.length, other.head_bytes = self.hosts, self.length, self.head_bytes
        other.token, other.accept, other.headers = self.token, self.accept, self.headers
        if request_id is not None:
            other.request_id = request_id[1]
            other.headers = self.headers.copy()
            other.headers[place] = request_id
        other.body.append(body)
        other.complete = other.keep_alive = True
        return other

    def doubt(self, *, upgrade: bool) -> str:
        """Return why this may not be taken for a request, or an empty string.

        It is what llhttp lets through though another server could read it otherwise.

        Args:
            upgrade: llhttp takes what follows the head for another protocol, and reads no body.
        """
        if self.version not in ("1.1", "1.0"):
            return "the version is unknown"
        if self.hosts > 1 or (not self.hosts and self.version == "1.1"):
            return "send exactly one Host header"
        if self.codings and (
            self.version == "1.0" or [c.strip().lower() for c in self.codings] != [b"chunked"]
        ):
            return "the only transfer coding is a single `chunked`, of HTTP/1.1"
        if upgrade and self.method != "CONNECT" and (self.codings or self.length):
            return "no other protocol is spoken here; send a body without Upgrade"
        return ""
