"""What an invocation knows of its request besides the verdict, and wants of its connection."""

from typing import Protocol

import msgspec


class Request(msgspec.Struct):
    """A request whose head is read, as far as every answer needs it."""

    method: str
    version: str
    """"1.0" or "1.1"."""
    keep_alive: bool
    """The connection may serve another request."""


class Client(Protocol):
    """The connection that a request came on. Its body comes by callbacks."""

    def write(self, data: bytes) -> bool:
        """Send `data`, and return whether more may follow at once."""

    def common_lines(self) -> bytes:
        """Return the header lines that stand in every answer."""

    def origin_lines(self, host: bytes, chained: dict[bytes, list[bytes]]) -> bytes:
        """Return the header lines that tell an instance where the request came from."""

    def expect_body(self, within_s: float) -> None:
        """Read the body, and tell the invocation if nothing comes of it for so long."""

    def pause_body(self) -> None:
        """Read nothing more of the body for now."""

    def on_answered(self, keep_alive: bool) -> None:
        """Take note that the answer is complete: the next request's turn has come."""

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
